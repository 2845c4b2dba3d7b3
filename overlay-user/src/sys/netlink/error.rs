//! Errors of netlink requests.

use std::{fmt, io};

use rtnetlink::packet_core::ErrorMessage;

use super::attribute::{attribute, text};

/// The kernel's error for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkError {
    /// Positive `errno`; `EPIPE` if the connection has failed.
    pub errno: i32,
    /// The kernel's message (extended acknowledgement), if there is one.
    pub message: Option<String>,
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl NetlinkError {
    /// `code`: a negative `errno`. `attributes`: the extended acknowledgement.
    pub(crate) fn new(code: i32, attributes: &[u8]) -> Self {
        /// `NLMSGERR_ATTR_MSG`: a text message.
        const MESSAGE: u16 = 1;
        let message = attribute(attributes, MESSAGE).map(|message| text(message).trim_end_matches('.').to_owned());
        Self { errno: code.saturating_abs(), message }
    }

    pub(crate) const fn errno(errno: i32) -> Self {
        Self { errno, message: None }
    }

    /// Whether the error is one of those that rtnetlink returns for a missing object.
    pub(crate) fn is_missing(&self) -> bool {
        [libc::ENODEV, libc::ENOENT, libc::ENXIO, libc::ESRCH, libc::EADDRNOTAVAIL].contains(&self.errno)
    }
}

impl From<ErrorMessage> for NetlinkError {
    fn from(error: ErrorMessage) -> Self {
        /// Length of the request's netlink header, which comes first (`NETLINK_CAP_ACK`: without the payload).
        const HEADER: usize = 16;
        Self::new(error.raw_code(), error.header.get(HEADER..).unwrap_or_default())
    }
}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        Self::errno(error.raw_os_error().unwrap_or(libc::EPIPE))
    }
}

impl From<NetlinkError> for io::Error {
    fn from(error: NetlinkError) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroI32;

    use super::*;

    /// The absolute value of `i32::MIN` does not fit an `i32`.
    #[test]
    fn smallest_error_code_is_an_error() {
        let mut message = ErrorMessage::default();
        message.code = NonZeroI32::new(i32::MIN);
        assert_eq!(NetlinkError::from(message).errno, i32::MAX);
    }
}
