//! Text tables and JSON.

use std::{
    io::{self, Write as _},
    path::Path,
};

use comfy_table::{CellAlignment, Table, presets};
use overlay_user::api::StoreReport;
use serde::Serialize;

/// Prints one JSON document.
pub(super) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)?;
    writeln!(out)?;
    Ok(())
}

/// Prints rows under a heading; columns whose heading begins with `>` are aligned to the right.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(heading.map(|text| text.trim_start_matches('>')));
    for (index, text) in heading.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if text.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.add_rows(rows);
    // Not `println!`: a reader like `head` may have closed the pipe.
    let _ = writeln!(io::stdout(), "{}", table.trim_fmt());
}

/// Says how old a list is, when it is not the newest.
pub(super) fn age(store: &StoreReport) {
    if !store.reachable {
        let why = store.error.as_deref().unwrap_or("no reason is known");
        let _ = writeln!(
            io::stdout(),
            "\nthe store cannot be reached ({why}); this is what was known {} s ago",
            store.age_ms / 1000
        );
    }
}

/// An interface, with the file of its network namespace where that is not the daemon's own.
pub(super) fn inside(device: &str, sandbox: Option<&Path>) -> String {
    match sandbox.and_then(Path::file_name) {
        Some(sandbox) => format!("{device} in {}", sandbox.to_string_lossy()),
        None => device.to_owned(),
    }
}
