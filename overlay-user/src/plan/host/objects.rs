//! Kernel objects as plain data, in one shape for desired and for found objects, with their names and descriptions for
//! logs and audit.

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni, VtepAddr};

use crate::{
    kernel::names::{bridge_name, vxlan_name},
    plan::change::{Change, ChangeOf, Table, tables},
};

/// The phases in which changes are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Objects are created or changed, before the BPF maps refer to them.
    Create,
    /// Objects are removed, when the BPF maps no longer refer to them.
    Remove,
}

tables! {
    /// The objects of this daemon in one network namespace. Names of bridges and VXLAN devices derive from their VNI.
    ///
    /// A found state ([`crate::kernel::Snapshot::state`]) contains only objects that carry the owner mark.
    pub(crate) set HostState;
    /// Changes of objects, applied in two [phases](Phase).
    changes HostChanges;
    kind Object;
    /// Visits the changes of each kind of object.
    visitor ObjectVisitor;

    // In the order of creation.

    /// One per network.
    bridges: Bridges(Vni => Bridge),
    /// One per network.
    vxlans: Vxlans(Vni => Vxlan),
    /// By the name of the host end.
    veths: Veths(String => Veth),
    /// Existing interfaces that are enslaved to a network's bridge, by name.
    ports: Members(String => Vni),
    /// VTEPs that receive broadcast, multicast and unknown unicast frames (head-end replication).
    flood: Flood((Vni, VtepAddr) => ()),
    /// FDB of the VXLAN devices: the VTEP of a MAC address. In a found state, 0.0.0.0 is a dynamic entry or one with
    /// options.
    fdb: VxlanFdb((Vni, MacAddr) => VtepAddr),
    /// Static FDB of the bridges: the port of a MAC address.
    bridge_fdb: BridgeFdb((Vni, MacAddr) => FdbPort),
    /// Permanent neighbours on the bridges, used for ARP suppression.
    neighbours: Neighbours((Vni, Ipv4Addr) => MacAddr),
}

/// An object without which another one cannot exist in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Parent<'a> {
    /// A network's bridge.
    Bridge(Vni),
    /// The neighbour table of a network's bridge. The kernel flushes it when the bridge gets another MAC address.
    Neighbours(Vni),
    /// A network's VXLAN device.
    Vxlan(Vni),
    /// A port of a bridge.
    Interface(&'a str),
}

impl Parent<'_> {
    /// Name of the device.
    pub(crate) fn device(self) -> String {
        match self {
            Self::Bridge(vni) | Self::Neighbours(vni) => bridge_name(vni),
            Self::Vxlan(vni) => vxlan_name(vni),
            Self::Interface(name) => name.to_owned(),
        }
    }
}

/// The parents of an object.
pub(crate) type Parents<'a> = [Option<Parent<'a>>; 2];

/// A kind of object.
pub(crate) trait Object: Table<Set = HostState, Changes = HostChanges> {
    /// Name of the kernel table, for messages.
    const TABLE: &'static str = "devices";
    /// Noun for an object of this kind, for messages.
    const NOUN: &'static str;

    /// Name of an object.
    fn name(key: &Self::Key) -> String;

    /// Description of an object, for messages.
    fn text(key: &Self::Key, value: &Self::Value) -> String;

    /// The parents of an object. The kernel deletes a table entry with its parent.
    fn parents<'a>(key: &'a Self::Key, value: &'a Self::Value) -> Parents<'a>;

    /// Verb and object of a change, to follow "cannot".
    fn action(change: &ChangeOf<Self>) -> String {
        let verb = match change {
            Change { new: None, .. } => "remove",
            Change { old: None, .. } => "create",
            _ => "change",
        };
        format!("{verb} {} {}", Self::NOUN, Self::name(&change.key))
    }
}

impl Object for Bridges {
    const NOUN: &'static str = "bridge";

    fn name(vni: &Vni) -> String {
        bridge_name(*vni)
    }

    fn text(_: &Vni, bridge: &Bridge) -> String {
        let Bridge { alias, mtu, mac, addresses, up } = bridge;
        let mac = mac.map_or_else(|| "any".to_owned(), |mac| mac.to_string());
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let state = if *up { "up" } else { "down" };
        format!("{state}, MTU {mtu}, MAC {mac}, addresses [{}], alias {alias:?}", addresses.join(" "))
    }

    fn parents<'a>(_: &'a Vni, _: &'a Bridge) -> Parents<'a> {
        [None; 2]
    }
}

impl Object for Vxlans {
    const NOUN: &'static str = "VXLAN device";

    fn name(vni: &Vni) -> String {
        vxlan_name(*vni)
    }

    fn text(_: &Vni, vxlan: &Vxlan) -> String {
        let Vxlan { alias, mtu, port, local, underlay, ttl, plain, enslaved, up } = vxlan;
        let options = if *plain { "nolearning noproxy noudpcsum" } else { "other options" };
        let master = if *enslaved { "bridge port" } else { "no bridge port, or one with other options" };
        let state = if *up { "up" } else { "down" };
        format!(
            "{state}, MTU {mtu}, UDP {port}, local {local}, underlay interface {underlay}, TTL {ttl}, {options}, {master}, \
             alias {alias:?}"
        )
    }

    fn parents<'a>(vni: &'a Vni, _: &'a Vxlan) -> Parents<'a> {
        [Some(Parent::Bridge(*vni)), None]
    }
}

impl Object for Veths {
    const NOUN: &'static str = "veth";

    fn name(name: &String) -> String {
        name.clone()
    }

    fn text(_: &String, veth: &Veth) -> String {
        let Veth { alias, vni, netns, mtu, mac, address, gateway: _, checked: _, up } = veth;
        let bridge = vni.map_or_else(|| "no bridge".to_owned(), bridge_name);
        let netns = netns.as_ref().map_or_else(|| "another netns".to_owned(), |path| path.display().to_string());
        let address = address.map_or_else(|| "no address".to_owned(), |address| address.to_string());
        let state = if *up { "up" } else { "down" };
        format!("{state}, in {bridge}, MTU {mtu}, eth0 in {netns} with {mac} and {address}, alias {alias:?}")
    }

    fn parents<'a>(_: &'a String, veth: &'a Veth) -> Parents<'a> {
        [veth.vni.map(Parent::Bridge), None]
    }
}

impl Object for Members {
    const NOUN: &'static str = "bridge port";

    fn name(name: &String) -> String {
        name.clone()
    }

    fn text(_: &String, vni: &Vni) -> String {
        format!("port of {}", bridge_name(*vni))
    }

    fn parents<'a>(_: &'a String, vni: &'a Vni) -> Parents<'a> {
        [Some(Parent::Bridge(*vni)), None]
    }
}

impl Object for Flood {
    const TABLE: &'static str = "flood";
    const NOUN: &'static str = "flood entry";

    fn name((vni, vtep): &(Vni, VtepAddr)) -> String {
        format!("{} {vtep}", vxlan_name(*vni))
    }

    fn text((_, vtep): &(Vni, VtepAddr), (): &()) -> String {
        format!("VTEP {vtep}")
    }

    fn parents<'a>((vni, _): &'a (Vni, VtepAddr), (): &'a ()) -> Parents<'a> {
        [Some(Parent::Vxlan(*vni)), None]
    }
}

impl Object for VxlanFdb {
    const TABLE: &'static str = "fdb";
    const NOUN: &'static str = "FDB entry";

    fn name((vni, mac): &(Vni, MacAddr)) -> String {
        format!("{} {mac}", vxlan_name(*vni))
    }

    fn text(_: &(Vni, MacAddr), vtep: &VtepAddr) -> String {
        if *vtep == VtepAddr::UNSPECIFIED {
            "a dynamic entry or one with options".to_owned()
        } else {
            format!("VTEP {vtep}")
        }
    }

    fn parents<'a>((vni, _): &'a (Vni, MacAddr), _: &'a VtepAddr) -> Parents<'a> {
        [Some(Parent::Vxlan(*vni)), None]
    }
}

impl Object for BridgeFdb {
    const TABLE: &'static str = "bridge_fdb";
    const NOUN: &'static str = "FDB entry";

    fn name((vni, mac): &(Vni, MacAddr)) -> String {
        format!("{} {mac}", bridge_name(*vni))
    }

    fn text((vni, _): &(Vni, MacAddr), port: &FdbPort) -> String {
        match port {
            FdbPort::Movable => "an entry without sticky".to_owned(),
            port => format!("port {}", port.interface(*vni)),
        }
    }

    fn parents<'a>((vni, _): &'a (Vni, MacAddr), port: &'a FdbPort) -> Parents<'a> {
        let port = match port {
            FdbPort::Vxlan => Some(Parent::Vxlan(*vni)),
            FdbPort::Interface(name) => Some(Parent::Interface(name)),
            FdbPort::Movable => None,
        };
        [Some(Parent::Bridge(*vni)), port]
    }
}

impl Object for Neighbours {
    const TABLE: &'static str = "neighbours";
    const NOUN: &'static str = "neighbour";

    fn name((vni, ip): &(Vni, Ipv4Addr)) -> String {
        format!("{} {ip}", bridge_name(*vni))
    }

    fn text(_: &(Vni, Ipv4Addr), mac: &MacAddr) -> String {
        mac.to_string()
    }

    fn parents<'a>((vni, _): &'a (Vni, Ipv4Addr), _: &'a MacAddr) -> Parents<'a> {
        [Some(Parent::Bridge(*vni)), Some(Parent::Neighbours(*vni))]
    }
}

/// The desired objects ([`crate::plan::host::desired()`]).
pub(crate) type DesiredHost = HostState;

/// The bridge of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bridge {
    /// `ifalias`.
    pub alias: String,
    /// Layer 3, in bytes.
    pub mtu: u16,
    /// MAC address of the anycast gateway; `None`: chosen by the kernel.
    pub mac: Option<MacAddr>,
    /// Addresses of the anycast gateway, or none.
    pub addresses: BTreeSet<Ipv4Net>,
    /// Administratively up.
    pub up: bool,
}

/// The VXLAN device of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vxlan {
    /// `ifalias`.
    pub alias: String,
    /// Layer 3, in bytes.
    pub mtu: u16,
    /// UDP port.
    pub port: u16,
    /// Outer source address.
    pub local: VtepAddr,
    /// Interface index of the underlay device.
    pub underlay: u32,
    /// TTL of the outer packets; 0: the host's default.
    pub ttl: u8,
    /// Learning, ARP proxy and outer UDP checksums are off.
    pub plain: bool,
    /// Enslaved to its network's bridge, with learning off and neighbour suppression on.
    pub enslaved: bool,
    /// Administratively up.
    pub up: bool,
}

/// The veth of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Veth {
    /// `ifalias` of the host end.
    pub alias: String,
    /// VNI of the network whose bridge the host end is enslaved to.
    pub vni: Option<Vni>,
    /// Netns of the container end; `None`: another netns than the desired one.
    pub netns: Option<PathBuf>,
    /// Layer-3 MTU of both ends, in bytes; 0: they differ.
    pub mtu: u16,
    /// MAC address of the container end.
    pub mac: MacAddr,
    /// Address of the container end, with the subnet's prefix length.
    pub address: Option<Ipv4Net>,
    /// Default route of the container, if it has none. Not read back: a found state has the desired value.
    pub gateway: Option<Ipv4Addr>,
    /// The host end is set up only after the checks of its strict network are attached: no frame enters the bridge before.
    /// Not read back.
    pub checked: bool,
    /// Both ends are administratively up.
    pub up: bool,
}

/// A port of a network's bridge, as the target of an FDB entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FdbPort {
    /// The network's VXLAN device.
    Vxlan,
    /// The host end of a veth, or an existing interface, by name.
    Interface(String),
    /// Any port, without `sticky`: a frame from another port could move the entry. Only in a found state.
    Movable,
}

impl FdbPort {
    /// Name of the interface in this network; empty if unknown.
    #[must_use]
    pub(crate) fn interface(&self, vni: Vni) -> String {
        match self {
            Self::Vxlan => vxlan_name(vni),
            Self::Interface(name) => name.clone(),
            Self::Movable => String::new(),
        }
    }
}
