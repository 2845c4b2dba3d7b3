//! IPsec: whether the kernel would encrypt, or demand encryption of, packets of this network namespace.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer},
    sys::{Socket, SocketAddr, protocols::NETLINK_XFRM},
};

/// `XFRM_MSG_GETPOLICY` (`include/uapi/linux/xfrm.h`).
const XFRM_MSG_GETPOLICY: u16 = 0x15;
/// Length of a netlink header and a `struct xfrm_userpolicy_id`.
const REQUEST_LEN: u32 = 16 + 64;

/// Whether the calling thread's network namespace has any XFRM policy. The programs know nothing of policies, so where
/// there is one, packets belong to the kernel.
///
/// # Errors
/// The socket's. A kernel without XFRM has no policies.
pub fn has_xfrm_policies() -> io::Result<bool> {
    let socket = match Socket::new(NETLINK_XFRM) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(false),
        other => other?,
    };
    let mut request = [0; REQUEST_LEN as usize];
    request[..4].copy_from_slice(&REQUEST_LEN.to_ne_bytes());
    request[4..6].copy_from_slice(&XFRM_MSG_GETPOLICY.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    // A dump begins with the first policy, or is over at once. What cannot be read counts as a policy.
    match NetlinkBuffer::new_checked(&answer).map(|first| first.message_type()) {
        Ok(NLMSG_DONE) => Ok(false),
        Ok(NLMSG_ERROR) => Err(io::Error::other("the kernel refuses to list XFRM policies")),
        Ok(_) | Err(_) => Ok(true),
    }
}
