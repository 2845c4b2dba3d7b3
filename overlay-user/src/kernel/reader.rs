//! Reads the tables of one network namespace over one socket.

use std::collections::HashSet;

use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourMessage},
    nsid::{NsidAttribute, NsidMessage},
};
use overlay_common::MacAddr;
use rtnetlink::packet_core::{DefaultNla, NetlinkSerializable as _};
use tracing::{trace, trace_span};

use super::{
    FdbEntry, KernelError, Link, Neighbour,
    fdb::{self, BoundedFdb},
    links::{new_address, new_link},
    options::deviations,
};
use crate::sys::{
    fault::Point,
    netlink::{
        NetlinkError,
        connection::{decode, injected},
        raw::{Message, Raw},
    },
    netns::{Netns, NetnsError},
};

/// A reader for the tables of the network namespace in which it was opened. Every method blocks until the kernel has
/// answered.
#[derive(Debug)]
pub(crate) struct Reader(Raw);

impl Reader {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`KernelError::Socket`].
    pub(crate) fn open() -> Result<Self, KernelError> {
        Raw::route().map(Self).map_err(KernelError::Socket)
    }

    /// Runs `read` inside a namespace, on a thread that may block. The reader is closed at the end, so that its socket
    /// does not keep the namespace alive.
    ///
    /// # Errors
    /// [`KernelError::Netns`], [`KernelError::Socket`], and those of `read`.
    pub(crate) async fn within<T: Send + 'static>(
        netns: &Netns,
        read: impl FnOnce(&Self) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, KernelError> {
        let (inside, span) = (netns.clone(), trace_span!("visit", netns = netns.inode()));
        span.in_scope(|| trace!("a visit begins"));
        let work = move || inside.within(|| span.in_scope(|| read(&Self::open()?)))?;
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(NetnsError::Thread { path: netns.path().to_owned(), reason: error.to_string() }.into()),
        }
    }

    /// Every link, in the kernel's order.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn links(&self) -> Result<Vec<Link>, KernelError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let request = RouteNetlinkMessage::GetLink(request);
        let answers = self.dump_raw(request.message_type(), &body(&request));
        let answers = answers.map_err(KernelError::netlink("list interfaces"))?;
        Ok(answers.iter().filter_map(judged_link).collect())
    }

    /// IPv4 addresses and their links, of one link or all, of this or another namespace (by its ID in this namespace).
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn addresses(&self, index: Option<u32>, netns: Option<i32>) -> Result<Vec<(u32, Ipv4Net)>, KernelError> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        request.header.index = index.unwrap_or(0);
        request.attributes.extend(netns.map(AddressAttribute::TargetNetNsId));
        match self.dump(&RouteNetlinkMessage::GetAddress(request), new_address) {
            // A removed interface has no addresses.
            Err(error) if index.is_some() && error.is_missing() => Ok(Vec::new()),
            addresses => addresses.map_err(KernelError::netlink("list IPv4 addresses")),
        }
    }

    /// The entries of all bridges and VXLAN devices, or of one port and VXLAN device; of learned entries, those of
    /// `important` addresses and a limited number of others ([`BoundedFdb::LEARNED`]).
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn fdb(&self, device: Option<u32>, important: &HashSet<MacAddr>) -> Result<Vec<FdbEntry>, KernelError> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.header.ifindex = device.unwrap_or(0);
        let request = RouteNetlinkMessage::GetNeighbour(request);
        let new = || BoundedFdb::new(important);
        let found = injected(Point::Dump).and_then(|()| self.0.collect(request.message_type(), &body(&request), new));
        Ok(found.map_err(KernelError::netlink("list FDB entries"))?.entries)
    }

    /// The entry of a bridge for an address without a VLAN. Unlike a dump, the cost does not depend on the other entries
    /// (`br_fdb_get` in net/bridge/br_fdb.c).
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn bridge_entry(&self, bridge: u32, mac: MacAddr) -> Result<Option<FdbEntry>, KernelError> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.attributes =
            vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()), NeighbourAttribute::Controller(bridge)];
        match self.get(&RouteNetlinkMessage::GetNeighbour(request)) {
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(KernelError::netlink(format!("look up the FDB entry of {mac}"))(error)),
            Ok(Some(RouteNetlinkMessage::NewNeighbour(message))) => Ok(fdb::entry(&message)),
            Ok(_) => Ok(None),
        }
    }

    /// The permanent entries of the IPv4 neighbour table.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn permanent_neighbours(&self) -> Result<Vec<Neighbour>, KernelError> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Inet;
        let entry = |message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => fdb::permanent(&message),
            _ => None,
        };
        self.dump(&RouteNetlinkMessage::GetNeighbour(request), entry).map_err(KernelError::netlink("list neighbours"))
    }

    /// A link of another namespace, by the ID of that namespace in this one.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn link_in(&self, netns: i32, index: u32) -> Result<Option<Link>, KernelError> {
        /// `IFLA_TARGET_NETNSID`.
        const TARGET_NETNSID: u16 = 46;
        let mut request = LinkMessage::default();
        request.header.index = index;
        let target = DefaultNla::new(TARGET_NETNSID, netns.to_ne_bytes().to_vec());
        request.attributes.push(LinkAttribute::Other(target));
        let request = RouteNetlinkMessage::GetLink(request);
        match self.0.get(request.message_type(), &body(&request)) {
            Err(error) if error.is_missing() => Ok(None),
            answer => {
                let answer = answer.map_err(KernelError::netlink("look up a container's interface"))?;
                Ok(judged_link(&answer))
            }
        }
    }

    /// The ID of another namespace in this one; `None`: no ID is assigned.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) fn netns_number(&self, netns: &Netns) -> Result<Option<i32>, KernelError> {
        let mut request = NsidMessage::default();
        // A file descriptor is never negative.
        request.attributes.push(NsidAttribute::Fd(netns.fd().unsigned_abs()));
        let answer = self.get(&RouteNetlinkMessage::GetNsId(request));
        let answer = answer.map_err(KernelError::netlink("look up the ID of a network namespace"))?;
        let Some(RouteNetlinkMessage::NewNsId(message)) = answer else { return Ok(None) };
        Ok(message.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        }))
    }

    /// All objects of one kind. Messages that cannot be decoded are skipped.
    pub(crate) fn dump<T>(
        &self,
        message: &RouteNetlinkMessage,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let answers = self.dump_raw(message.message_type(), &body(message))?;
        // Decoded one by one: a table may have hundreds of thousands of entries.
        Ok(answers.into_iter().filter_map(|(kind, body)| read(decode(kind, &body)?)).collect())
    }

    /// All objects of one kind, not decoded.
    pub(crate) fn dump_raw(&self, kind: u16, body: &[u8]) -> Result<Vec<Message>, NetlinkError> {
        injected(Point::Dump)?;
        self.0.dump(kind, body)
    }

    /// One object.
    fn get(&self, message: &RouteNetlinkMessage) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let (kind, body) = self.get_raw(message.message_type(), &body(message))?;
        Ok(decode(kind, &body))
    }

    /// One object, not decoded.
    pub(super) fn get_raw(&self, kind: u16, body: &[u8]) -> Result<Message, NetlinkError> {
        self.0.get(kind, body)
    }

    pub(crate) const fn socket(&self) -> &Raw {
        &self.0
    }
}

/// A link with its deviations.
fn judged_link((kind, body): &Message) -> Option<Link> {
    let link = new_link(decode(*kind, body)?)?;
    Some(Link { deviations: deviations(body), ..link })
}

pub(super) fn body(message: &RouteNetlinkMessage) -> Vec<u8> {
    let mut body = vec![0; message.buffer_len()];
    message.serialize(&mut body);
    body
}
