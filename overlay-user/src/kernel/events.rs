//! Events: changes of the kernel's tables.

use std::{
    collections::VecDeque,
    io,
    net::Ipv4Addr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage, address::AddressMessage, link::LinkMessage, neighbour::NeighbourMessage,
};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload},
    sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use socket2::{SockFilter, SockRef};

use super::{
    Host, KernelError, Link, XdpMode,
    fdb::{destination, lladdr},
    links::link,
};
use crate::sys::netlink::{
    connection::{kinds, messages},
    raw::drain,
};

/// Requested receive buffer, in bytes; the kernel limits it to `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Buffer for one datagram, in bytes: the kernel sends at most 32 KiB.
const MESSAGE_BUFFER: usize = 64 << 10;

/// Groups of changes that route lookups depend on.
pub(crate) const ROUTING: [MulticastGroup; 5] = [
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Nexthop,
];
/// `RTM_NEWROUTE`, `RTM_DELROUTE`, `RTM_NEWRULE`, `RTM_DELRULE`, `RTM_NEWNETCONF`, `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`.
const ROUTING_TYPES: [u16; 7] = [24, 25, 32, 33, 80, 104, 105];

/// A change by any program, including this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostEvent {
    /// A link was added or changed.
    Link(Box<Link>),
    /// Attributes of a bridge port were changed.
    BridgePort,
    /// A link was removed.
    LinkGone(Box<Link>),
    /// An IPv4 neighbour entry was added, or changed its state or its MAC address.
    Neighbour {
        /// Address of the neighbour.
        ip: Ipv4Addr,
        /// Whether the entry has a MAC address.
        resolved: bool,
    },
    /// An IPv4 neighbour entry was removed.
    NeighbourGone {
        /// Address of the neighbour.
        ip: Ipv4Addr,
    },
    /// An IPv4 address was added or removed.
    Address {
        /// The device.
        ifindex: u32,
    },
    /// An IPv4 route, rule or nexthop object was added, changed or removed, or a sysctl such as `rp_filter`.
    Route,
    /// A qdisc or filter was added, changed or removed.
    TrafficControl,
    /// A link was added or changed, in this or another namespace that has an ID in this one.
    AnyLink {
        /// Interface index in its namespace.
        index: u32,
        /// Its XDP program.
        xdp: XdpMode,
    },
    /// Events were lost: all tables must be read again.
    Overrun,
}

/// The stream of [`Host::events`].
struct Events {
    socket: TokioSocket,
    /// Links of all namespaces with an ID in this one: the containers' ends of veths. `None`: not available.
    links: Option<TokioSocket>,
    buffer: Vec<u8>,
    /// Events that were read and not yet returned.
    queue: VecDeque<HostEvent>,
}

impl Stream for Events {
    type Item = HostEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<HostEvent>> {
        let this = &mut *self;
        loop {
            if let Some(event) = this.queue.pop_front() {
                return Poll::Ready(Some(event));
            }
            this.buffer.clear();
            match this.socket.poll_recv_from(cx, &mut this.buffer) {
                Poll::Ready(Ok(_)) => {
                    this.queue.extend(events(&this.buffer));
                    if kinds(&this.buffer).any(|kind| TRAFFIC_CONTROL.contains(&kind)) {
                        this.queue.push_back(HostEvent::TrafficControl);
                    }
                }
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    // After a loss the kernel reports no other one until the socket is empty (`NETLINK_S_CONGESTED`).
                    // Draining it first ensures that a loss while the tables are read is reported.
                    drain(this.socket.socket_ref());
                    return Poll::Ready(Some(HostEvent::Overrun));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => {
                    let Some(links) = &this.links else { return Poll::Pending };
                    match ready!(links.poll_recv_from(cx, &mut this.buffer)) {
                        Ok(_) => this.queue.extend(messages(&this.buffer).filter_map(any_link)),
                        // A container can cause any number of events; the periodic read finds what is lost.
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => drain(links.socket_ref()),
                        Err(_) => this.links = None,
                    }
                }
            }
        }
    }
}

/// `RTM_NEWNEIGH`, `RTM_DELNEIGH`, `RTM_GETNEIGH`.
pub(crate) const NEIGHBOUR: [u16; 2] = [28, 29];
const GET_NEIGHBOUR: u16 = 30;
/// Types of messages about qdiscs, filters and chains: `RTM_NEWQDISC`, `RTM_DELQDISC`, `RTM_NEWTFILTER`,
/// `RTM_DELTFILTER`, `RTM_NEWCHAIN`, `RTM_DELCHAIN`.
const TRAFFIC_CONTROL: [u16; 6] = [36, 37, 44, 45, 100, 101];

/// The neighbour messages that a socket receives. A container can cause any number of either kind, and of requests for
/// missing entries (`vxlan_fdb_miss` in drivers/net/vxlan/vxlan_core.c), so the kernel drops the others before they are
/// queued (`do_one_broadcast` in net/netlink/af_netlink.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Neighbours {
    /// FDB entries.
    Bridge,
    /// IP neighbours.
    Ip,
}

impl Neighbours {
    /// The filter of a socket, as classic BPF, which loads in network byte order.
    fn filter(self) -> [SockFilter; 10] {
        /// Offsets in a message: `nlmsg_type`, and `ndm_family` after the netlink header.
        const TYPE: u32 = 4;
        const FAMILY: u32 = 16;
        const HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
        const BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
        const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let (if_bridge, otherwise) = if self == Self::Bridge { (u32::MAX, 0) } else { (0, u32::MAX) };
        let [new, del] = NEIGHBOUR.map(|kind| u32::from(kind.to_be()));
        [
            SockFilter::new(HALF, 0, 0, TYPE),
            SockFilter::new(EQUAL, 4, 0, new),
            SockFilter::new(EQUAL, 3, 0, del),
            SockFilter::new(EQUAL, 1, 0, u32::from(GET_NEIGHBOUR.to_be())),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(BYTE, 0, 0, FAMILY),
            SockFilter::new(EQUAL, 0, 1, libc::AF_BRIDGE.unsigned_abs()),
            SockFilter::new(RETURN, 0, 0, if_bridge),
            SockFilter::new(RETURN, 0, 0, otherwise),
        ]
    }
}

/// A socket in the calling thread's network namespace with these groups. `buffer`: size of its receive buffer, in bytes.
pub(crate) fn subscribe(groups: &[MulticastGroup], neighbours: Neighbours, buffer: usize) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    SockRef::from(socket.socket_ref()).attach_filter(&neighbours.filter())?;
    let mask = groups.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
    // The kernel clamps the size.
    socket.socket_mut().set_rx_buf_sz(libc::c_int::try_from(buffer).unwrap_or(libc::c_int::MAX))?;
    Ok(socket)
}

impl Events {
    fn open() -> io::Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Tc];
        let socket = subscribe(&[&groups[..], &ROUTING].concat(), Neighbours::Ip, RECEIVE_BUFFER)?;
        // Without the capability, the periodic read finds such changes.
        let mut links = subscribe(&[MulticastGroup::Link], Neighbours::Ip, RECEIVE_BUFFER)?;
        let links = links.socket_mut().set_listen_all_namespaces(true).is_ok().then_some(links);
        Ok(Self { socket, links, buffer: Vec::with_capacity(MESSAGE_BUFFER), queue: VecDeque::new() })
    }
}

impl Host {
    /// Opens a stream of changes of links, IPv4 neighbours, addresses, routes, rules and nexthop objects in the
    /// calling thread's network namespace. FDB entries are not included. The stream ends only if the socket fails.
    ///
    /// # Errors
    /// [`KernelError::Socket`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn events() -> Result<impl Stream<Item = HostEvent> + Unpin + Send, KernelError> {
        Events::open().map_err(KernelError::Socket)
    }
}

/// The events of a datagram.
pub(crate) fn events(datagram: &[u8]) -> impl Iterator<Item = HostEvent> {
    // A change of routing is an event also if the message cannot be decoded.
    let routing = types(datagram).any(|kind| ROUTING_TYPES.contains(&kind)).then_some(HostEvent::Route);
    messages(datagram).filter_map(event).chain(routing)
}

/// The types of the messages of a datagram.
fn types(mut datagram: &[u8]) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(datagram).ok()?;
        datagram = datagram.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
        Some(message.message_type())
    })
}

fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<HostEvent> {
    use RouteNetlinkMessage as M;
    match message.payload {
        // In the bridge family these messages are about bridge ports, and a removal means leaving the bridge, which is
        // a change of the link too.
        NetlinkPayload::InnerMessage(M::NewLink(message))
            if message.header.interface_family == AddressFamily::Bridge =>
        {
            Some(HostEvent::BridgePort)
        }
        NetlinkPayload::InnerMessage(M::NewLink(message)) => unspec_link(message).map(HostEvent::Link),
        NetlinkPayload::InnerMessage(M::DelLink(message)) => unspec_link(message).map(HostEvent::LinkGone),
        NetlinkPayload::InnerMessage(M::NewNeighbour(message)) => {
            Some(HostEvent::Neighbour { ip: neighbour(&message)?, resolved: lladdr(&message).is_some() })
        }
        NetlinkPayload::InnerMessage(M::DelNeighbour(message)) => {
            Some(HostEvent::NeighbourGone { ip: neighbour(&message)? })
        }
        NetlinkPayload::InnerMessage(M::NewAddress(message) | M::DelAddress(message)) => Some(address(&message)),
        _ => None,
    }
}

fn any_link(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<HostEvent> {
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) = message.payload else { return None };
    unspec_link(message).map(|link| HostEvent::AnyLink { index: link.index, xdp: link.xdp_mode })
}

fn unspec_link(message: LinkMessage) -> Option<Box<Link>> {
    (message.header.interface_family == AddressFamily::Unspec).then(|| Box::new(link(message)))
}

/// Address of an IPv4 neighbour; `None` for an FDB entry.
fn neighbour(message: &NeighbourMessage) -> Option<Ipv4Addr> {
    if message.header.family == AddressFamily::Inet { destination(message) } else { None }
}

fn address(message: &AddressMessage) -> HostEvent {
    HostEvent::Address { ifindex: message.header.index }
}
