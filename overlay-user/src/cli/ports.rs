//! `overlay ports`.

use overlay_user::observe;

use super::{Common, output};

pub(super) async fn ports(args: &Common) -> anyhow::Result<()> {
    let report = observe::ports(&args.pins.pin_root).await?;
    if args.json {
        return output::json(&report);
    }
    let rows = report.ports.iter().map(|row| {
        [
            output::inside(&row.device, row.sandbox.as_deref()),
            row.network.clone().unwrap_or_else(|| "-".to_owned()),
            row.vni.to_string(),
            row.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
            row.mac.clone(),
            if row.ip.is_unspecified() { "any".to_owned() } else { row.ip.to_string() },
            row.mtu.to_string(),
        ]
    });
    Ok(output::print(&output::table(["PORT", "NETWORK", ">VNI", "ENDPOINT", "MAC", "IP", ">MTU"], rows))?)
}
