//! The networks of this host, managed and external, and which path carries their packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use overlay_common::{MacAddr, Vni, VtepAddr};

use super::{Finding, discovery::NetnsRef};

/// A network of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// VXLAN network identifier; `None`: a VXLAN device in collect-metadata mode has none of its own.
    pub vni: Option<Vni>,
    /// The name that its control plane has for it, where it is known.
    pub name: Option<String>,
    /// UDP port of the VXLAN packets.
    pub port: u16,
    /// Address that its outer packets are sent from; `None` while it is not known.
    pub underlay: Option<VtepAddr>,
    /// Who made it, and how it switches.
    pub kind: Kind,
    /// What carries its packets.
    pub admission: Admission,
}

/// What made a network, and how it switches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Made by overlay: the configuration or the store has it, and its endpoints are in the [`super::View`]. Layer 2.
    Managed,
    /// External, made by Docker for instance: a VXLAN device in a bridge. Layer 2.
    Bridged(Arc<External>),
    /// External, made by flannel for instance: a VXLAN device that packets are routed to. Layer 3. Not accelerated.
    Routed(Arc<External>),
}

/// The VXLAN device of an external network, with its bridge.
///
/// The kernel's tables are the source of truth here: nothing of such a network is made or changed by the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Where the VXLAN device, the bridge and its ports are.
    pub netns: NetnsRef,
    /// Name of the VXLAN device.
    pub device: String,
    /// Largest layer-3 packet in bytes: the VXLAN device's MTU.
    pub mtu: u16,
    /// Bridge ports of the network, by interface index in `netns`.
    pub ports: BTreeMap<u32, ExternalPort>,
    /// MAC addresses behind other VTEPs.
    pub remote: BTreeMap<MacAddr, VtepAddr>,
    /// VTEPs that may send on this VNI.
    pub peers: BTreeSet<VtepAddr>,
    /// Why it is left to the kernel, whatever other networks this host has.
    pub refusal: Option<Refusal>,
}

/// A bridge port of an external network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalPort {
    /// Interface name in the network's netns.
    pub name: String,
    /// The MAC address behind it; `None` until it is known without doubt, and the port's traffic is left to the kernel
    /// then.
    pub mac: Option<MacAddr>,
    /// The container behind it, where Docker tells.
    pub container: Option<String>,
    /// A veth whose peer is in another network namespace.
    pub peer_netns: bool,
    /// XDP frames can be redirected into the port: its peer has NAPI (GRO on, or an XDP program).
    pub xdp: bool,
    /// Why it is left to the kernel.
    pub finding: Option<Finding>,
}

/// What carries the packets of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The programs, as far as they know ports and MAC addresses.
    Accelerated,
    /// The kernel alone.
    Kernel(Refusal),
}

/// Why a network is left to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In a word.
    pub cause: Cause,
    /// In full. The object is the network.
    pub finding: Finding,
}

impl Refusal {
    /// A refusal of a network that the caller [names](Self::of).
    pub fn new(cause: Cause, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause, finding: Finding::unnamed(problem, remedy) }
    }

    /// The refusal of this network.
    #[must_use]
    pub fn of(self, network: impl Into<String>) -> Self {
        Self { finding: self.finding.about(network), ..self }
    }
}

/// Why a network is left to the kernel, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The configuration leaves it to the kernel.
    Excluded,
    /// The kernel encrypts its packets, or may.
    Encrypted,
    /// It is not known yet whether the kernel encrypts its packets.
    New,
    /// An option of the VXLAN device.
    Device,
    /// It is routed, not bridged.
    Routed,
    /// The state of the bridge, or of the VXLAN device as its port.
    Bridge,
    /// Rules, filters, programs or queueing disciplines see its frames.
    Filtered,
    /// Its underlay cannot be used.
    Underlay,
    /// Another underlay is served.
    OtherUnderlay,
    /// Another network has its VNI.
    Vni,
    /// Too many UDP ports.
    UdpPort,
    /// There is no room in the maps.
    Full,
}

impl Cause {
    /// As `overlay status` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Excluded => "excluded",
            Self::Encrypted => "encrypted",
            Self::New => "new",
            Self::Device => "device option",
            Self::Routed => "routed",
            Self::Bridge => "bridge option",
            Self::Filtered => "filtered",
            Self::Underlay => "no underlay",
            Self::OtherUnderlay => "other underlay",
            Self::Vni => "VNI in use",
            Self::UdpPort => "UDP port",
            Self::Full => "maps full",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Kind {
    /// The VXLAN device of an external network; `None` for a managed network.
    #[must_use]
    pub fn external(&self) -> Option<&External> {
        match self {
            Self::Managed => None,
            Self::Bridged(external) | Self::Routed(external) => Some(external),
        }
    }
}

impl Admission {
    /// Why the network is left to the kernel; `None`: it is accelerated.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Accelerated => None,
            Self::Kernel(refusal) => Some(refusal),
        }
    }
}

impl Network {
    /// As findings and log lines call it.
    #[must_use]
    pub fn label(&self) -> String {
        label(self.vni, self.name.as_deref(), self.kind.external().map_or("", |external| &external.device))
    }

    /// Whether its packets are carried by the programs.
    #[must_use]
    pub const fn is_accelerated(&self) -> bool {
        matches!(self.admission, Admission::Accelerated)
    }

    /// What tells it from the other networks of this host, also from those with the same VNI.
    #[must_use]
    pub fn key(&self) -> (Option<Vni>, Option<(&NetnsRef, &str)>) {
        (self.vni, self.kind.external().map(|external| (&external.netns, external.device.as_str())))
    }
}

/// What a network is called: by its name, its VNI, or its device.
#[must_use]
pub(crate) fn label(vni: Option<Vni>, name: Option<&str>, device: &str) -> String {
    match (name, vni) {
        (Some(name), Some(vni)) => format!("network {name} (VNI {vni})"),
        (Some(name), None) => format!("network {name}"),
        (None, Some(vni)) => format!("VNI {vni}"),
        (None, None) => format!("VXLAN device {device}"),
    }
}

/// An address that outer packets are sent from, and the devices that have it. Networks with the same underlay share its
/// fate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// The devices' names.
    pub devices: BTreeSet<String>,
    /// Why it cannot be used; `None`: it can.
    pub finding: Option<Finding>,
}

/// All networks of this host, by what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNetworks {
    /// The underlays that have networks, by their addresses.
    pub underlays: BTreeMap<VtepAddr, Underlay>,
    /// The underlay that the maps are filled for; `None`: no network can be accelerated.
    pub served: Option<VtepAddr>,
    /// In the order of VNI, UDP port and netns.
    pub list: Vec<Network>,
}

impl HostNetworks {
    /// The networks of others that are accelerated. No two have the same VNI.
    pub fn accelerated(&self) -> impl Iterator<Item = (Vni, &Network, &External)> {
        let accelerated = self.list.iter().filter(|network| network.is_accelerated());
        accelerated.filter_map(|network| Some((network.vni?, network, network.kind.external()?)))
    }
}
