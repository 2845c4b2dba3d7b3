//! The networks of this host, managed and external, and their admission to the fast path.

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
    /// VXLAN network identifier; `None`: the VXLAN device is in collect-metadata mode.
    pub vni: Option<Vni>,
    /// Name in its control plane, if known.
    pub name: Option<String>,
    /// UDP port of the VXLAN packets.
    pub port: u16,
    /// Source address of its outer packets; `None` while it is unknown.
    pub underlay: Option<VtepAddr>,
    /// Managed or external, and the type of forwarding.
    pub kind: Kind,
    /// Fast path or kernel path.
    pub admission: Admission,
}

/// Managed or external, and the type of forwarding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Made by overlay from the configuration or the store; its endpoints are in the [`super::View`]. Layer 2.
    Managed,
    /// External, made by Docker for instance: a VXLAN device in a bridge. Layer 2.
    Bridged(Arc<External>),
    /// External, made by flannel for instance: a VXLAN device as a route's target. Layer 3. Not accelerated.
    Routed(Arc<External>),
}

/// The VXLAN device of an external network, with its bridge.
///
/// The kernel's tables are the source of truth. The daemon creates or changes no object of such a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// The netns of the VXLAN device, the bridge and its ports.
    pub netns: NetnsRef,
    /// Name of the VXLAN device.
    pub device: String,
    /// Largest layer-3 packet, in bytes: the VXLAN device's MTU.
    pub mtu: u16,
    /// Options of the VXLAN device for the outer packets.
    pub tunnel: Tunnel,
    /// Bridge ports of the network, by interface index in `netns`.
    pub ports: BTreeMap<u32, ExternalPort>,
    /// MAC addresses behind other VTEPs.
    pub remote: BTreeMap<MacAddr, VtepAddr>,
    /// VTEPs that may send on this VNI.
    pub peers: BTreeSet<VtepAddr>,
    /// Refusal that does not depend on other networks of this host.
    pub refusal: Option<Refusal>,
}

/// Options of a VXLAN device that determine the route and the outer headers of its packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// `local`; `None`: the source address of the route.
    pub local: Option<VtepAddr>,
    /// Interface index of `dev`, in the daemon's netns. Its VRF is that of the UDP socket.
    pub device: Option<u32>,
    /// `ttl`; 0: the hop limit of the route, or the host's default.
    pub ttl: u8,
    /// Smallest source port, and the first one after the largest.
    pub source_ports: (u16, u16),
    /// `udpcsum`: packets have a UDP checksum.
    pub udp_checksum: bool,
    /// `learning`: the device learns the source MAC addresses of the frames that it receives.
    pub learns: bool,
    /// MAC address of the device.
    pub mac: MacAddr,
}

/// A bridge port of an external network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalPort {
    /// Interface name in the network's netns.
    pub name: String,
    /// The MAC address behind it; `None` while it is unknown or ambiguous: the port's traffic uses the kernel path.
    pub mac: Option<MacAddr>,
    /// The container behind it, if Docker reports it.
    pub container: Option<String>,
    /// Frames can pass the port by with `bpf_redirect_peer`: it is a veth whose peer is in another network namespace, the
    /// kernel would change no packet that it sends, and no program in the driver of the peer is bypassed.
    pub redirect_peer: bool,
    /// XDP frames can be redirected into the port: it is a veth whose peer is in another network namespace and has NAPI,
    /// because of an XDP program in the driver, which runs for these frames too.
    pub xdp: bool,
    /// Why its traffic uses the kernel path.
    pub finding: Option<Finding>,
}

/// Why packets to a port whose peer is [`crate::kernel::XdpMode::Generic`] take the kernel path.
pub(crate) const GENERIC_XDP: &str =
    "the XDP program of its container's interface runs in generic mode, which redirected packets skip";

/// The path of a network's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The fast path, as far as ports and MAC addresses are known.
    Accelerated,
    /// The kernel path.
    Kernel(Refusal),
}

/// Why a network uses the kernel path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The cause.
    pub cause: Cause,
    /// Problem and remedy. The object is the network.
    pub finding: Finding,
}

impl Refusal {
    /// A refusal without a network, which the caller [sets](Self::of).
    pub fn new(cause: Cause, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause, finding: Finding::unnamed(problem, remedy) }
    }

    /// The refusal of this network.
    #[must_use]
    pub fn of(self, network: impl Into<String>) -> Self {
        Self { finding: self.finding.about(network), ..self }
    }
}

/// The cause of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The configuration excludes it.
    Excluded,
    /// The kernel encrypts its packets, or may encrypt them.
    Encrypted,
    /// It is unknown yet whether the kernel encrypts its packets.
    New,
    /// An option of the VXLAN device.
    Device,
    /// The network is routed, not bridged.
    Routed,
    /// The state of the bridge, or of the VXLAN device as its port.
    Bridge,
    /// Rules, filters, programs or queueing disciplines process its frames.
    Filtered,
    /// Its underlay is unusable.
    Underlay,
    /// Another underlay is served.
    OtherUnderlay,
    /// Another network uses its VNI.
    Vni,
    /// Too many UDP ports.
    UdpPort,
    /// The maps are full.
    Full,
}

impl Cause {
    /// The cause as `overlay status` prints it.
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
    /// Why the network uses the kernel path; `None`: it is accelerated.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Accelerated => None,
            Self::Kernel(refusal) => Some(refusal),
        }
    }
}

impl Network {
    /// Name in findings and log lines.
    #[must_use]
    pub fn label(&self) -> String {
        label(self.vni, self.name.as_deref(), self.kind.external().map_or("", |external| &external.device))
    }

    /// Whether its packets use the fast path.
    #[must_use]
    pub const fn is_accelerated(&self) -> bool {
        matches!(self.admission, Admission::Accelerated)
    }

    /// Why the traffic of a port uses the kernel path.
    #[must_use]
    pub fn port_finding(&self, port: &ExternalPort) -> Option<Finding> {
        let finding = port.finding.clone();
        let remedy = "send a packet from its container, or remove other entries of its address (bridge fdb show)";
        let unknown =
            || port.mac.is_none().then(|| Finding::unnamed("its MAC address is unknown or ambiguous", remedy));
        Some(finding.or_else(unknown)?.about(format!("{} port {}", self.label(), port.name)))
    }

    /// Unique key among the networks of this host, also those with the same VNI.
    #[must_use]
    pub fn key(&self) -> (Option<Vni>, Option<(&NetnsRef, &str)>) {
        (self.vni, self.kind.external().map(|external| (&external.netns, external.device.as_str())))
    }
}

/// Label of a network: its name, its VNI, or its device.
#[must_use]
pub(crate) fn label(vni: Option<Vni>, name: Option<&str>, device: &str) -> String {
    match (name, vni) {
        (Some(name), Some(vni)) => format!("network {name} (VNI {vni})"),
        (Some(name), None) => format!("network {name}"),
        (None, Some(vni)) => format!("VNI {vni}"),
        (None, None) => format!("VXLAN device {device}"),
    }
}

/// A source address of outer packets, and the devices with this address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Names of the devices.
    pub devices: BTreeSet<String>,
    /// Why it is unusable; `None`: it is usable.
    pub finding: Option<Finding>,
}

/// All networks of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNetworks {
    /// Underlays of the networks, by address.
    pub underlays: BTreeMap<VtepAddr, Underlay>,
    /// The underlay that the maps serve; `None`: no network can be accelerated.
    pub served: Option<VtepAddr>,
    /// Networks in the order of VNI, UDP port and netns.
    pub list: Vec<Network>,
}

impl HostNetworks {
    /// The managed networks whose devices or whose underlay do not suit the fast path. Their packets take the kernel path in both
    /// directions; strict networks keep their checks.
    pub fn refused_managed(&self) -> impl Iterator<Item = Vni> {
        let is_refused = |network: &&Network| {
            let cause = network.admission.refusal().map(|refusal| refusal.cause);
            network.kind == Kind::Managed
                && matches!(cause, Some(Cause::Device | Cause::Bridge | Cause::Filtered | Cause::Underlay))
        };
        self.list.iter().filter(is_refused).filter_map(|network| network.vni)
    }

    /// The accelerated external networks. Their VNIs are unique.
    pub fn accelerated(&self) -> impl Iterator<Item = (Vni, &Network, &External)> {
        let accelerated = self.list.iter().filter(|network| network.is_accelerated());
        accelerated.filter_map(|network| Some((network.vni?, network, network.kind.external()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network in this network namespace.
    fn network(netns: NetnsRef) -> Network {
        let external = External {
            netns,
            device: "vxlan0".into(),
            mtu: 1450,
            tunnel: Tunnel::default(),
            ports: BTreeMap::new(),
            remote: BTreeMap::new(),
            peers: BTreeSet::new(),
            refusal: None,
        };
        Network {
            vni: Vni::new(4097).ok(),
            name: Some("blue".into()),
            port: 4789,
            underlay: None,
            kind: Kind::Bridged(Arc::new(external)),
            admission: Admission::Accelerated,
        }
    }

    #[test]
    fn label_has_name_and_vni_or_the_device() {
        let bridged = network(NetnsRef::Own);
        let Kind::Bridged(external) = &bridged.kind else { unreachable!("it is bridged") };
        let routed = Network { name: None, kind: Kind::Routed(Arc::clone(external)), ..bridged.clone() };
        let managed = Network { kind: Kind::Managed, ..bridged.clone() };
        assert_eq!((bridged.label(), managed.label()), ("network blue (VNI 4097)".into(), bridged.label()));
        assert_eq!(Network { vni: None, ..bridged.clone() }.label(), "network blue");
        assert_eq!(
            (routed.label(), Network { vni: None, ..routed }.label()),
            ("VNI 4097".into(), "VXLAN device vxlan0".into())
        );
    }

    #[test]
    fn networks_with_one_vni_have_different_keys() {
        let path = "/run/netns/blue";
        let [own, other] = [NetnsRef::Own, NetnsRef::Other { path: path.into(), inode: 1 }].map(network);
        let managed = Network { kind: Kind::Managed, ..own.clone() };
        let keys = BTreeSet::from([own.key(), other.key(), managed.key()]);
        assert_eq!((keys.len(), own.key() == own.clone().key()), (3, true));
        let paths = [&own, &other].map(|network| network.kind.external().and_then(|found| found.netns.path()));
        assert_eq!(paths, [None, Some(path.as_ref())]);
    }

    #[test]
    fn refusal_names_its_network_and_its_cause() {
        let refusal = Refusal::new(Cause::Vni, "VNI 4097 is also used by vxlan1", "give it another").of("network blue");
        assert_eq!(refusal.finding.to_string(), "network blue: VNI 4097 is also used by vxlan1; give it another");
        assert_eq!((refusal.cause.to_string(), Cause::Full.to_string()), ("VNI in use".into(), "maps full".into()));
        let refused = Admission::Kernel(refusal.clone());
        assert_eq!((refused.refusal(), Admission::Accelerated.refusal()), (Some(&refusal), None));
    }
}
