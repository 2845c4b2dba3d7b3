//! Undecoded netlink messages: dumps and lookups of every family.
//!
//! The kernel produces a dump as fast as it is read, so reading blocks only while data is copied.

use std::{fmt, io};

use rtnetlink::{
    packet_core::{
        NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use tracing::trace;

use super::{NetlinkError, attribute::ne32};

/// Length of a netlink header, in bytes.
const HEADER: usize = 16;
/// Maximum attempts to dump a table that changes while it is read.
const ATTEMPTS: u32 = 8;
/// Buffer for one datagram, in bytes: the kernel sends at most 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// One answer: its type, and the payload after the netlink header.
pub(crate) type Message = (u16, Vec<u8>);

/// Takes the messages of a dump, one after another: a table may not fit into memory that a container should be able to
/// occupy.
pub(crate) trait Collect {
    /// Takes a message: its type, and the payload after the netlink header.
    fn add(&mut self, kind: u16, payload: &[u8]);
}

impl Collect for Vec<Message> {
    fn add(&mut self, kind: u16, payload: &[u8]) {
        self.push((kind, payload.to_vec()));
    }
}

/// A netlink socket in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Raw(pub(crate) Socket);

impl Raw {
    /// Opens a socket; `None` if the kernel does not support the family.
    pub(crate) fn open(protocol: isize) -> io::Result<Option<Self>> {
        let mut socket = match Socket::new(protocol) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
            socket => socket?,
        };
        socket.bind_auto()?;
        // So that only the kernel can send answers.
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_netlink_get_strict_chk(true)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Some(Self(socket)))
    }

    /// Opens an rtnetlink socket.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE)?.ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTONOSUPPORT))
    }

    /// The complete answer to a dump request, or an error.
    pub(crate) fn dump(&self, kind: u16, body: &[u8]) -> Result<Vec<Message>, NetlinkError> {
        self.collect(kind, body, Vec::new)
    }

    /// As [`Self::dump`], into a collection that `new` creates for each attempt.
    pub(crate) fn collect<T: Collect>(&self, kind: u16, body: &[u8], new: impl Fn() -> T) -> Result<T, NetlinkError> {
        trace!("netlink dump: {}", Table { kind, body });
        dump(&self.0, kind, body, new)
    }

    /// The answer to a request for one object.
    pub(crate) fn get(&self, kind: u16, body: &[u8]) -> Result<Message, NetlinkError> {
        trace!("netlink get: {}", Table { kind, body });
        get(&self.0, kind, body)
    }
}

/// The object of a request, for log lines.
pub(crate) struct Table<'a> {
    pub(crate) kind: u16,
    /// Its first byte is the address family.
    pub(crate) body: &'a [u8],
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// `AF_BRIDGE`.
        const BRIDGE: u8 = libc::AF_BRIDGE.to_ne_bytes()[0];
        // `RTM_GET*` (`include/uapi/linux/rtnetlink.h`).
        f.write_str(match (self.kind, self.body.first()) {
            (18, _) => "links",
            // `ifa_index` of `struct ifaddrmsg`.
            (22, _) if ne32(self.body, 4).is_some_and(|index| index != 0) => "addresses of one link",
            (22, _) => "addresses",
            (26, _) => "routes",
            (34, _) => "rules",
            (106, _) => "nexthop objects",
            (30, Some(&BRIDGE)) => "FDB",
            (30, _) => "neighbours",
            (38, _) => "qdiscs",
            (46, _) => "filters",
            (90, _) => "namespace numbers",
            (kind, _) => return write!(f, "type {kind:#x}"),
        })
    }
}

/// Discards queued answers of a failed request, and the error for lost events.
pub(crate) fn drain(socket: &Socket) {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return,
            _ => {}
        }
    }
}

/// The channel of a dump: a socket, or a test's datagrams.
trait Channel {
    fn send(&self, request: &[u8]) -> io::Result<()>;
    /// Receives the next datagram into an empty buffer. Returns its length, which may exceed the buffer.
    fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<usize>;
}

impl Channel for Socket {
    fn send(&self, request: &[u8]) -> io::Result<()> {
        drain(self);
        Self::send(self, request, 0).map(|_| ())
    }

    fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.recv(buffer, libc::MSG_TRUNC)
    }
}

fn request((kind, flags): (u16, u16), sequence: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend([0; 4]);
    request.extend(body);
    Ok(request)
}

fn get(channel: &impl Channel, kind: u16, body: &[u8]) -> Result<Message, NetlinkError> {
    const SEQUENCE: u32 = 1;
    channel.send(&request((kind, NLM_F_REQUEST), SEQUENCE, body)?)?;
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        if channel.receive(&mut buffer)? > buffer.len() {
            return Err(truncated());
        }
        // The answer is a single message in its own datagram.
        let message = NetlinkBuffer::new_checked(&buffer).map_err(|_| truncated())?;
        if message.sequence_number() != SEQUENCE {
            continue;
        }
        let (kind, length) = (message.message_type(), message.length() as usize);
        let payload = buffer.get(HEADER..length).ok_or_else(truncated)?;
        return match kind {
            NLMSG_ERROR => Err(refusal(payload)),
            kind => Ok((kind, payload.to_vec())),
        };
    }
}

/// The error in a `struct nlmsgerr`.
fn refusal(payload: &[u8]) -> NetlinkError {
    let code = ne32(payload, 0).map_or(0, u32::cast_signed);
    // An acknowledgement was not requested and is not an answer.
    let code = if code == 0 { -libc::EPROTO } else { code };
    NetlinkError::new(code, payload.get(4 + HEADER..).unwrap_or_default())
}

fn dump<T: Collect>(channel: &impl Channel, kind: u16, body: &[u8], new: impl Fn() -> T) -> Result<T, NetlinkError> {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    for sequence in 1..=ATTEMPTS {
        channel.send(&request((kind, NLM_F_REQUEST | NLM_F_DUMP), sequence, body)?)?;
        let mut progress = Progress::More(DumpAnswers::new(sequence, new()));
        while let Progress::More(answers) = progress {
            buffer.clear();
            if channel.receive(&mut buffer)? > buffer.len() {
                return Err(truncated());
            }
            progress = answers.process(&buffer)?;
        }
        if let Progress::All(collected) = progress {
            return Ok(collected);
        }
    }
    let message = format!("the table changed in each of {ATTEMPTS} attempts to read it");
    Err(NetlinkError { errno: libc::EAGAIN, message: Some(message) })
}

/// A partial answer to a dump request. The collection is returned at the end.
pub(crate) struct DumpAnswers<T> {
    sequence: u32,
    collected: T,
    interrupted: bool,
}

/// The progress of a dump.
pub(crate) enum Progress<T> {
    /// The dump is not complete.
    More(DumpAnswers<T>),
    /// The dump is complete.
    All(T),
    /// The table changed while it was read (`NLM_F_DUMP_INTR`): entries may be missing.
    Interrupted,
}

impl<T: Collect> DumpAnswers<T> {
    /// Collects the answers to the request with this sequence number; other answers are ignored.
    pub(crate) const fn new(sequence: u32, collected: T) -> Self {
        Self { sequence, collected, interrupted: false }
    }

    /// Processes a datagram.
    ///
    /// # Errors
    /// The kernel's (`NLMSG_ERROR`, also at the end of the dump), and a malformed datagram.
    pub(crate) fn process(mut self, datagram: &[u8]) -> Result<Progress<T>, NetlinkError> {
        let mut rest = datagram;
        loop {
            let message = NetlinkBuffer::new_checked(rest).map_err(|_| truncated())?;
            let (kind, length) = (message.message_type(), message.length() as usize);
            let payload = rest.get(HEADER..length).ok_or_else(truncated)?;
            if message.sequence_number() == self.sequence {
                self.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_NOOP => {}
                    // A missing error number means success.
                    NLMSG_DONE => {
                        return match ne32(payload, 0).map_or(0, u32::cast_signed) {
                            code @ ..0 => Err(NetlinkError::new(code, payload.get(4..).unwrap_or_default())),
                            _ if self.interrupted => Ok(Progress::Interrupted),
                            _ => Ok(Progress::All(self.collected)),
                        };
                    }
                    NLMSG_ERROR => return Err(refusal(payload)),
                    NLMSG_OVERRUN => return Err(NetlinkError::errno(libc::ENOBUFS)),
                    kind => self.collected.add(kind, payload),
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Progress::More(self));
            }
        }
    }
}

fn truncated() -> NetlinkError {
    NetlinkError { errno: libc::EBADMSG, message: Some("the kernel's answer is truncated".into()) }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

    use rtnetlink::packet_core::NLM_F_MULTIPART;

    use super::*;
    use crate::sys::netlink::attribute::{ATTRIBUTE, ne16};

    const LINK: u16 = 16;
    const DONE: [u8; 4] = [0; 4];

    /// Prepared datagrams, and the number of requests. `None` is a datagram that does not fit the buffer.
    struct Canned {
        datagrams: RefCell<VecDeque<Option<Vec<u8>>>>,
        requests: RefCell<u32>,
        /// Flags of the requests, besides `NLM_F_REQUEST`.
        flags: u16,
    }

    impl Canned {
        fn dump(datagrams: impl IntoIterator<Item = Option<Vec<u8>>>) -> Self {
            Self { flags: NLM_F_DUMP, ..Self::lookup(datagrams) }
        }

        fn lookup(datagrams: impl IntoIterator<Item = Option<Vec<u8>>>) -> Self {
            Self { datagrams: RefCell::new(datagrams.into_iter().collect()), requests: RefCell::new(0), flags: 0 }
        }
    }

    impl Channel for Canned {
        fn send(&self, request: &[u8]) -> io::Result<()> {
            assert_eq!(ne32(request, 0).unwrap() as usize, request.len());
            assert_eq!((ne16(request, 4), ne16(request, 6)), (Some(18), Some(NLM_F_REQUEST | self.flags)));
            *self.requests.borrow_mut() += 1;
            assert_eq!(ne32(request, 8), Some(*self.requests.borrow()));
            Ok(())
        }

        fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
            assert!(buffer.is_empty());
            match self.datagrams.borrow_mut().pop_front() {
                Some(Some(datagram)) => {
                    buffer.extend(&datagram);
                    Ok(datagram.len())
                }
                Some(None) => {
                    buffer.extend(message(1, LINK, NLM_F_MULTIPART, b"one"));
                    Ok(buffer.len() + 1)
                }
                None => Err(io::Error::from_raw_os_error(libc::EIO)),
            }
        }
    }

    fn message(sequence: u32, kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = (HEADER + payload.len()) as u32;
        let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &sequence.to_ne_bytes()];
        let mut bytes = [&header.concat()[..], &[0; 4], payload].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// An entry of the table.
    fn entry(sequence: u32, payload: &[u8]) -> Vec<u8> {
        message(sequence, LINK, NLM_F_MULTIPART, payload)
    }

    fn done(sequence: u32) -> Vec<u8> {
        message(sequence, NLMSG_DONE, NLM_F_MULTIPART, &DONE)
    }

    /// The result of a dump with these datagrams, and the number of requests.
    fn outcome(datagrams: impl IntoIterator<Item = Vec<u8>>) -> (Result<Vec<Message>, NetlinkError>, u32) {
        let canned = Canned::dump(datagrams.into_iter().map(Some));
        let result = dump(&canned, 18, &[0; 20], Vec::new);
        (result, canned.requests.into_inner())
    }

    /// The error number of a dump that fails at its first request.
    fn refused(datagrams: impl IntoIterator<Item = Vec<u8>>) -> i32 {
        let (result, requests) = outcome(datagrams);
        assert_eq!(requests, 1);
        result.unwrap_err().errno
    }

    #[test]
    fn lookup_returns_one_message() {
        let lookup = |datagrams: Vec<Vec<u8>>| get(&Canned::lookup(datagrams.into_iter().map(Some)), 18, &[0; 20]);
        let answer = || message(1, LINK, 0, b"one");
        assert_eq!(lookup(vec![answer()]), Ok((LINK, b"one".to_vec())));
        assert_eq!(lookup(vec![message(0, LINK, 0, b"old"), answer()]), Ok((LINK, b"one".to_vec())));
        for (code, errno) in [(-libc::ENODEV, libc::ENODEV), (0, libc::EPROTO)] {
            let refused = message(1, NLMSG_ERROR, 0, &[&code.to_ne_bytes()[..], &[0; 16]].concat());
            assert_eq!(lookup(vec![refused]).unwrap_err().errno, errno);
        }
        for length in 0..HEADER + 3 {
            assert_eq!(lookup(vec![answer()[..length].to_vec()]).unwrap_err().errno, libc::EBADMSG, "{length}");
        }
        assert_eq!(lookup(Vec::new()).unwrap_err().errno, libc::EIO);
    }

    fn complete() -> Vec<Message> {
        vec![(LINK, b"one".to_vec()), (LINK, b"two".to_vec())]
    }

    #[test]
    fn dump_returns_all_messages() {
        assert_eq!(outcome([entry(1, b"one"), entry(1, b"two"), done(1)]), (Ok(complete()), 1));
        assert_eq!(outcome([[entry(1, b"one"), entry(1, b"two"), done(1)].concat()]), (Ok(complete()), 1));
        let noop = message(1, NLMSG_NOOP, 0, &[]);
        assert_eq!(outcome([[noop, entry(1, b"one")].concat(), entry(1, b"two"), done(1)]), (Ok(complete()), 1));
        // The kernel may omit the error number.
        assert_eq!(outcome([message(1, NLMSG_DONE, NLM_F_MULTIPART, &[])]), (Ok(Vec::new()), 1));
    }

    #[test]
    fn interrupted_dump_is_repeated() {
        let interrupted = |sequence| {
            let flags = NLM_F_MULTIPART | NLM_F_DUMP_INTR;
            [
                vec![entry(sequence, b"half"), message(sequence, LINK, flags, b"more"), done(sequence)],
                // The flag may be set only in the last message.
                vec![entry(sequence, b"half"), message(sequence, NLMSG_DONE, flags, &DONE)],
            ]
        };
        for which in 0..2 {
            for failures in 0..12 {
                let mut datagrams: Vec<_> =
                    (1..=failures).flat_map(|sequence| interrupted(sequence)[which].clone()).collect();
                datagrams.extend([entry(failures + 1, b"one"), entry(failures + 1, b"two"), done(failures + 1)]);
                let (result, requests) = outcome(datagrams);
                assert_eq!(requests, (failures + 1).min(ATTEMPTS));
                if failures < ATTEMPTS {
                    assert_eq!(result, Ok(complete()));
                } else {
                    assert_eq!(result.unwrap_err().errno, libc::EAGAIN, "after {failures}");
                }
            }
        }
    }

    #[test]
    fn aborted_dump_is_an_error() {
        let number = |errno: i32| (-errno).to_ne_bytes();
        let failed = message(1, NLMSG_DONE, NLM_F_MULTIPART, &number(libc::ENODEV));
        assert_eq!(refused([entry(1, b"one"), failed]), libc::ENODEV);
        let error = |errno| message(1, NLMSG_ERROR, 0, &[&number(errno)[..], &[0; 16]].concat());
        assert_eq!(refused([entry(1, b"one"), error(libc::EPERM)]), libc::EPERM);
        // An acknowledgement that was not requested.
        assert_eq!(refused([entry(1, b"one"), error(0)]), libc::EPROTO);
        assert_eq!(refused([entry(1, b"one"), message(1, NLMSG_ERROR, 0, &[])]), libc::EPROTO);
        assert_eq!(refused([entry(1, b"one"), message(1, NLMSG_OVERRUN, 0, &[]), done(1)]), libc::ENOBUFS);
        assert_eq!(refused([entry(1, b"one")]), libc::EIO);
    }

    #[test]
    fn truncated_datagram_is_an_error() {
        let datagram = [entry(1, b"one"), entry(1, b"three"), done(1)].concat();
        // Ends of messages, with and without padding.
        let ends = [HEADER + 3..=HEADER + 4, 2 * HEADER + 4 + 5..=2 * HEADER + 4 + 8];
        for length in 0..datagram.len() {
            let errno = refused([datagram[..length].to_vec(), done(1)].into_iter().take(1));
            // At the end of a message the dump is incomplete, not truncated.
            assert_eq!(
                errno,
                if ends.iter().any(|end| end.contains(&length)) { libc::EIO } else { libc::EBADMSG },
                "{length}"
            );
        }
        for length in [0_u32, 15, 1 << 20, u32::MAX] {
            let mut wrong = entry(1, b"one");
            wrong[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(refused([wrong, done(1)]), libc::EBADMSG, "{length}");
        }
        let canned = Canned::dump([None, Some(done(1))]);
        assert_eq!(dump(&canned, 18, &[0; 20], Vec::<Message>::new).unwrap_err().errno, libc::EBADMSG);
    }

    #[test]
    fn answers_to_other_requests_are_ignored() {
        let stale = [entry(0, b"old"), done(0), message(0, NLMSG_ERROR, 0, &(-1_i32).to_ne_bytes())];
        assert_eq!(
            outcome(stale.into_iter().chain([entry(1, b"one"), entry(1, b"two"), done(1)])),
            (Ok(complete()), 1)
        );
    }

    #[test]
    fn kernel_message_is_kept() {
        let text = [&(ATTRIBUTE as u16 + 5).to_ne_bytes()[..], &1_u16.to_ne_bytes(), b"why.\0\0\0\0"].concat();
        for (kind, skipped) in [(NLMSG_DONE, 0), (NLMSG_ERROR, HEADER)] {
            let payload = [&(-libc::EINVAL).to_ne_bytes()[..], &vec![0; skipped], &text].concat();
            let error = outcome([message(1, kind, 0, &payload)]).0.unwrap_err();
            assert_eq!((error.errno, error.message.as_deref()), (libc::EINVAL, Some("why")));
        }
    }

    /// The negation of `i32::MIN` does not fit an `i32`.
    #[test]
    fn smallest_error_code_is_an_error() {
        for kind in [NLMSG_DONE, NLMSG_ERROR] {
            assert_eq!(refused([message(1, kind, 0, &i32::MIN.to_ne_bytes())]), i32::MAX);
        }
    }
}
