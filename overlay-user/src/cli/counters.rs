//! `overlay counters`.

use crate::api::types::Amount;

use super::{output, remote::Remote};

pub(super) async fn counters(args: &Remote) -> anyhow::Result<()> {
    let report = args.observe().await?.snapshot.counters();
    if args.json {
        return output::json(&report);
    }
    let rows = report.reasons.iter().filter(|row| row.amount.packets > 0).map(|row| {
        [
            row.verdict.to_owned(),
            row.reason.to_owned(),
            row.amount.packets.to_string(),
            row.amount.bytes.to_string(),
            row.help.to_owned(),
        ]
    });
    let reasons = output::table(["VERDICT", "REASON", ">PACKETS", ">BYTES", "MEANING"], rows);
    let traffic = |name: String, tx: Amount, rx: Amount| {
        [name, tx.packets.to_string(), tx.bytes.to_string(), rx.packets.to_string(), rx.bytes.to_string()]
    };
    let heading = |of| [of, ">TX PACKETS", ">TX BYTES", ">RX PACKETS", ">RX BYTES"];
    let networks = report.networks.iter().map(|row| {
        let name = row.name.as_ref().map_or_else(|| row.vni.to_string(), |name| format!("{name} ({})", row.vni));
        traffic(name, row.tx, row.rx)
    });
    let vteps = report.vteps.iter().map(|row| traffic(format!("{}:{}", row.address, row.port), row.tx, row.rx));
    let tables = [reasons, output::table(heading("NETWORK"), networks), output::table(heading("VTEP"), vteps)];
    Ok(output::print(&tables.join("\n"))?)
}
