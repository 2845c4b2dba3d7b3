//! IPsec: XFRM policies, which encrypt packets of this network namespace or require that they are encrypted.

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

/// `XFRM_MSG_GETDEFAULT`; request and answer are a `struct xfrm_userpolicy_default`: actions for in, forward and out.
const XFRM_MSG_GETDEFAULT: u16 = 0x28;
/// `XFRM_USERPOLICY_BLOCK`.
const BLOCK: u8 = 1;

/// `struct xfrm_userpolicy_info`, aligned.
const POLICY_LEN: usize = 168;
/// `XFRMA_MARK`: a `struct xfrm_mark`, value and mask.
const XFRMA_MARK: u16 = 21;

/// The packet mark that an XFRM policy matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PolicyMark {
    /// Value of the mark; 0 with mask 0: any mark.
    pub value: u32,
    /// Compared bits.
    pub mask: u32,
}

impl PolicyMark {
    /// Any mark.
    const ANY: Self = Self { value: 0, mask: 0 };
}

/// The marks of all XFRM policies of the calling thread's network namespace, one for each policy. A default policy that
/// blocks counts as a policy for packets with any mark.
///
/// # Errors
/// The socket's. A kernel without XFRM has no policies.
pub(crate) fn xfrm_policy_marks() -> io::Result<Vec<PolicyMark>> {
    let Some(socket) = Raw::open(NETLINK_XFRM)? else { return Ok(Vec::new()) };
    let policies = socket.dump(XFRM_MSG_GETPOLICY, &[0; POLICY_ID_LEN])?;
    let (_, default) = socket.get(XFRM_MSG_GETDEFAULT, &[0; 3])?;
    let default = blocks(&default).then_some(PolicyMark::ANY);
    Ok(policies.iter().map(|(_, policy)| mark(policy)).chain(default).collect())
}

/// Reads the mark of a policy message.
pub(crate) fn mark(policy: &[u8]) -> PolicyMark {
    let attributes = policy.get(POLICY_LEN..).unwrap_or_default();
    let mark = attribute(attributes, XFRMA_MARK).and_then(|mark| Some((ne32(mark, 0)?, ne32(mark, 4)?)));
    mark.map_or(PolicyMark::ANY, |(value, mask)| PolicyMark { value, mask })
}

/// Whether the default policy blocks packets to or from this host. Forwarded packets are not those of VXLAN devices.
pub(super) fn blocks(default: &[u8]) -> bool {
    let [input, _, output, ..] = default else { return true };
    [*input, *output].contains(&BLOCK)
}

/// Whether the calling thread's network namespace has any XFRM policy, or a default policy that blocks. The programs do
/// not evaluate policies, so packets fall back to the kernel path if there is one.
///
/// # Errors
/// The socket's. A kernel without XFRM has no policies.
pub(crate) fn has_xfrm_policies() -> io::Result<bool> {
    xfrm_policy_marks().map(|marks| !marks.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_policy_blocks_in_either_direction_of_this_host() {
        /// `XFRM_USERPOLICY_ACCEPT`.
        const ACCEPT: u8 = 2;
        for (default, expected) in [
            ([ACCEPT; 3], false),
            ([ACCEPT, BLOCK, ACCEPT], false),
            ([BLOCK, ACCEPT, ACCEPT], true),
            ([ACCEPT, ACCEPT, BLOCK], true),
            ([0; 3], false),
        ] {
            assert_eq!(blocks(&default), expected, "{default:?}");
            assert_eq!(blocks(&[&default[..], &[0]].concat()), expected, "{default:?} with padding");
        }
    }

    #[test]
    fn unreadable_default_policy_blocks() {
        assert!(blocks(&[]) && blocks(&[2, 2]));
    }
}
