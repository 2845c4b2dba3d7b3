//! Changes of the kernel's tables, as they happen.

use std::{
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
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::AsyncSocket,
};
use tokio::task::JoinHandle;

use super::{
    Host, HostError, Link,
    links::link,
    state::{destination, lladdr},
};

/// Receive buffer that is asked for, in bytes; the kernel gives at most `net.core.rmem_max`.
const BUFFER: libc::c_int = 4 << 20;

/// A change that somebody made, which may have been this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// A link appeared or changed.
    Link(Box<Link>),
    /// A link vanished.
    LinkGone(Box<Link>),
    /// An IPv4 neighbour entry appeared, changed its state or its MAC address, or vanished.
    Neighbour {
        /// The device.
        ifindex: u32,
        /// Whose entry it is.
        ip: Ipv4Addr,
        /// Whether it has a MAC address.
        resolved: bool,
        /// Whether the entry was removed.
        gone: bool,
    },
    /// An IPv4 address was added or removed.
    Address {
        /// The device.
        ifindex: u32,
    },
    /// An IPv4 route was added, changed or removed.
    Route,
    /// Events were lost: what is known of the tables has to be read anew.
    Overrun,
}

/// The stream of [`Host::events`]. Ends only when the socket fails.
#[derive(Debug)]
struct Events<S> {
    messages: S,
    connection: JoinHandle<()>,
}

impl<S> Drop for Events<S> {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl<S, A> Stream for Events<S>
where
    S: Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, A)> + Unpin,
{
    type Item = HostEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<HostEvent>> {
        loop {
            match ready!(Pin::new(&mut self.messages).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some((message, _)) => {
                    if let Some(event) = event(message) {
                        return Poll::Ready(Some(event));
                    }
                }
            }
        }
    }
}

impl Host {
    /// Listens to links, IPv4 neighbours, addresses and routes of the calling thread's network namespace, on a
    /// connection of its own. FDB entries are left out.
    ///
    /// # Errors
    /// [`HostError::Socket`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn events() -> Result<impl Stream<Item = HostEvent> + Unpin + Send, HostError> {
        listen().map_err(HostError::Socket)
    }
}

fn listen() -> io::Result<impl Stream<Item = HostEvent> + Unpin + Send> {
    let groups = [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
    let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
    connection.socket_mut().socket_mut().set_rx_buf_sz(BUFFER)?;
    Ok(Events { messages, connection: tokio::spawn(connection) })
}

fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<HostEvent> {
    use RouteNetlinkMessage as M;
    match message.payload {
        NetlinkPayload::Overrun(_) => Some(HostEvent::Overrun),
        // In the bridge family the same message means a port or an FDB entry, and "gone" means out of the bridge.
        NetlinkPayload::InnerMessage(M::NewLink(message)) => whole(message).map(HostEvent::Link),
        NetlinkPayload::InnerMessage(M::DelLink(message)) => whole(message).map(HostEvent::LinkGone),
        NetlinkPayload::InnerMessage(M::NewNeighbour(message)) => neighbour(&message, false),
        NetlinkPayload::InnerMessage(M::DelNeighbour(message)) => neighbour(&message, true),
        NetlinkPayload::InnerMessage(M::NewAddress(message) | M::DelAddress(message)) => Some(address(&message)),
        NetlinkPayload::InnerMessage(M::NewRoute(_) | M::DelRoute(_)) => Some(HostEvent::Route),
        _ => None,
    }
}

fn whole(message: LinkMessage) -> Option<Box<Link>> {
    (message.header.interface_family == AddressFamily::Unspec).then(|| Box::new(link(message)))
}

fn neighbour(message: &NeighbourMessage, gone: bool) -> Option<HostEvent> {
    if message.header.family != AddressFamily::Inet {
        return None;
    }
    let ip = destination(message)?;
    let resolved = !gone && lladdr(message).is_some();
    Some(HostEvent::Neighbour { ifindex: message.header.ifindex, ip, resolved, gone })
}

fn address(message: &AddressMessage) -> HostEvent {
    HostEvent::Address { ifindex: message.header.index }
}
