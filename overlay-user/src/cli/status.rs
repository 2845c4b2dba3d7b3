//! `overlay status`.

mod network;
mod problems;
mod table;

use clap::Args;

use super::{
    UsageError, output,
    remote::{Observation, Remote},
};
use crate::api::types::{NetworkDetail, NetworkStatus, ProblemList, StatusReport};

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// Show one network in full: its name, its VNI, or for a network without a name its VXLAN device.
    #[arg(conflicts_with = "problems")]
    network: Option<String>,
    /// List only problems, one per line: `object: problem; remedy`.
    #[arg(long)]
    problems: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let Observation { snapshot, daemon_error } = args.remote.observe().await?;
    let report = snapshot.status();
    if let Some(wanted) = &args.network {
        let details = find(&report, wanted)?;
        return match details.as_slice() {
            [detail] if args.remote.json => output::json(detail),
            details if args.remote.json => output::json(&details),
            details => Ok(output::print(&details.iter().map(network::text).collect::<Vec<_>>().join("\n"))?),
        };
    }
    if args.problems {
        let problems = problems::all(&report, daemon_error.as_deref());
        if args.remote.json {
            return output::json(&ProblemList { problems });
        }
        return Ok(output::print(&problems::text(&problems))?);
    }
    if args.remote.json {
        return output::json(&report);
    }
    Ok(output::print(&table::text(&report, daemon_error.as_deref()))?)
}

/// The networks with this name, or without a name on this device; otherwise those with this VNI.
fn find(report: &StatusReport, wanted: &str) -> Result<Vec<NetworkDetail>, UsageError> {
    let select = |is_wanted: &dyn Fn(&NetworkStatus) -> bool| -> Vec<NetworkDetail> {
        report.networks.iter().filter(|network| is_wanted(network)).map(|network| detail(report, network)).collect()
    };
    let named = select(&|network| network.name.as_deref().unwrap_or(&network.device) == wanted);
    let found = match wanted.parse::<u32>() {
        Ok(vni) if named.is_empty() => select(&|network| network.vni == vni),
        _ => named,
    };
    if found.is_empty() {
        return Err(UsageError(format!(
            "network {wanted:?}: no network on this host has this name or VNI; list them with `overlay status`"
        )));
    }
    Ok(found)
}

fn detail(report: &StatusReport, network: &NetworkStatus) -> NetworkDetail {
    let is_of_network = |port: u16, address: &overlay_common::VtepAddr| {
        network.tx.is_some() && port == network.port && network.vteps.contains(address)
    };
    let next_hops = report.vteps.iter().filter(|vtep| is_of_network(vtep.port, &vtep.address)).cloned().collect();
    let unresolved = problems::of_vteps(report)
        .into_iter()
        .filter(|vtep| is_of_network(vtep.port, &vtep.address) && vtep.vni.is_none_or(|vni| vni == network.vni));
    NetworkDetail { network: network.clone(), next_hops, unresolved: unresolved.collect() }
}

/// State of a network: `accelerated`, or `kernel path` with the cause.
fn state(network: &NetworkStatus) -> String {
    use crate::api::types::NetworkState::{Accelerated, Kernel};
    match (network.state, &network.cause) {
        (Accelerated, _) => "accelerated".to_owned(),
        (Kernel, Some(cause)) => format!("kernel path: {cause}"),
        (Kernel, None) => "kernel path".to_owned(),
    }
}

#[cfg(test)]
mod tests;
