//! The devices that UDP sockets are bound to.

use std::{collections::BTreeSet, io};

use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;

use crate::sys::netlink::{attribute::ne32, raw::Raw};

/// Offset of `idiag_sport` in a `struct inet_diag_msg`.
const SOURCE_PORT: usize = 4;
/// Offset of `idiag_if` in it.
const INTERFACE: usize = 40;

/// Ports and bound interfaces of the IPv4 UDP sockets of the calling thread's network namespace; 0: not bound.
///
/// # Errors
/// The socket's, also if the kernel lacks `udp_diag`.
pub(crate) fn udp_sockets() -> io::Result<BTreeSet<(u16, u32)>> {
    /// `SOCK_DIAG_BY_FAMILY`.
    const GET: u16 = 20;
    const IPPROTO_UDP: u8 = 17;
    /// Length of a `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, socket.
    const REQUEST: usize = 56;
    let mut request = [0; REQUEST];
    (request[0], request[1]) = (libc::AF_INET.to_ne_bytes()[0], IPPROTO_UDP);
    request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    let socket = Raw::open(NETLINK_SOCK_DIAG)?.ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTONOSUPPORT))?;
    Ok(socket.dump(GET, &request)?.iter().filter_map(|(_, body)| binding(body)).collect())
}

/// Port and interface of a socket.
pub(crate) fn binding(socket: &[u8]) -> Option<(u16, u32)> {
    let port = socket.get(SOURCE_PORT..SOURCE_PORT + 2)?.try_into().ok()?;
    Some((u16::from_be_bytes(port), ne32(socket, INTERFACE)?))
}
