//! Device features without an rtnetlink attribute.

use std::{io, os::fd::AsRawFd};

use socket2::{Domain, Socket, Type};

/// `ETHTOOL_GTXCSUM` (`include/uapi/linux/ethtool.h`).
const ETHTOOL_GTXCSUM: u32 = 0x16;
/// `ETHTOOL_SGRO`.
const ETHTOOL_SGRO: u32 = 0x2c;
nix::ioctl_readwrite_bad! {
    /// `SIOCETHTOOL` (`include/uapi/linux/sockios.h`).
    siocethtool, 0x8946, libc::ifreq
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// Turns generic receive offload on, for a device of the calling thread's network namespace.
///
/// On a veth this enables NAPI, without which the kernel drops frames that XDP redirects to the peer (`veth_xdp_xmit`,
/// Linux 5.13 and later).
pub(crate) fn gro_on(device: &str) -> io::Result<()> {
    ioctl(device, Value { cmd: ETHTOOL_SGRO, data: 1 }).map(|_| ())
}

/// Whether transmit checksum offload of a device in the calling thread's network namespace is on, so that it receives
/// packets without checksums.
///
/// # Errors
/// The kernel's, for instance for a device that does not exist.
pub(crate) fn tx_checksum(device: &str) -> io::Result<bool> {
    ioctl(device, Value { cmd: ETHTOOL_GTXCSUM, data: 0 }).map(|data| data != 0)
}

/// Runs one command and returns its data.
fn ioctl(device: &str, mut value: Value) -> io::Result<u32> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: ifreq is plain C data, for which all zeros are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request has a zero-terminated device name and points to a struct ethtool_value; both outlive the
    // call.
    unsafe { siocethtool(socket.as_raw_fd(), &raw mut request) }?;
    Ok(value.data)
}
