//! Output of the commands. Besides this module, only the log writes to standard output or standard error.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write as _},
    path::Path,
};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::{api::types::StoreReport, model::Finding};

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("standard output: cannot be written ({0}); free space, or redirect it")]
pub(super) struct OutputError(#[from] pub(super) io::Error);

impl OutputError {
    /// Whether the reader has closed the pipe (`| head -1`).
    pub(super) fn is_closed(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// Prints text.
pub(super) fn print(text: &str) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Prints help, or the version.
pub(super) fn help(text: &clap::Error) -> Result<(), OutputError> {
    text.print()?;
    Ok(io::stdout().flush()?)
}

/// Prints one JSON document.
pub(super) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    Ok(print(&(serde_json::to_string_pretty(document)? + "\n"))?)
}

/// The message of an error with its causes. A cause that a message quotes is not repeated.
pub(super) fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |message, cause| match message {
        message if message.is_empty() => cause,
        message if message.contains(&cause) => message,
        message => format!("{message}: {cause}"),
    })
}

/// Prints an error message. Where that fails, only the exit code reports the error.
pub(super) fn error(message: impl Display) {
    let _ = writeln!(io::stderr(), "overlay: {message}");
}

/// Prints problems of a successful command. Where that fails, `overlay status` shows them as well.
pub(super) fn warnings(findings: &[Finding]) {
    for finding in findings {
        let _ = writeln!(io::stderr(), "warning: {finding}");
    }
}

/// Rows under a heading; columns whose heading begins with `>` are aligned to the right.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
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
    table.trim_fmt() + "\n"
}

/// The age of a list, when the store cannot be reached.
pub(super) fn age(store: &StoreReport) -> String {
    if store.reachable {
        return String::new();
    }
    let error = store.error.as_deref().unwrap_or("unknown error");
    format!("\nthe store cannot be reached ({error}); this list is {} s old\n", store.age_ms / 1000)
}

/// An interface, with the file name of its network namespace unless that is the daemon's own.
pub(super) fn inside(device: &str, sandbox: Option<&Path>) -> String {
    match sandbox.and_then(Path::file_name) {
        Some(sandbox) => format!("{device} in {}", sandbox.to_string_lossy()),
        None => device.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn message_repeats_no_quoted_cause() {
        let cause = || std::io::Error::other("timed out");
        let quoted = anyhow::Error::new(cause()).context("no answer (timed out); restart the daemon");
        assert_eq!(super::message(&quoted), "no answer (timed out); restart the daemon");
        assert_eq!(super::message(&anyhow::Error::new(cause()).context("no answer")), "no answer: timed out");
    }
}
