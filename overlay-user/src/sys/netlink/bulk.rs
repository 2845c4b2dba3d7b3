//! Batches of changes, with few system calls.
//!
//! A datagram may contain many requests. The kernel processes them in order before `sendmsg` returns, and answers
//! requests that fail or ask for an acknowledgement (`netlink_rcv_skb` in net/netlink/af_netlink.c).

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    sys::Socket,
};
use tracing::trace;

use super::{
    NetlinkError,
    connection::{Mode, injected, messages},
    raw::{Raw, drain},
};
use crate::sys::fault::Point;

/// Maximum number of requests in a datagram. Their answers, about 1 KiB each with the kernel's overhead, must fit the
/// receive buffer of a socket, which is at least 208 KiB by default.
pub(crate) const DATAGRAM: usize = 128;
/// Buffer for one answer, in bytes: the header of the request, and a message.
const ANSWER: usize = 4 << 10;

/// A socket for batches of requests, acknowledged per datagram. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Bulk(Arc<Mutex<Raw>>);

impl Bulk {
    /// Opens the socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Raw::route()?))))
    }

    /// Makes up to [`DATAGRAM`] independent changes. Returns failures by position.
    ///
    /// # Errors
    /// If the result of all changes is unknown.
    pub(crate) async fn change(
        &self,
        requests: Vec<(RouteNetlinkMessage, Mode)>,
    ) -> Result<Vec<(usize, NetlinkError)>, NetlinkError> {
        injected(Point::Netlink)?;
        trace!("netlink change: {} entries", requests.len());
        let socket = self.clone();
        // The system call may block until a concurrent change of links has ended.
        let exchange = tokio::task::spawn_blocking(move || socket.change_now(requests));
        Ok(exchange.await.map_err(io::Error::other).flatten()?)
    }

    /// [`Self::change`] on the calling thread.
    pub(crate) fn change_now(
        &self,
        requests: Vec<(RouteNetlinkMessage, Mode)>,
    ) -> io::Result<Vec<(usize, NetlinkError)>> {
        exchange(&self.0.lock().unwrap_or_else(PoisonError::into_inner).0, requests)
    }
}

fn exchange(socket: &Socket, requests: Vec<(RouteNetlinkMessage, Mode)>) -> io::Result<Vec<(usize, NetlinkError)>> {
    let Some(last) = requests.len().checked_sub(1) else { return Ok(Vec::new()) };
    let mut answer = Vec::with_capacity(ANSWER);
    drain(socket);
    let mut datagram = Vec::new();
    for (position, (message, mode)) in requests.into_iter().enumerate() {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | mode.flags() | if position == last { NLM_F_ACK } else { 0 };
        request.header.sequence_number = u32::try_from(position).map_err(io::Error::other)?;
        request.finalize();
        let start = datagram.len();
        datagram.resize(start + request.buffer_len().next_multiple_of(4), 0);
        request.serialize(&mut datagram[start..]);
    }
    socket.send(&datagram, 0)?;

    let mut failed = Vec::new();
    loop {
        receive(socket, &mut answer)?;
        for message in messages(&answer) {
            let position = message.header.sequence_number as usize;
            if let NetlinkPayload::Error(error) = message.payload {
                if error.code.is_some() {
                    failed.push((position, error.into()));
                }
                if position == last {
                    return Ok(failed);
                }
            }
        }
    }
}

/// Receives without blocking: all answers are queued when `send` has returned.
fn receive(socket: &Socket, answer: &mut Vec<u8>) -> io::Result<()> {
    answer.clear();
    socket.recv(answer, libc::MSG_DONTWAIT).map(|_| ())
}
