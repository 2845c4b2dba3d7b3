//! `overlay status`.

use overlay_user::observe;

use super::{Common, output};

pub(super) async fn status(args: &Common) -> anyhow::Result<()> {
    let report = observe::status(&args.pins.pin_root).await?;
    if args.json {
        return output::json(&report);
    }
    let daemon = match (report.daemon, report.ready) {
        (Some(pid), true) => format!("running (pid {pid})"),
        (Some(pid), false) => format!("starting (pid {pid})"),
        (None, _) => "not running; the data path goes on as it is".to_owned(),
    };
    println!("daemon   {daemon}");
    println!("kernel   {}", report.kernel);
    println!("pins     {}", report.pin_root.display());
    match &report.underlay {
        Some(nic) => println!(
            "underlay {} {} {}, UDP {}, receive by {}",
            nic.device,
            nic.address,
            nic.mac,
            nic.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "),
            nic.rx
        ),
        None => println!("underlay not in use: this host takes part in no network"),
    }
    println!();
    let networks = report.networks.iter().map(|row| {
        [
            row.name.clone().unwrap_or_else(|| "-".to_owned()),
            row.vni.to_string(),
            row.mtu.to_string(),
            row.local.to_string(),
            row.remote.to_string(),
            row.tx.packets.to_string(),
            row.rx.packets.to_string(),
        ]
    });
    output::table(["NETWORK", ">VNI", ">MTU", ">LOCAL", ">REMOTE", ">FAST TX", ">FAST RX"], networks);
    println!();
    let vteps = report.vteps.iter().map(|row| {
        [
            row.address.to_string(),
            row.port.to_string(),
            row.device.clone().unwrap_or_else(|| "-".to_owned()),
            row.next_hop.clone().unwrap_or_else(|| "not resolved: left to the kernel".to_owned()),
            row.mtu.to_string(),
        ]
    });
    output::table(["VTEP", ">PORT", "DEVICE", "NEXT HOP", ">INNER MTU"], vteps);
    Ok(())
}
