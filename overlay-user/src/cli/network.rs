//! `overlay network`.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use ipnet::Ipv4Net;

use super::{endpoint, output, remote::Remote};
use crate::{
    api::types::{NetworkCreate, NetworkList, NetworkReport, Removed, Request},
    model::counted,
};

#[derive(Debug, Subcommand)]
pub(super) enum NetworkCommand {
    /// Create a network.
    Create(CreateArgs),
    /// List the networks.
    Ls(Remote),
    /// Show one network with its endpoints and peers.
    Inspect {
        /// Name of the network.
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Remove a network.
    Rm {
        /// Name of the network.
        name: String,
        /// Remove its endpoints on all hosts as well.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Name of the network, unique in the cluster.
    name: String,
    /// IPv4 subnet of the endpoints, like 10.0.1.0/24. Default: the next free subnet of the store's pools.
    #[arg(long, value_name = "SUBNET")]
    subnet: Option<Ipv4Net>,
    /// Gateway of the endpoints, an address of the subnet. Default: the first address of the subnet.
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<Ipv4Addr>,
    /// VXLAN network identifier, 1 to 16777215. Default: the next free one.
    #[arg(long, value_name = "VNI")]
    vni: Option<u32>,
    /// MTU of the endpoints' interfaces in bytes. Default: the MTU of each host's underlay device minus 50.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Drop frames with a spoofed source instead of passing them to the kernel.
    #[arg(long)]
    strict: bool,
    /// Allow a subnet that overlaps other networks with --overlap. Endpoints get no default route.
    #[arg(long)]
    overlap: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn network(command: NetworkCommand) -> anyhow::Result<()> {
    match command {
        NetworkCommand::Create(CreateArgs { name, subnet, gateway, vni, mtu, strict, overlap, remote }) => {
            let create = NetworkCreate { name, subnet, gateway, vni, mtu, strict, overlap };
            let created = |network: NetworkReport| {
                output::warnings(&network.warnings);
                format!("{}: VNI {}, {}\n", network.name, network.vni, network.subnet)
            };
            remote.show(&Request::NetworkCreate(create), created).await
        }
        NetworkCommand::Ls(remote) => remote.show(&Request::NetworkList, |list: NetworkList| table(&list)).await,
        NetworkCommand::Inspect { name, remote } => {
            remote.show(&Request::NetworkInspect { name }, |network: NetworkReport| inspect(&network)).await
        }
        NetworkCommand::Rm { name, force, remote } => {
            let removed = |report: Removed| match report.endpoints {
                0 => format!("{}\n", report.removed),
                count => format!("{} and {}\n", report.removed, counted(count, "endpoint")),
            };
            remote.show(&Request::NetworkRemove { name, force }, removed).await
        }
    }
}

fn mtu(network: &NetworkReport) -> String {
    network.mtu.map_or_else(|| "auto".to_owned(), |mtu| mtu.to_string())
}

fn table(list: &NetworkList) -> String {
    let rows = list.networks.iter().map(|network| {
        [
            network.name.clone(),
            network.vni.to_string(),
            network.subnet.to_string(),
            network.gateway.to_string(),
            mtu(network),
            network.endpoints.to_string(),
        ]
    });
    output::table(["NETWORK", ">VNI", "SUBNET", "GATEWAY", ">MTU", ">ENDPOINTS"], rows) + &output::age(&list.store)
}

fn inspect(network: &NetworkReport) -> String {
    let mtu =
        network.mtu.map_or_else(|| "auto (MTU of the underlay device minus 50)".to_owned(), |mtu| mtu.to_string());
    let mut text = format!(
        "network  {}\nVNI      {}, UDP port {}\nsubnet   {}\ngateway  {}\nMTU      {mtu}\n",
        network.name, network.vni, network.port, network.subnet, network.gateway
    );
    let options = [(network.strict, "strict"), (network.overlap, "overlap")];
    let options: Vec<_> = options.into_iter().filter_map(|(on, name)| on.then_some(name)).collect();
    if !options.is_empty() {
        text += &format!("options  {}\n", options.join(", "));
    }
    let peers = network.peers.iter().flatten().map(|peer| {
        let state = if peer.alive { "alive" } else { "gone" };
        [peer.node.clone(), peer.address.to_string(), peer.endpoints.to_string(), state.to_owned()]
    });
    let parts = [
        endpoint::table(network.containers.as_deref().unwrap_or_default()),
        output::table(["PEER", "VTEP", ">ENDPOINTS", "STATE"], peers),
    ];
    let age = network.store.as_ref().map(output::age).unwrap_or_default();
    format!("{text}\n{}{age}", parts.join("\n"))
}
