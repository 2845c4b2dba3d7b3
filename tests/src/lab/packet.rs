//! Whole frames, from and to one network device.

use std::{
    ffi::CString,
    io::{self, ErrorKind, Read, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{NetNs, sys};

/// A packet socket on one device: sends frames as they are, and receives whatever comes in, before the device's TC
/// programs and after XDP.
///
/// What this machine sends through the device is not received. Bytes only: checksums that the sender left to a device
/// (`CHECKSUM_PARTIAL`) are as unfinished as they are in the skb.
#[derive(Debug)]
pub struct PacketSocket(Socket);

/// Larger than any frame that is not a GSO super-packet.
const FRAME: usize = 16 << 10;

impl PacketSocket {
    /// Opens a socket on `device` inside `ns`.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or where there is no such device.
    pub fn open(ns: &NetNs, device: &str) -> Result<Self> {
        let opened = ns.enter(|| Self::open_here(device));
        opened.map(Self).with_context(|| format!("{}: cannot open a packet socket on {device}", ns.name()))
    }

    fn open_here(device: &str) -> io::Result<Socket> {
        const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
        let all = (libc::ETH_P_ALL as u16).to_be();
        // Without a protocol until it is bound, so that nothing of other devices comes in.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20)?;
        sys::set_option(socket.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        let name = CString::new(device)?;
        // SAFETY: the name ends in NUL and outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the storage is large enough for every kind of address, and the length set is that of the kind.
        let ((), address) = unsafe {
            SockAddr::try_init(|storage, length| {
                let address = storage.cast::<libc::sockaddr_ll>();
                (*address).sll_family = libc::AF_PACKET as u16;
                (*address).sll_protocol = all;
                (*address).sll_ifindex = index.cast_signed();
                *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                Ok(())
            })?
        };
        socket.bind(&address)?;
        Ok(socket)
    }

    /// Sends one frame, from its Ethernet header on.
    ///
    /// # Errors
    /// `EMSGSIZE` for one that exceeds the device's MTU, `ENETDOWN`.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        (&self.0).write_all(frame).with_context(|| format!("cannot send a frame of {} bytes", frame.len()))
    }

    /// The next frame that came in, or `None` when there is none until `deadline`.
    ///
    /// # Errors
    /// `ENETDOWN` when the device went down.
    pub fn receive(&self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if !sys::wait_readable(self.0.as_fd(), left)? {
            return Ok(None);
        }
        let mut frame = vec![0; FRAME];
        match (&self.0).read(&mut frame) {
            Ok(length) => frame.truncate(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("cannot receive a frame"),
        }
        Ok(Some(frame))
    }

    /// Receives frames until `enough` says so, or `patience` is over; then what is there already.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_until(&self, patience: Duration, mut enough: impl FnMut(Vec<u8>) -> bool) -> Result<()> {
        let mut deadline = Instant::now() + patience;
        while let Some(frame) = self.receive(deadline)? {
            if enough(frame) {
                // Duplicates and strays come with the last one or not at all.
                deadline = deadline.min(Instant::now() + Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Forgets what came in so far.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn forget(&self) -> Result<()> {
        while self.receive(Instant::now())?.is_some() {}
        Ok(())
    }
}
