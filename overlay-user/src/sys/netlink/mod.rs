//! Netlink: single objects and changes over a [`connection`], tables over a blocking socket ([`raw`]), batches of
//! changes in one datagram ([`bulk`]).

pub(crate) mod attribute;
pub(crate) mod bulk;
pub(crate) mod connection;
mod error;
pub(crate) mod raw;

pub(crate) use error::NetlinkError;
