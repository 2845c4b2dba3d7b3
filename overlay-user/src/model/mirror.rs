//! VXLAN networks that somebody else made, Docker for instance, as the kernel has them.
//!
//! The kernel's own tables are the source of truth here: nothing of such a network is made or changed by the daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
};

use overlay_common::{MacAddr, Vni};

/// Where Docker has the network namespaces of its networks and containers.
pub const NETNS_DIR: &str = "/var/run/docker/netns";
/// Where Docker listens.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Which foreign networks are followed, and what is asked about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// VXLAN devices by name; `None`: all.
    pub vxlan: Option<BTreeSet<String>>,
    /// The socket of Docker's API; `None`: Docker is not asked.
    pub docker: Option<PathBuf>,
    /// A directory of files that stand for network namespaces; those in it are searched beside the daemon's own.
    pub netns_dir: PathBuf,
    /// Where it is not empty, all other networks are left to the kernel. A VNI on it also vouches that the network is
    /// not encrypted where that cannot be found out.
    pub allow: BTreeSet<Selector>,
    /// These networks are left to the kernel.
    pub deny: BTreeSet<Selector>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            vxlan: None,
            docker: Some(DOCKER_SOCKET.into()),
            netns_dir: NETNS_DIR.into(),
            allow: BTreeSet::new(),
            deny: BTreeSet::new(),
        }
    }
}

/// One element of a list of networks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// By VNI.
    Vni(Vni),
    /// By the orchestrator's name.
    Name(String),
}

impl Selector {
    /// Whether a network is meant.
    #[must_use]
    pub fn is(&self, vni: Vni, name: Option<&str>) -> bool {
        match self {
            Self::Vni(wanted) => *wanted == vni,
            Self::Name(wanted) => Some(wanted.as_str()) == name,
        }
    }
}

/// What is known of all foreign VXLAN networks of this host at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// Address of the underlay device, from which outer packets are sent; `None` while it is not known, and nothing is
    /// accelerated then.
    pub address: Option<Ipv4Addr>,
    /// By VNI; a host cannot have two VXLAN devices with one VNI and one UDP port.
    pub networks: BTreeMap<Vni, MirroredNetwork>,
}

/// One VXLAN device with its bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredNetwork {
    /// The orchestrator's name for it, where it could be asked.
    pub name: Option<String>,
    /// UDP port of the VXLAN packets.
    pub port: u16,
    /// Largest layer-3 packet in bytes: the VXLAN device's MTU.
    pub mtu: u16,
    /// Where the VXLAN device, the bridge and its ports are.
    pub site: Site,
    /// Name of the VXLAN device.
    pub device: String,
    /// Bridge ports of the network, by interface index in `site`.
    pub ports: BTreeMap<u32, MirroredPort>,
    /// MAC addresses behind other VTEPs.
    pub remote: BTreeMap<MacAddr, Ipv4Addr>,
    /// VTEPs that may send on this VNI.
    pub senders: BTreeSet<Ipv4Addr>,
    /// Why the network is left to the kernel; `None`: it is accelerated.
    pub refused: Option<Refusal>,
}

/// A bridge port of a foreign network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredPort {
    /// Interface name in the network's site.
    pub name: String,
    /// The MAC address behind it; `None` until it is known, and the port's traffic is left to the kernel then.
    pub mac: Option<MacAddr>,
    /// A veth whose peer is in another network namespace.
    pub peer_netns: bool,
    /// XDP frames can be redirected into the port: its peer has NAPI (GRO on, or an XDP program).
    pub xdp: bool,
}

/// A network namespace that holds networks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// The daemon's own.
    Host,
    /// Another one.
    Netns {
        /// A file that stands for it, for instance `/var/run/docker/netns/1-abcdef`.
        path: PathBuf,
        /// The namespace's inode number: the same path may stand for another namespace later.
        inode: u64,
    },
}

/// Why a foreign network is left to the kernel. Prints as `<what>; <what mends it>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);
