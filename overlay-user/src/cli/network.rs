//! `overlay network`.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use ipnet::Ipv4Net;

use super::{EXIT_CODES, endpoint, output, remote::Remote};
use crate::api::types::{NetworkCreate, NetworkList, NetworkReport, Removed, Request};

#[derive(Debug, Subcommand)]
pub(super) enum NetworkCommand {
    /// Make a network. What is not given is chosen: the next free subnet and VNI, the subnet's first address as gateway.
    #[command(after_help = EXIT_CODES)]
    Create(CreateArgs),
    /// List the networks.
    #[command(after_help = EXIT_CODES)]
    Ls(Remote),
    /// Show a network and everybody in it.
    #[command(after_help = EXIT_CODES)]
    Inspect {
        /// The network's name.
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Remove a network.
    #[command(after_help = EXIT_CODES)]
    Rm {
        /// The network's name.
        name: String,
        /// Remove its endpoints too, on all hosts.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Unique in the cluster.
    name: String,
    /// Where the endpoints' addresses are from, like 10.0.1.0/24.
    #[arg(long, value_name = "SUBNET")]
    subnet: Option<Ipv4Net>,
    /// Default route of the endpoints, an address of the subnet.
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<Ipv4Addr>,
    /// VXLAN network identifier, 1 to 16777215.
    #[arg(long, value_name = "VNI")]
    vni: Option<u32>,
    /// Largest layer-3 packet in bytes; default: each host's underlay less 50.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Drop frames with a spoofed source instead of leaving them to the kernel.
    #[arg(long)]
    strict: bool,
    /// Other networks that say so too may use the same addresses; such a network has no default route.
    #[arg(long)]
    overlap: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn network(command: NetworkCommand) -> anyhow::Result<()> {
    match command {
        NetworkCommand::Create(CreateArgs { name, subnet, gateway, vni, mtu, strict, overlap, remote }) => {
            let create = NetworkCreate { name, subnet, gateway, vni, mtu, strict, overlap };
            let made = |made: NetworkReport| format!("{}: VNI {}, {}\n", made.name, made.vni, made.subnet);
            remote.show(&Request::NetworkCreate(create), made).await
        }
        NetworkCommand::Ls(remote) => remote.show(&Request::NetworkList, |list: NetworkList| table(&list)).await,
        NetworkCommand::Inspect { name, remote } => {
            remote.show(&Request::NetworkInspect { name }, |network: NetworkReport| inspect(&network)).await
        }
        NetworkCommand::Rm { name, force, remote } => {
            let gone = |gone: Removed| match gone.endpoints {
                0 => format!("{}\n", gone.removed),
                count => format!("{} and its {count} endpoints\n", gone.removed),
            };
            remote.show(&Request::NetworkRemove { name, force }, gone).await
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
    let mtu = network.mtu.map_or_else(|| "the underlay's less 50, on each host".to_owned(), |mtu| mtu.to_string());
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
