//! Raw Ethernet frames, from and to one network device.

use std::{
    ffi::CString,
    io::{self, ErrorKind, Read, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytemuck::{Pod, Zeroable};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{NetNs, patient, sys};

/// A packet socket on one device: sends frames unmodified, and receives all incoming frames, before the TC programs of
/// the device and after XDP.
///
/// Outgoing frames are not received. Checksums that are left to a device (`CHECKSUM_PARTIAL`) are as incomplete as in
/// the skb.
#[derive(Debug)]
pub struct PacketSocket(Socket);

/// Larger than any frame, GSO super-packets included.
const FRAME: usize = 66 << 10;

/// Work that is left to a device: `struct virtio_net_hdr` (`include/uapi/linux/virtio_net.h`), in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Offload {
    /// [`Self::NEEDS_CHECKSUM`], [`Self::IS_VALID`].
    pub flags: u8,
    /// How to segment: 0, [`Self::TCP_V4`], [`Self::TCP_V6`] or [`Self::UDP`], and [`Self::TCP_ECN`].
    pub gso_type: u8,
    /// Length of the linear part.
    pub hdr_len: u16,
    /// Payload of a segment, in bytes.
    pub gso_size: u16,
    /// Offset from which the checksum is computed, in bytes.
    pub csum_start: u16,
    /// Place of the checksum, from `csum_start`.
    pub csum_offset: u16,
}

impl Offload {
    /// The checksum is that of the pseudo header (`CHECKSUM_PARTIAL`).
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// The checksum has been verified (`CHECKSUM_UNNECESSARY`).
    pub const IS_VALID: u8 = 2;
    /// TCP in IPv4.
    pub const TCP_V4: u8 = 1;
    /// TCP in IPv6.
    pub const TCP_V6: u8 = 4;
    /// UDP in either.
    pub const UDP: u8 = 5;
    /// Only the first segment has CWR.
    pub const TCP_ECN: u8 = 0x80;
}

/// A packet socket whose frames may be GSO super-packets and have incomplete checksums (`PACKET_VNET_HDR`).
#[derive(Debug)]
pub struct OffloadSocket(PacketSocket);

impl OffloadSocket {
    /// As [`PacketSocket::open`].
    ///
    /// # Errors
    /// As [`PacketSocket::open`].
    pub fn open(ns: &NetNs, device: &str) -> Result<Self> {
        const PACKET_VNET_HDR: libc::c_int = 15;
        let socket = PacketSocket::open(ns, device)?;
        sys::set_option(socket.0.as_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        // Frames without the header may have been received before the option was set.
        socket.drain()?;
        Ok(Self(socket))
    }

    /// Sends one frame, with its Ethernet header.
    ///
    /// # Errors
    /// `EINVAL` if the frame does not match the offload, and as [`PacketSocket::send`].
    pub fn send(&self, offload: Offload, frame: &[u8]) -> Result<()> {
        self.0.send(&[bytemuck::bytes_of(&offload), frame].concat())
    }

    /// As [`PacketSocket::receive_until`].
    ///
    /// # Errors
    /// As [`PacketSocket::receive`].
    pub fn receive_until(&self, timeout: Duration, mut is_last: impl FnMut(Offload, Vec<u8>) -> bool) -> Result<()> {
        self.0.receive_until(timeout, |mut bytes| {
            let frame = bytes.split_off(size_of::<Offload>().min(bytes.len()));
            bytemuck::try_pod_read_unaligned(&bytes).is_ok_and(|offload| is_last(offload, frame))
        })
    }

    /// As [`PacketSocket::drain`].
    ///
    /// # Errors
    /// As [`PacketSocket::receive`].
    pub fn drain(&self) -> Result<()> {
        self.0.drain()
    }
}

impl PacketSocket {
    /// Opens a socket on `device` inside `ns`.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or if there is no such device.
    pub fn open(ns: &NetNs, device: &str) -> Result<Self> {
        let opened = ns.enter(|| Self::open_here(device));
        opened.map(Self).with_context(|| format!("{}: cannot open a packet socket on {device}", ns.name()))
    }

    fn open_here(device: &str) -> io::Result<Socket> {
        const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
        let all = (libc::ETH_P_ALL as u16).to_be();
        // No protocol until the socket is bound, so that no frames of other devices are received.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20)?;
        sys::set_option(socket.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        let name = CString::new(device)?;
        // SAFETY: the name ends in NUL and outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the storage is large enough for every address family, and the length set is that of sockaddr_ll.
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

    /// Sends one frame, with its Ethernet header.
    ///
    /// # Errors
    /// `EMSGSIZE` if the frame exceeds the MTU of the device, `ENETDOWN`.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        (&self.0).write_all(frame).with_context(|| format!("cannot send a frame of {} bytes", frame.len()))
    }

    /// Sets the mark of the frames that are sent (`SO_MARK`). They keep it within the namespace.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`.
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        self.0.set_mark(mark).context("cannot set a mark")
    }

    /// Receives the next frame; `None` if there is none until `deadline`.
    ///
    /// # Errors
    /// `ENETDOWN` if the device is down.
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

    /// Receives frames until `is_last` returns true or `timeout` is over, then frames that follow immediately.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_until(&self, timeout: Duration, mut is_last: impl FnMut(Vec<u8>) -> bool) -> Result<()> {
        let mut deadline = Instant::now() + patient(timeout);
        while let Some(frame) = self.receive(deadline)? {
            if is_last(frame) {
                // Duplicates and stray frames follow immediately.
                deadline = deadline.min(Instant::now() + Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Discards all frames received so far.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn drain(&self) -> Result<()> {
        while self.receive(Instant::now())?.is_some() {}
        Ok(())
    }
}
