//! Errors of reading kernel state.

use std::io;

use crate::sys::{netlink::NetlinkError, netns::NetnsError};

/// An error of a netlink request, or of access to a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A netlink socket could not be opened.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused a request.
    #[error("cannot {action}: {source}{}", hint(source))]
    Netlink {
        /// Verb and object of the request, to follow "cannot".
        action: String,
        /// The kernel's error.
        source: NetlinkError,
    },
    /// A network namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// Remedy for some error numbers.
fn hint(error: &NetlinkError) -> &'static str {
    match error.errno {
        libc::EPERM | libc::EACCES => "; run as root, or with CAP_NET_ADMIN",
        libc::EOPNOTSUPP => "; this kernel does not support it",
        _ => "",
    }
}

impl KernelError {
    pub(crate) fn netlink(action: impl Into<String>) -> impl FnOnce(NetlinkError) -> Self {
        move |source| Self::Netlink { action: action.into(), source }
    }
}
