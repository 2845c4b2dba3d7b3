//! Many changes in few system calls.
//!
//! A datagram may have many requests. The kernel works through them in order before `sendmsg` returns, answers those that
//! fail, and of the others only those that ask for it (`netlink_rcv_skb` in net/netlink/af_netlink.c).

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
    connection::{Mode, messages, refused},
    raw::{Raw, drain},
};
use crate::sys::fault::Point;

/// Most requests in a datagram. The answers to all of them, about 1 KiB each with what the kernel adds, have to fit the
/// receive buffer of a socket, whose least default is 208 KiB.
pub(crate) const DATAGRAM: usize = 128;
/// Room for one answer, in bytes: the header of the request, and one sentence.
const ANSWER: usize = 4 << 10;

/// A socket of its own for requests that are acknowledged by the datagram. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Bulk(Arc<Mutex<Raw>>);

impl Bulk {
    /// Opens the socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Raw::route()?))))
    }

    /// Makes changes that do not depend on each other, at most [`DATAGRAM`]. Returns those that failed, by their place.
    ///
    /// # Errors
    /// When nothing is known of any of them.
    pub(crate) async fn change(
        &self,
        requests: Vec<(RouteNetlinkMessage, Mode)>,
    ) -> Result<Vec<(usize, NetlinkError)>, NetlinkError> {
        refused(Point::Netlink)?;
        trace!("netlink change: {} entries", requests.len());
        let socket = self.0.clone();
        // The kernel does the work in the system call, and may have to wait for others who change links.
        let exchange = tokio::task::spawn_blocking(move || {
            exchange(&socket.lock().unwrap_or_else(PoisonError::into_inner).0, requests)
        });
        Ok(exchange.await.map_err(io::Error::other).flatten()?)
    }
}

fn exchange(socket: &Socket, requests: Vec<(RouteNetlinkMessage, Mode)>) -> io::Result<Vec<(usize, NetlinkError)>> {
    let Some(last) = requests.len().checked_sub(1) else { return Ok(Vec::new()) };
    let mut answer = Vec::with_capacity(ANSWER);
    drain(socket);
    let mut datagram = Vec::new();
    for (place, (message, mode)) in requests.into_iter().enumerate() {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | mode.flags() | if place == last { NLM_F_ACK } else { 0 };
        request.header.sequence_number = u32::try_from(place).map_err(io::Error::other)?;
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
            let place = message.header.sequence_number as usize;
            if let NetlinkPayload::Error(error) = message.payload {
                if error.code.is_some() {
                    failed.push((place, error.into()));
                }
                if place == last {
                    return Ok(failed);
                }
            }
        }
    }
}

/// Takes what is there: all answers are, once `send` has returned.
fn receive(socket: &Socket, answer: &mut Vec<u8>) -> io::Result<()> {
    answer.clear();
    socket.recv(answer, libc::MSG_DONTWAIT).map(|_| ())
}
