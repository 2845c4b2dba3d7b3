//! An rtnetlink connection for single requests.

use std::io;

use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle,
    packet_core::{
        NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkBuffer,
        NetlinkDeserializable as _, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    },
    sys::AsyncSocket,
};
use tokio::task::AbortHandle;
use tracing::trace;

use super::{NetlinkError, raw::Table};
use crate::sys::fault::{self, Point};

/// How a change treats existing objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Change or remove an existing object.
    Existing,
    /// Create an object; fail if it exists.
    Create,
    /// Create an object, or overwrite it.
    Replace,
    /// Create an object, besides others with the same key.
    Append,
}

impl Mode {
    /// `NLM_F_*`.
    pub(crate) const fn flags(self) -> u16 {
        match self {
            Self::Existing => 0,
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Self::Append => NLM_F_CREATE | NLM_F_APPEND,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Netlink {
    handle: Handle,
    connection: AbortHandle,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace and runs it on the current runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // The acknowledgement marks the end of an answer.
        connection.set_forward_ack(true);
        Ok(Self { handle, connection: tokio::spawn(connection).abort_handle() })
    }

    /// Whether the connection's task is running. It ends with the first failure of its socket.
    pub(crate) fn is_connected(&self) -> bool {
        !self.connection.is_finished()
    }

    /// Requests one object.
    pub(crate) async fn get(&self, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, NetlinkError> {
        // For a missing object the kernel returns an error.
        self.request(message, 0).await?.ok_or(NetlinkError::errno(libc::EPIPE))
    }

    /// Makes a change, and waits for the acknowledgement.
    pub(crate) async fn change(&self, message: RouteNetlinkMessage, mode: Mode) -> Result<(), NetlinkError> {
        injected(Point::Netlink)?;
        self.request(message, NLM_F_ACK | mode.flags()).await.map(|_| ())
    }

    /// Sends a request and returns the answer, if there is one. With `NLM_F_ACK` it waits for the acknowledgement.
    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let verb = if flags & NLM_F_ACK == 0 { "get" } else { "change" };
        trace!("netlink {verb}: {}", Table { kind: request.payload.message_type(), body: &[] });
        let gone = NetlinkError::errno(libc::EPIPE);
        let mut responses = self.handle.clone().request(request).map_err(|_| gone.clone())?;
        // An object has no acknowledgement; a change ends with one.
        let (mut answer, mut ended) = (None, flags & NLM_F_ACK == 0);
        while let Some(response) = responses.next().await {
            match response.payload {
                NetlinkPayload::InnerMessage(object) => answer = answer.or(Some(object)),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.into()),
                NetlinkPayload::Error(_) => ended = true,
                _ => {}
            }
        }
        if ended { Ok(answer) } else { Err(gone) }
    }
}

/// Returns the [injected](fault::at) error for a fault point, if there is one.
pub(crate) fn injected(point: Point) -> Result<(), NetlinkError> {
    fault::at(point).map_err(|error| NetlinkError::errno(error.raw_os_error().unwrap_or_default()))
}

/// The types of the messages of one datagram, also of those that cannot be decoded.
pub(crate) fn kinds(mut bytes: &[u8]) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        let (kind, length) = (message.message_type(), message.length() as usize);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(kind)
    })
}

/// The messages of one datagram. Messages that cannot be decoded are skipped.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    std::iter::from_fn(move || {
        loop {
            let length = NetlinkBuffer::new_checked(bytes).ok()?.length() as usize;
            let message = NetlinkMessage::deserialize(bytes.get(..length)?);
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            if let Ok(message) = message {
                return Some(message);
            }
        }
    })
}

/// A message from its type and the payload after its header; `None` if it cannot be decoded.
pub(crate) fn decode(kind: u16, body: &[u8]) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    RouteNetlinkMessage::deserialize(&header, body)
        .inspect_err(|error| tracing::warn!("skipped a netlink message of type {kind}: {error}"))
        .ok()
}
