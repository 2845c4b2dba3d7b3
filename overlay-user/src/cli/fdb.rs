//! `overlay fdb`.

use overlay_user::observe;

use super::{Common, output};

pub(super) async fn fdb(args: &Common) -> anyhow::Result<()> {
    let report = observe::fdb(&args.pins.pin_root).await?;
    if args.json {
        return output::json(&report);
    }
    let rows = report.entries.iter().map(|row| {
        let place = match (&row.device, row.vtep) {
            (Some(device), _) => format!("port {}", output::inside(device, row.sandbox.as_deref())),
            (None, Some(vtep)) if row.resolved => format!("VTEP {vtep}"),
            (None, Some(vtep)) => format!("VTEP {vtep}, next hop not resolved: left to the kernel"),
            (None, None) => "nowhere: left to the kernel".to_owned(),
        };
        [row.vni.to_string(), row.mac.clone(), place]
    });
    Ok(output::print(&output::table([">VNI", "MAC", "BEHIND"], rows))?)
}
