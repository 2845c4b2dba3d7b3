//! Conflicts with the desired objects. Read-only, except [`Host::remove_unfinished`].

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    net::{Ipv4Addr, UdpSocket},
};

use overlay_common::Vni;

use crate::{
    apply::{
        ledger::{Ledger, Owned},
        net::HostError,
    },
    kernel::{
        Host, Link, LinkKind, Snapshot,
        names::{bridge_name, vxlan_name},
    },
    plan::host::DesiredHost,
};

impl Snapshot {
    /// Looks for devices and sockets that conflict with the desired objects. `owned` is the caller's ownership record.
    ///
    /// # Errors
    /// The first conflict: [`HostError::NotOwned`], [`HostError::OtherOverlay`], [`HostError::VniInUse`],
    /// [`HostError::UdpPortInUse`], [`HostError::NoLink`] or [`HostError::PortInUse`].
    pub(crate) async fn conflicts(&self, desired: &DesiredHost, owned: &BTreeSet<Owned>) -> Result<(), HostError> {
        let links = self.links().await?;
        let by_name: HashMap<&str, &Link> = links.iter().map(|link| (link.name.as_str(), link)).collect();
        let bridges = desired.bridges.keys().map(|vni| bridge_name(*vni));
        let vxlans = desired.vxlans.keys().map(|vni| vxlan_name(*vni));
        for name in bridges.chain(vxlans).chain(desired.veths.keys().cloned()) {
            match by_name.get(name.as_str()) {
                Some(link) if !link.is_owned() => return Err(not_owned(link)),
                Some(link) if !owned.contains(&Owned::link(link)) => return Err(HostError::OtherOverlay { name }),
                _ => {}
            }
        }
        for (&vni, vxlan) in &desired.vxlans {
            let name = vxlan_name(vni);
            let own = by_name.get(name.as_str()).and_then(|link| vxlan_of(link));
            if let Some(other) = same_vni(links, vni, vxlan.port).filter(|other| other.name != name) {
                let holder = format!("interface {}", other.name);
                return Err(HostError::VniInUse { vni, port: vxlan.port, holder });
            }
            // An existing device of this daemon holds the port; another VXLAN device may share it.
            if own.is_none_or(|(_, port)| port != vxlan.port)
                && is_bound(vxlan.port)
                && let Some(holder) = socket_holder(vxlan.port)
            {
                return Err(HostError::UdpPortInUse { vni, port: vxlan.port, holder });
            }
        }
        for (name, &vni) in &desired.ports {
            let port = by_name.get(name.as_str()).ok_or_else(|| HostError::NoLink { name: name.clone() })?;
            let master = links.iter().find(|link| Some(link.index) == port.master);
            if let Some(master) = master.filter(|master| master.name != bridge_name(vni) && !master.is_owned()) {
                return Err(HostError::PortInUse { name: name.clone(), bridge: master.name.clone() });
            }
        }
        Ok(())
    }
}

impl Host {
    /// Removes devices of a killed daemon that have a record but no alias yet. Returns the failures.
    ///
    /// # Errors
    /// When the devices cannot be listed, or the record cannot be read.
    pub(crate) async fn remove_unfinished(
        &self,
        ledger: &Ledger,
        snapshot: &mut Snapshot,
    ) -> Result<Vec<HostError>, HostError> {
        let owned = ledger.root().owned()?;
        let links = snapshot.links().await?.iter();
        let unfinished = links.filter(|link| link.alias.is_none() && owned.contains(&Owned::link(link)));
        let unfinished: Vec<Link> = unfinished.cloned().collect();
        let mut failed = Vec::new();
        for link in &unfinished {
            failed.extend(self.delete_link(link).await.err());
        }
        if !unfinished.is_empty() {
            snapshot.forget_links();
        }
        Ok(failed)
    }
}

/// The error for EEXIST on the creation of a VXLAN device.
pub(crate) fn vni_in_use<'l>(links: impl IntoIterator<Item = &'l Link>, vni: Vni, port: u16) -> HostError {
    let holder = match same_vni(links, vni, port) {
        Some(link) => format!("interface {}", link.name),
        None => "a device created here and moved to another network namespace".into(),
    };
    HostError::VniInUse { vni, port, holder }
}

/// The holder of a UDP port that the device `own` cannot bind.
pub(crate) fn port_holder<'l>(links: impl IntoIterator<Item = &'l Link>, port: u16, own: &str) -> String {
    if let Some(holder) = socket_holder(port) {
        return holder;
    }
    let mut links = links.into_iter();
    match links.find(|link| link.name != own && vxlan_of(link).is_some_and(|(_, other)| other == port)) {
        Some(link) => format!("interface {}, a VXLAN device with other options", link.name),
        None => format!("another socket (see: ss -ulpn sport = :{port})"),
    }
}

/// VNI and UDP port of a VXLAN device.
fn vxlan_of(link: &Link) -> Option<(u32, u16)> {
    match &link.kind {
        LinkKind::Vxlan(info) => Some((info.vni, info.port)),
        _ => None,
    }
}

fn same_vni<'l>(links: impl IntoIterator<Item = &'l Link>, vni: Vni, port: u16) -> Option<&'l Link> {
    links.into_iter().find(|link| vxlan_of(link) == Some((vni.get(), port)))
}

/// Whether a UDP port of the calling thread's network namespace is already bound.
fn is_bound(port: u16) -> bool {
    let result = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
    result.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// The process with a UDP socket on this port in the calling thread's network namespace.
fn socket_holder(port: u16) -> Option<String> {
    let suffix = format!(":{port:04X}");
    let table = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let tables = [table("udp"), table("udp6")];
    let inodes = tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(|line| {
        // sl, local, rem, st, queues, tr:tm, retrnsmt, uid, timeout, inode. 0: a socket of the kernel.
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let inode = fields.nth(7)?;
        (local.ends_with(&suffix) && inode != "0").then(|| format!("socket:[{inode}]"))
    });
    inodes.into_iter().find_map(|socket| process_with(&socket))
}

fn process_with(socket: &str) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut descriptors = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        descriptors.find(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == socket))?;
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        Some(format!("process {} (PID {pid})", name.trim_end()))
    })
}

/// The error for a device without owner mark.
pub(crate) fn not_owned(link: &Link) -> HostError {
    let kind = match &link.kind {
        LinkKind::Vxlan(info) => format!("vxlan, VNI {}", info.vni),
        kind => kind.name().to_owned(),
    };
    HostError::NotOwned { name: link.name.clone(), kind }
}
