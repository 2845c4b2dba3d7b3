//! IPsec: whether the kernel would encrypt, or demand encryption of, packets of this network namespace.

use std::io;

use rtnetlink::sys::protocols::NETLINK_XFRM;

use crate::sys::netlink::{
    attribute::{attribute, ne32},
    raw::Raw,
};

/// `XFRM_MSG_GETPOLICY` (`include/uapi/linux/xfrm.h`).
const XFRM_MSG_GETPOLICY: u16 = 0x15;
/// Length of a `struct xfrm_userpolicy_id`.
const POLICY_ID_LEN: usize = 64;

/// `struct xfrm_userpolicy_info`, aligned.
const POLICY_LEN: usize = 168;
/// `XFRMA_MARK`: a `struct xfrm_mark`, value and mask.
const XFRMA_MARK: u16 = 21;

/// The packets that an XFRM policy is limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyMark {
    /// The mark's value; 0 with mask 0 where the policy is for packets with any mark.
    pub value: u32,
    /// Which bits are compared.
    pub mask: u32,
}

/// The marks of all XFRM policies of the calling thread's network namespace, one for each policy.
///
/// # Errors
/// The socket's. A kernel without XFRM has no policies.
pub fn xfrm_policy_marks() -> io::Result<Vec<PolicyMark>> {
    let Some(socket) = Raw::open(NETLINK_XFRM)? else { return Ok(Vec::new()) };
    let policies = socket.dump(XFRM_MSG_GETPOLICY, &[0; POLICY_ID_LEN])?;
    Ok(policies.iter().map(|(_, policy)| mark(policy)).collect())
}

/// What a policy's message says.
pub(crate) fn mark(policy: &[u8]) -> PolicyMark {
    let attributes = policy.get(POLICY_LEN..).unwrap_or_default();
    let mark = attribute(attributes, XFRMA_MARK).and_then(|mark| Some((ne32(mark, 0)?, ne32(mark, 4)?)));
    mark.map_or(PolicyMark { value: 0, mask: 0 }, |(value, mask)| PolicyMark { value, mask })
}

/// Whether the calling thread's network namespace has any XFRM policy. The programs know nothing of policies, so where
/// there is one, packets belong to the kernel.
///
/// # Errors
/// The socket's. A kernel without XFRM has no policies.
pub fn has_xfrm_policies() -> io::Result<bool> {
    xfrm_policy_marks().map(|marks| !marks.is_empty())
}
