//! One rtnetlink connection: requests in, answers or a typed error out.

use std::{fmt, io};

use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle,
    packet_core::{
        ErrorMessage, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE,
        NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload, NlasIterator,
    },
    sys::AsyncSocket,
};
use tokio::task::AbortHandle;

use crate::fault::{self, Place};

/// What the kernel answered to a request that it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkError {
    /// Positive `errno`; `EPIPE` when the connection is gone.
    pub errno: i32,
    /// The kernel's own explanation (extended acknowledgement), where it gives one.
    pub message: Option<String>,
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl NetlinkError {
    pub(super) const fn errno(errno: i32) -> Self {
        Self { errno, message: None }
    }

    /// Whether the object does not exist, by any of the numbers that rtnetlink uses for it.
    pub(super) fn is_missing(&self) -> bool {
        [libc::ENODEV, libc::ENOENT, libc::ENXIO, libc::ESRCH, libc::EADDRNOTAVAIL].contains(&self.errno)
    }
}

impl From<ErrorMessage> for NetlinkError {
    fn from(error: ErrorMessage) -> Self {
        /// `NLMSGERR_ATTR_MSG`: a string for people.
        const MESSAGE: u16 = 1;
        /// Length of the netlink header of our request, which comes first (`NETLINK_CAP_ACK`: and nothing more of it).
        const HEADER: usize = 16;
        let message = error.header.get(HEADER..).and_then(|attributes| {
            let attribute = NlasIterator::new(attributes).map_while(Result::ok).find(|a| a.kind() == MESSAGE)?;
            let text = String::from_utf8_lossy(attribute.value());
            Some(text.trim_end_matches('\0').trim_end_matches('.').to_owned())
        });
        Self { errno: error.raw_code().saturating_abs(), message }
    }
}

/// How a request that changes something treats what exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Change or remove what exists.
    Existing,
    /// Make it; refuse when it exists.
    Create,
    /// Make it, or overwrite it.
    Replace,
    /// Make it, next to others with the same key.
    Append,
}

impl Mode {
    /// `NLM_F_*`.
    pub(super) const fn flags(self) -> u16 {
        match self {
            Self::Existing => 0,
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Self::Append => NLM_F_CREATE | NLM_F_APPEND,
        }
    }
}

/// Times that a dump is started again because the table changed while it was read.
const DUMP_ATTEMPTS: u32 = 8;

#[derive(Clone, Debug)]
pub(super) struct Netlink {
    handle: Handle,
    connection: AbortHandle,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace and runs it on the current runtime.
    pub(super) fn open() -> io::Result<Self> {
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Without its end an answer is not all of it.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        Ok(Self { handle, connection: tokio::spawn(connection).abort_handle() })
    }

    /// Whether the connection's task runs. It ends with the first failure of its socket.
    pub(super) fn is_connected(&self) -> bool {
        !self.connection.is_finished()
    }

    /// Everything of one kind; an interrupted dump is repeated.
    pub(super) async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        refused(Place::Dump)?;
        for attempt in 1..=DUMP_ATTEMPTS {
            let (answers, interrupted) = self.request(message.clone(), NLM_F_DUMP).await?;
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(answers);
            }
        }
        Ok(Vec::new())
    }

    /// One object.
    pub(super) async fn get(&self, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, NetlinkError> {
        let (answers, _) = self.request(message, 0).await?;
        // The kernel says why it has none.
        answers.into_iter().next().ok_or(NetlinkError::errno(libc::EPIPE))
    }

    /// A change, acknowledged by the kernel.
    pub(super) async fn change(&self, message: RouteNetlinkMessage, mode: Mode) -> Result<(), NetlinkError> {
        refused(Place::Netlink)?;
        self.request(message, NLM_F_ACK | mode.flags()).await.map(|_| ())
    }

    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let gone = NetlinkError::errno(libc::EPIPE);
        let mut responses = self.handle.clone().request(request).map_err(|_| gone.clone())?;
        // One object comes alone; a table and an acknowledgement have an end.
        let (mut answers, mut interrupted, mut ended) = (Vec::new(), false, flags & (NLM_F_ACK | NLM_F_DUMP) == 0);
        while let Some(response) = responses.next().await {
            interrupted |= response.header.flags & NLM_F_DUMP_INTR != 0;
            match response.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.into()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => ended = true,
                _ => {}
            }
        }
        if ended { Ok((answers, interrupted)) } else { Err(gone) }
    }
}

/// What a test has asked for.
pub(super) fn refused(place: Place) -> Result<(), NetlinkError> {
    fault::at(place).map_err(|error| NetlinkError::errno(error.raw_os_error().unwrap_or_default()))
}

/// The messages of one datagram; what cannot be decoded is left out.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroI32;

    use super::*;

    /// Its absolute value has no `i32`.
    #[test]
    fn the_least_error_number_is_an_error() {
        let mut message = ErrorMessage::default();
        message.code = NonZeroI32::new(i32::MIN);
        assert_eq!(NetlinkError::from(message).errno, i32::MAX);
    }
}
