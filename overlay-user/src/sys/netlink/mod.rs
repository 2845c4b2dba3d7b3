//! Netlink: one object or one change at a time over a [`connection`], tables over a socket that blocks ([`raw`]), rows of
//! changes in one datagram ([`bulk`]).

pub(crate) mod attribute;
pub(crate) mod bulk;
pub(crate) mod connection;
mod error;
pub(crate) mod raw;

pub(crate) use error::NetlinkError;
