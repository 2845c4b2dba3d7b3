//! What can go wrong when the kernel is read.

use std::io;

use crate::sys::{netlink::NetlinkError, netns::NetnsError};

/// A failure to ask the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused a request that has no more special explanation.
    #[error("cannot {action}: {source}{}", hint(source))]
    Netlink {
        /// What was asked for, as in "cannot ...".
        action: String,
        /// What the kernel says.
        source: NetlinkError,
    },
    /// A network namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// Advice for errors whose number says enough.
fn hint(error: &NetlinkError) -> &'static str {
    match error.errno {
        libc::EPERM | libc::EACCES => "; run as root, or with CAP_NET_ADMIN",
        libc::EOPNOTSUPP => "; this kernel was built without it",
        _ => "",
    }
}

impl KernelError {
    pub(crate) fn netlink(action: impl Into<String>) -> impl FnOnce(NetlinkError) -> Self {
        move |source| Self::Netlink { action: action.into(), source }
    }
}
