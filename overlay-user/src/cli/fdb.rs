//! `overlay fdb`.

use super::{output, remote::Remote};

pub(super) async fn fdb(args: &Remote) -> anyhow::Result<()> {
    let report = args.observe().await?.snapshot.fdb();
    if args.json {
        return output::json(&report);
    }
    let rows = report.entries.iter().map(|row| {
        let location = match (&row.device, row.vtep) {
            (Some(device), _) => format!("port {}", output::inside(device, row.sandbox.as_deref())),
            (None, Some(vtep)) if row.resolved => format!("VTEP {vtep}"),
            (None, Some(vtep)) => format!("VTEP {vtep}, next hop unresolved (kernel path)"),
            (None, None) => "unknown (kernel path)".to_owned(),
        };
        let network = row.network.clone().unwrap_or_else(|| "-".to_owned());
        [row.vni.to_string(), network, row.mac.clone(), location]
    });
    Ok(output::print(&output::table([">VNI", "NETWORK", "MAC", "BEHIND"], rows))?)
}
