//! A snapshot of one network namespace.

use std::collections::HashSet;

use ipnet::Ipv4Net;
use overlay_common::VtepAddr;
use tokio::sync::OnceCell;

use super::{FdbEntry, Host, KernelError, Link, LinkKind, Neighbour, Reader};

/// The tables of one network namespace at one time. Each is read from the kernel on first use, and cached. A snapshot
/// is created for one task and dropped at its end.
#[derive(Debug)]
pub(crate) struct Snapshot {
    host: Host,
    links: OnceCell<Vec<Link>>,
    addresses: OnceCell<Vec<(u32, Ipv4Net)>>,
    fdb: OnceCell<Vec<FdbEntry>>,
    neighbours: OnceCell<Vec<Neighbour>>,
}

impl Host {
    /// An empty snapshot.
    #[must_use]
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            host: self.clone(),
            links: OnceCell::new(),
            addresses: OnceCell::new(),
            fdb: OnceCell::new(),
            neighbours: OnceCell::new(),
        }
    }
}

impl Snapshot {
    /// Every link, in the kernel's order.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn links(&self) -> Result<&[Link], KernelError> {
        Ok(self.links.get_or_try_init(|| self.host.links()).await?)
    }

    /// IPv4 addresses and their links.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn addresses(&self) -> Result<&[(u32, Ipv4Net)], KernelError> {
        Ok(self.addresses.get_or_try_init(|| self.host.addresses(None, None)).await?)
    }

    /// The entries of all bridges and VXLAN devices, except most of the learned ones; see [`Reader::fdb`].
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn fdb(&self) -> Result<&[FdbEntry], KernelError> {
        Ok(self.fdb.get_or_try_init(|| self.host.read(|reader| reader.fdb(None, &HashSet::new()))).await?)
    }

    /// The permanent entries of the IPv4 neighbour table.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn permanent_neighbours(&self) -> Result<&[Neighbour], KernelError> {
        Ok(self.neighbours.get_or_try_init(|| self.host.read(Reader::permanent_neighbours)).await?)
    }

    /// The underlay device: the link with this address, preferably an Ethernet device.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn link_by_address(&self, addr: VtepAddr) -> Result<Option<&Link>, KernelError> {
        // Addresses first: the link list that is read later contains the link of each address, or the link is gone.
        let addresses = self.addresses().await?;
        let indices: Vec<u32> =
            addresses.iter().filter(|(_, address)| address.addr() == addr.ipv4()).map(|(index, _)| *index).collect();
        let links = self.links().await?;
        let found = || links.iter().filter(|link| indices.contains(&link.index));
        Ok(found().find(|link| link.ethernet).or_else(|| found().next()))
    }

    /// IPv4 addresses that other hosts can send to: of Ethernet interfaces that are up, except bridges and overlay's
    /// devices.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn underlay_addresses(&self) -> Result<Vec<VtepAddr>, KernelError> {
        let addresses = self.addresses().await?;
        let links = self.links().await?;
        let usable = |index: u32| {
            links.iter().any(|link| {
                link.index == index && link.up && link.ethernet && link.kind != LinkKind::Bridge && !link.is_owned()
            })
        };
        Ok(addresses.iter().filter(|(index, _)| usable(*index)).map(|(_, address)| address.addr().into()).collect())
    }

    /// The namespace of the snapshot.
    pub(crate) const fn host(&self) -> &Host {
        &self.host
    }

    /// Discards links, addresses and entries, after a change of links. They are read again on next use.
    pub(crate) fn forget_links(&mut self) {
        self.links.take();
        self.addresses.take();
        self.forget_entries();
    }

    /// Discards the FDB and the neighbours, to free memory or after a change. They are read again on next use.
    pub(crate) fn forget_entries(&mut self) {
        self.fdb.take();
        self.neighbours.take();
    }
}
