//! Netlink families that no crate decodes, message by message: XFRM, netfilter, traffic control.
//!
//! The requests are dumps, which the kernel answers at once: reading them blocks for as long as copying takes.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer},
    sys::{Socket, SocketAddr},
};

/// Length of a netlink header, in bytes.
const HEADER: usize = 16;
/// Length of an attribute's header, in bytes.
const ATTRIBUTE: usize = 4;
/// The flags in an attribute's type: nested, network byte order (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;
/// Times that a dump is started again because the table changed while it was read.
const ATTEMPTS: u32 = 8;

/// One answer: its type, and what follows the netlink header.
pub(super) type Message = (u16, Vec<u8>);

/// A netlink socket of the namespace that the calling thread was in when it was opened.
pub(super) struct Raw(Socket);

impl Raw {
    /// Opens a socket; `None` where the kernel has no such family.
    pub(super) fn open(protocol: isize) -> io::Result<Option<Self>> {
        match Socket::new(protocol) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(None),
            socket => socket.map(|socket| Some(Self(socket))),
        }
    }

    /// Everything that the kernel answers to a dump request. An interrupted dump is repeated.
    pub(super) fn dump(&self, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        for _ in 0..ATTEMPTS {
            if let Some(answers) = self.attempt(kind, body)? {
                return Ok(answers);
            }
        }
        Err(io::Error::other("the table changes faster than it can be read"))
    }

    /// `None`: the table changed meanwhile.
    fn attempt(&self, kind: u16, body: &[u8]) -> io::Result<Option<Vec<Message>>> {
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        request.extend([0; 8]);
        request.extend(body);
        self.0.send_to(&request, &SocketAddr::new(0, 0), 0)?;
        let mut answers = Answers::default();
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            if answers.take(&datagram)? {
                return Ok((!answers.interrupted).then_some(answers.messages));
            }
        }
    }
}

/// What has come of the answer to a dump request.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) messages: Vec<Message>,
    /// The table changed meanwhile.
    interrupted: bool,
}

impl Answers {
    /// Takes a datagram; true: it was the last.
    pub(super) fn take(&mut self, datagram: &[u8]) -> io::Result<bool> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let length = (message.length() as usize).min(rest.len());
            self.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            let payload = rest.get(HEADER..length).unwrap_or_default();
            match message.message_type() {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    let code = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return if code == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(code.saturating_neg())) };
                }
                kind => self.messages.push((kind, payload.to_vec())),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(false)
    }
}

/// The attributes of a message or of a nested attribute, without their flags. Ends at the first malformed one.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..ATTRIBUTE)?.try_into().ok()?) & TYPE_MASK;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this type.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// A string that ends with zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Four bytes in network order.
pub(super) fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// Four bytes in host order, at an offset.
pub(super) fn ne32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// Two bytes in host order, at an offset.
pub(super) fn ne16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its negation has no `i32`.
    #[test]
    fn the_least_error_number_is_an_error() {
        let mut datagram = [0; 20];
        datagram[..4].copy_from_slice(&20u32.to_ne_bytes());
        datagram[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        datagram[16..].copy_from_slice(&i32::MIN.to_ne_bytes());
        assert!(Answers::default().take(&datagram).is_err());
    }
}
