//! `overlay ports`.

use super::{output, remote::Remote};

pub(super) async fn ports(args: &Remote) -> anyhow::Result<()> {
    let report = args.observe().await?.snapshot.ports();
    if args.json {
        return output::json(&report);
    }
    let rows = report.ports.iter().map(|row| {
        [
            output::inside(&row.device, row.sandbox.as_deref()),
            row.network.clone().unwrap_or_else(|| "-".to_owned()),
            row.vni.to_string(),
            row.endpoint.clone().or_else(|| row.container.clone()).unwrap_or_else(|| "-".to_owned()),
            row.mac.clone(),
            if row.ip.is_unspecified() { "any".to_owned() } else { row.ip.to_string() },
            row.mtu.to_string(),
        ]
    });
    Ok(output::print(&output::table(["PORT", "NETWORK", ">VNI", "ENDPOINT", "MAC", "IP", ">MTU"], rows))?)
}
