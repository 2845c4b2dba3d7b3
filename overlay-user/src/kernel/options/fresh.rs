//! New devices of each kind, for values that the table lacks: a newer kernel has attributes that this build does not
//! know, and a device that has the value of a new one is like the devices that it does know.
//!
//! The devices are made in a network namespace of a thread, and only when a link has an unknown attribute. The thread
//! ends at once, and with it the namespace. It has no name and no ID in any other namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::OnceLock,
};

use super::{
    deviation::{Class, Deviation, Sets},
    table::Set,
};
use crate::sys::{
    ethtool::Features,
    netlink::{
        attribute::{attributes, ne32},
        bulk::Bulk,
        connection::Mode,
        raw::Raw,
    },
    netns,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

/// Interface indices in the scratch namespace.
const BRIDGE: u32 = 10;
const VXLAN: u32 = 11;
const VETH: u32 = 12;
/// `RTM_GETLINK`, `RTM_GETNEIGH`.
const GET_LINK: u16 = 18;
const GET_NEIGHBOUR: u16 = 30;
/// Length of `struct ifinfomsg` and `struct ndmsg`, and the offset of the index in both.
const LINK_HEADER: usize = 16;
const NEIGHBOUR_HEADER: usize = 12;
const INDEX: usize = 4;
const REMEDY: &str =
    "no new device can be made to compare it with: give the daemon CAP_SYS_ADMIN, or keep the kernel path";

/// The values of new devices and entries.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    attributes: BTreeMap<(Class, Set, u16), Vec<u8>>,
    features: BTreeMap<(Class, &'static str), bool>,
    entries: BTreeSet<(u16, Vec<u8>)>,
}

impl Fresh {
    /// The attribute of a new device, in the set of the device or of its bridge port.
    pub(super) fn attribute(&self, class: Class, set: Set, number: u16) -> Option<Vec<u8>> {
        self.attributes.get(&(class, set, number)).cloned()
    }

    /// A feature of a new device.
    pub(super) fn feature(&self, class: Class, name: &str) -> Option<Vec<u8>> {
        let (_, is_on) = self.features.iter().find(|((of, feature), _)| (*of, *feature) == (class, name))?;
        Some(vec![u8::from(*is_on)])
    }

    /// An attribute of a new FDB entry, if one has this value.
    pub(super) fn entry(&self, number: u16, value: &[u8]) -> Option<Vec<u8>> {
        self.entries.get(&(number, value.to_vec())).map(|(_, value)| value.clone())
    }

    /// The attributes that the table lacks.
    #[cfg(test)]
    pub(super) fn unknown(&self) -> impl Iterator<Item = String> {
        let is_unknown = |set: Set, number| set.rows_of(number).is_empty();
        let links = self.attributes.keys().filter(move |(_, set, number)| is_unknown(*set, *number));
        let entries =
            self.entries.iter().map(|(number, _)| number).filter(move |number| is_unknown(Set::Entry, **number));
        links
            .map(|(class, set, number)| format!("{class:?} {set:?} {number}"))
            .chain(entries.map(|n| format!("NDA {n}")))
    }

    /// Makes the devices, and reads them.
    pub(super) fn read() -> io::Result<Self> {
        netns::in_new(|| {
            let failed = Bulk::open()?.change_now(requests())?;
            if let Some((request, error)) = failed.into_iter().next() {
                return Err(io::Error::other(format!("request {request}: {error}")));
            }
            let reader = Raw::route()?;
            let mut fresh = Self::default();
            for (_, payload) in reader.dump(GET_LINK, &[0; LINK_HEADER]).map_err(io::Error::other)? {
                let class = match ne32(&payload, INDEX) {
                    Some(BRIDGE) => Class::Bridge,
                    Some(VXLAN) => Class::Vxlan,
                    Some(VETH) => Class::Other,
                    _ => continue,
                };
                let Some(sets) = Sets::new(&payload) else { continue };
                for (set, all) in sets.each() {
                    let values = attributes(all).map(|(number, value)| ((class, set, number), value.to_vec()));
                    fresh.attributes.extend(values);
                }
            }
            for (class, name) in [(Class::Vxlan, "vxlan"), (Class::Other, "veth")] {
                let features = Features::read(name)?;
                fresh.features.extend(features.iter().map(|(name, is_on)| ((class, name), is_on)));
            }
            let mut request = [0; NEIGHBOUR_HEADER];
            request[0] = libc::AF_BRIDGE.to_ne_bytes()[0];
            for (_, payload) in reader.dump(GET_NEIGHBOUR, &request).map_err(io::Error::other)? {
                let all = payload.get(NEIGHBOUR_HEADER..).unwrap_or_default();
                fresh.entries.extend(attributes(all).map(|(number, value)| (number, value.to_vec())));
            }
            Ok(fresh)
        })?
    }
}

/// The deviation of a value that the table lacks; `None`: a new device has the same.
pub(super) fn unknown(object: String, value: &[u8], of: impl FnOnce(&Fresh) -> Option<Vec<u8>>) -> Option<Deviation> {
    static FRESH: OnceLock<Option<Fresh>> = OnceLock::new();
    let fresh = FRESH.get_or_init(|| {
        let fresh = Fresh::read();
        fresh.inspect_err(|error| tracing::warn!("no new devices can be made in a network namespace: {error}")).ok()
    });
    differs(object, value, fresh.as_ref().map(of))
}

/// `fresh`: the value of the new device, if there is one; `None`: no device could be made.
pub(super) fn differs(object: String, value: &[u8], fresh: Option<Option<Vec<u8>>>) -> Option<Deviation> {
    let is_made = fresh.is_some();
    let is_same = fresh.flatten().is_some_and(|fresh| fresh == value);
    let remedy = if is_made { "keep the kernel path, or use the value of a new device" } else { REMEDY };
    (!is_same).then(|| Deviation::Unknown { object, value: value.to_vec(), remedy })
}

/// The devices: a bridge with a VXLAN device and a veth as ports, up, with an entry of each kind.
fn requests() -> Vec<(RouteNetlinkMessage, Mode)> {
    let link = |index, name: &str, kind, data: Option<InfoData>, master: Option<u32>| {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags |= LinkFlags::Up;
        message.header.change_mask |= LinkFlags::Up;
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.attributes.extend(master.map(LinkAttribute::Controller));
        let info = [LinkInfo::Kind(kind)].into_iter().chain(data.map(LinkInfo::Data));
        message.attributes.push(LinkAttribute::LinkInfo(info.collect()));
        (RouteNetlinkMessage::NewLink(message), Mode::Create)
    };
    let mac = [2, 0, 0, 0, 0, 1];
    let entry = |index, flags, state, dst: Option<NeighbourAddress>| {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        message.header.flags = flags;
        message.header.state = state;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        message.attributes.extend(dst.map(NeighbourAttribute::Destination));
        (RouteNetlinkMessage::NewNeighbour(message), Mode::Create)
    };
    let vxlan = InfoData::Vxlan(vec![InfoVxlan::Id(1), InfoVxlan::Port(4789)]);
    let peer = InfoData::Veth(InfoVeth::Peer(LinkMessage::default()));
    let vtep = NeighbourAddress::Other(vec![192, 0, 2, 1]);
    vec![
        link(BRIDGE, "bridge", InfoKind::Bridge, None, None),
        link(VXLAN, "vxlan", InfoKind::Vxlan, Some(vxlan), Some(BRIDGE)),
        link(VETH, "veth", InfoKind::Veth, Some(peer), Some(BRIDGE)),
        entry(VXLAN, NeighbourFlags::Own, NeighbourState::Permanent, Some(vtep)),
        entry(VETH, NeighbourFlags::Controller, NeighbourState::Noarp, None),
    ]
}
