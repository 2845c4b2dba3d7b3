//! `overlay endpoint`.

use std::{net::Ipv4Addr, path::PathBuf};

use clap::{Args, Subcommand};

use super::{output, remote::Remote};
use crate::{
    api::types::{EndpointAdd, EndpointList, EndpointReport, Removed, Request},
    sys::netns,
};

#[derive(Debug, Subcommand)]
pub(super) enum EndpointCommand {
    /// Create an interface in a container of this host and connect it to a network. Returns when the interface is
    /// ready.
    Add(AddArgs),
    /// List the endpoints of one network, or of all networks.
    Ls {
        /// Name of the network. Default: all networks.
        network: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one endpoint.
    Inspect {
        /// Name of the network.
        network: String,
        /// Name of the endpoint.
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Remove an endpoint and its interface, and release its addresses. Works for endpoints of a failed host, too.
    Rm {
        /// Name of the network.
        network: String,
        /// Name of the endpoint.
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Args, Debug)]
pub(super) struct AddArgs {
    /// Name of the network.
    network: String,
    /// Name of the endpoint, unique in its network.
    name: String,
    /// Network namespace of the container: a name as in `ip netns`, like gindemo1, or an absolute path, like
    /// /proc/1234/ns/net. The interface gets the first free name of eth0, eth1, …
    #[arg(long, value_name = "NETNS", value_parser = parse_netns)]
    netns: PathBuf,
    /// IPv4 address in the network's subnet. Default: the next free address.
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// MAC address. Default: 02:42 followed by the IPv4 address, as in Docker.
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

fn parse_netns(text: &str) -> Result<PathBuf, String> {
    netns::parse(text).ok_or_else(|| format!("write {}", netns::SYNTAX))
}

pub(super) async fn endpoint(command: EndpointCommand) -> anyhow::Result<()> {
    match command {
        EndpointCommand::Add(AddArgs { network, name, netns, ip, mac, remote }) => {
            let request = Request::EndpointAdd(EndpointAdd { network, name, netns, ip, mac });
            let created = |report: EndpointReport| {
                output::warnings(&report.warnings);
                let interface = report.interface.as_deref().unwrap_or("-");
                format!("{}/{}: {interface}, {}, {}\n", report.network, report.name, report.ip, report.mac)
            };
            remote.show(&request, created).await
        }
        EndpointCommand::Ls { network, remote } => {
            let show = |list: EndpointList| table(&list.endpoints) + &output::age(&list.store);
            remote.show(&Request::EndpointList { network }, show).await
        }
        EndpointCommand::Inspect { network, name, remote } => {
            remote
                .show(&Request::EndpointInspect { network, name }, |endpoint: EndpointReport| inspect(&endpoint))
                .await
        }
        EndpointCommand::Rm { network, name, remote } => {
            let removed = |report: Removed| format!("{}\n", report.removed);
            remote.show(&Request::EndpointRemove { network, name }, removed).await
        }
    }
}

/// Endpoints, one per line.
pub(super) fn table(endpoints: &[EndpointReport]) -> String {
    let rows = endpoints.iter().map(|endpoint| {
        [
            endpoint.network.clone(),
            endpoint.name.clone(),
            endpoint.ip.to_string(),
            endpoint.mac.clone(),
            endpoint.node.clone(),
            endpoint.address.to_string(),
            ready(endpoint).to_owned(),
        ]
    });
    output::table(["NETWORK", "ENDPOINT", "IP", "MAC", "NODE", "VTEP", "STATE"], rows)
}

fn ready(endpoint: &EndpointReport) -> &'static str {
    match endpoint {
        EndpointReport { ready: true, .. } => "ready",
        EndpointReport { kernel_path: true, .. } => "kernel path",
        EndpointReport { device: Some(_), .. } => "no interface",
        _ => "node gone",
    }
}

fn inspect(endpoint: &EndpointReport) -> String {
    let path = endpoint.netns.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string());
    let rows = [
        ("endpoint", format!("{}/{}", endpoint.network, endpoint.name)),
        ("VNI", endpoint.vni.to_string()),
        ("address", endpoint.ip.to_string()),
        ("MAC", endpoint.mac.clone()),
        ("node", format!("{} ({})", endpoint.node, endpoint.address)),
        ("netns", path),
        ("interface", endpoint.interface.clone().unwrap_or_else(|| "-".to_owned())),
        ("port", endpoint.device.clone().unwrap_or_else(|| "-".to_owned())),
        ("state", ready(endpoint).to_owned()),
    ];
    rows.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect()
}
