//! Netlink connections to one network namespace.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::Ipv4Net;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

use super::{KernelError, Link, Reader, links::new_link};
use crate::sys::{
    netlink::{self, NetlinkError},
    netns::{self, Netns},
};

/// A network namespace of this machine, through three netlink sockets: for single objects, to read tables, and for
/// batches of table entries.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) netlink: netlink::connection::Netlink,
    reader: Arc<Mutex<Reader>>,
    pub(crate) bulk: netlink::bulk::Bulk,
}

impl Host {
    /// Connects to the network namespace that the calling thread is in. The connection runs as a task of the current
    /// tokio runtime until the last clone is dropped.
    ///
    /// # Errors
    /// [`KernelError::Socket`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn open() -> Result<Self, KernelError> {
        let netlink = netlink::connection::Netlink::open().map_err(KernelError::Socket)?;
        let reader = Arc::new(Mutex::new(Reader::open()?));
        Ok(Self { netlink, reader, bulk: netlink::bulk::Bulk::open().map_err(KernelError::Socket)? })
    }

    /// Whether the connection works. A connection that has failed does not recover.
    #[must_use]
    pub(crate) fn is_connected(&self) -> bool {
        self.netlink.is_connected()
    }

    /// Reads tables on a thread that may block: the kernel may have to wait for a concurrent change of links.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, KernelError> {
        let (reader, span) = (Arc::clone(&self.reader), tracing::Span::current());
        let read = move || span.in_scope(|| read(&reader.lock().unwrap_or_else(PoisonError::into_inner)));
        tokio::task::spawn_blocking(read).await.map_err(|error| KernelError::Socket(io::Error::other(error)))?
    }

    /// Connects to another network namespace. The connection runs on the current tokio runtime.
    ///
    /// # Errors
    /// [`KernelError::Socket`], and [`KernelError::Netns`] if the namespace cannot be entered.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn open_in(netns: &netns::Netns) -> Result<Self, KernelError> {
        let runtime = tokio::runtime::Handle::current();
        netns
            .within(move || {
                let _guard = runtime.enter();
                Self::open()
            })
            .map_err(KernelError::Netns)?
    }
}

impl Host {
    pub(crate) async fn links(&self) -> Result<Vec<Link>, KernelError> {
        self.read(Reader::links).await
    }

    /// The link with this name, if there is one.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn link_by_name(&self, name: &str) -> Result<Option<Link>, KernelError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        found(self.get_link(request).await).map_err(KernelError::netlink(format!("look up interface {name}")))
    }

    /// The link with this index, if there is one.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn link_by_index(&self, index: u32) -> Result<Option<Link>, KernelError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        found(self.get_link(request).await).map_err(KernelError::netlink(format!("look up interface number {index}")))
    }

    /// See [`Reader::addresses`].
    pub(crate) async fn addresses(
        &self,
        index: Option<u32>,
        netns: Option<i32>,
    ) -> Result<Vec<(u32, Ipv4Net)>, KernelError> {
        self.read(move |reader| reader.addresses(index, netns)).await
    }

    /// See [`Reader::link_in`].
    pub(crate) async fn link_in(&self, netns: i32, index: u32) -> Result<Option<Link>, KernelError> {
        self.read(move |reader| reader.link_in(netns, index)).await
    }

    /// See [`Reader::netns_number`].
    pub(crate) async fn netns_number(&self, netns: &Netns) -> Result<Option<i32>, KernelError> {
        let netns = netns.clone();
        self.read(move |reader| reader.netns_number(&netns)).await
    }

    async fn get_link(&self, request: LinkMessage) -> Result<Option<Link>, NetlinkError> {
        self.netlink.get(RouteNetlinkMessage::GetLink(request)).await.map(new_link)
    }
}

/// Converts the error for a missing object to `None`.
fn found<T>(answer: Result<Option<T>, NetlinkError>) -> Result<Option<T>, NetlinkError> {
    match answer {
        Err(error) if error.is_missing() => Ok(None),
        answer => answer,
    }
}
