//! External networks in other network namespaces (sandboxes): netns ids, cross-netns veths (shims), and instances of
//! the programs.
//!
//! A namespace is never held open, because an open file keeps it and its devices alive after its owner has removed it.
//! It is opened by its path for each operation, and skipped when the path leads to another namespace.

use std::collections::{BTreeMap, BTreeSet};

use overlay_common::{Vni, maps::PortKey};
use tracing::debug;

use super::{Daemon, DaemonError};
use crate::{
    apply::{
        bpf::AttachError,
        ledger::{AttachPoint, Ledger, Owned, PinError, PinRoot, RecordedNetns},
        net,
    },
    kernel::{self, Host, KernelError, Link},
    model::{HostNetworks, discovery::NetnsRef},
    plan::tables,
    sys::netns::{Netns, NetnsError},
};

/// The namespaces of external networks.
#[derive(Debug, Default)]
pub(super) struct Sandboxes {
    namespaces: BTreeMap<u16, RecordedNetns>,
    shims: BTreeMap<Vni, Ready>,
}

/// A shim whose programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ready {
    netns_id: u16,
    ends: net::Shim,
}

impl Ready {
    fn hooks(self) -> [AttachPoint; 2] {
        [
            AttachPoint::ShimIn(PortKey { netns_id: self.netns_id.into(), ifindex: self.ends.inner }),
            AttachPoint::ShimOut(self.ends.outer),
        ]
    }
}

/// The namespace of a network; `None`: the daemon's own.
fn recorded(netns: &NetnsRef) -> Option<RecordedNetns> {
    match netns {
        NetnsRef::Own => None,
        NetnsRef::Other { path, inode } => Some(RecordedNetns { inode: *inode, path: path.clone() }),
    }
}

impl Sandboxes {
    /// The netns ids that are recorded at this pin root.
    pub(super) fn read(root: &PinRoot) -> Result<Self, PinError> {
        Ok(Self { namespaces: root.netns_by_number()?, shims: BTreeMap::new() })
    }

    /// The namespace with this netns id, if it still exists.
    pub(super) fn open(&self, netns_id: u32) -> Option<Netns> {
        self.namespaces.get(&u16::try_from(netns_id).ok()?)?.open().ok()
    }

    /// The shims into the namespaces of these networks, for the plan of the maps.
    pub(super) fn facts(&self, networks: &HostNetworks) -> BTreeMap<Vni, tables::Shim> {
        let wanted = wanted_namespaces(networks);
        let right = self.shims.iter().filter(|(vni, ready)| wanted.get(vni) == self.namespaces.get(&ready.netns_id));
        right.map(|(vni, ready)| (*vni, tables::Shim { netns_id: ready.netns_id, outer: ready.ends.outer })).collect()
    }

    /// The hooks of the shims, and the networks that they serve.
    pub(super) fn hooks(&self) -> impl Iterator<Item = (AttachPoint, Option<Vni>)> {
        self.shims.iter().flat_map(|(vni, ready)| ready.hooks().map(|hook| (hook, Some(*vni))))
    }

    /// The namespaces by their netns ids.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = (u32, &RecordedNetns)> {
        self.namespaces.iter().map(|(number, netns)| (u32::from(*number), netns))
    }

    /// The shims that are in use, with the namespaces that they lead to.
    pub(super) fn shims(&self) -> impl Iterator<Item = (Vni, &RecordedNetns)> {
        self.shims.iter().filter_map(|(vni, ready)| Some((*vni, self.namespaces.get(&ready.netns_id)?)))
    }

    /// Whether all networks that need a shim have one.
    pub(super) fn cover(&self, networks: &HostNetworks) -> bool {
        wanted_namespaces(networks).keys().all(|vni| self.shims.contains_key(vni))
    }

    /// Forgets the shims, so that other programs are attached to them.
    pub(super) fn forget_shims(&mut self) {
        self.shims.clear();
    }
}

/// The namespaces of the accelerated networks that are not in the daemon's own.
fn wanted_namespaces(networks: &HostNetworks) -> BTreeMap<Vni, RecordedNetns> {
    networks.accelerated().filter_map(|(vni, _, external)| Some((vni, recorded(&external.netns)?))).collect()
}

impl Daemon {
    /// Forgets shims that are missing or unused, and creates the desired ones. A network whose namespace is gone is
    /// skipped; discovery reports its removal.
    pub(super) async fn create_shims(&mut self, links: &[Link]) -> Result<(), DaemonError> {
        let wanted = wanted_namespaces(&self.networks);
        let lost = self.sandboxes.shims.iter().filter(|(vni, ready)| {
            let name = kernel::shim_name(**vni);
            let is_there = links.iter().any(|link| link.index == ready.ends.outer && link.name == name && link.up);
            !is_there || wanted.get(vni) != self.sandboxes.namespaces.get(&ready.netns_id)
        });
        let lost: Vec<Vni> = lost.map(|(vni, _)| *vni).collect();
        for vni in &lost {
            debug!("the shim of VNI {vni} is missing or unused");
            self.forget_shim(*vni);
        }
        let mut failed = Ok(());
        if !lost.is_empty() {
            // Packets must not be sent to a lost shim while a new one is created.
            failed = self.prune();
        }
        for (vni, netns) in wanted {
            if self.sandboxes.shims.contains_key(&vni) {
                continue;
            }
            match self.create_shim(vni, &netns).await {
                Ok(ready) => _ = self.sandboxes.shims.insert(vni, ready),
                Err(error) => {
                    self.datapath.unload_instance(vni);
                    // A namespace can be removed between any two steps, which is no error.
                    match netns.open() {
                        Err(gone @ NetnsError::Gone { .. }) => debug!("VNI {vni}: {gone} ({error})"),
                        _ => failed = failed.and(Err(error)),
                    }
                }
            }
        }
        failed
    }

    /// Forgets a shim and the programs with its index; the next shim gets new ones, also at the ports.
    pub(super) fn forget_shim(&mut self, vni: Vni) {
        let Some(ready) = self.sandboxes.shims.remove(&vni) else { return };
        self.datapath.unload_instance(vni);
        self.applied
            .attached
            .retain(|hook| hook.netns_id() != u32::from(ready.netns_id) && !ready.hooks().contains(hook));
    }

    async fn create_shim(&mut self, vni: Vni, recorded: &RecordedNetns) -> Result<Ready, DaemonError> {
        let netns = recorded.open().map_err(KernelError::Netns)?;
        let netns_id = self.netns_id(recorded)?;
        let recorded = self.ledger.record(&Owned::Shim(vni))?;
        let created = self.host.shim(vni, &netns, recorded).await;
        if created.is_err() {
            self.ledger.roll_back(&Owned::Shim(vni), recorded)?;
        }
        let ready = Ready { netns_id, ends: created? };
        self.datapath.load_instance(&self.ledger, vni, netns_id, ready.ends.inner)?;
        // Programs of an earlier daemon stay attached until the new maps are filled.
        let busy = if self.datapath.is_taking_over() { self.ledger.root().hooks()? } else { Vec::new() };
        for hook in ready.hooks().into_iter().filter(|hook| !busy.contains(hook)) {
            self.attach_one(hook, Some(vni))?;
        }
        Ok(ready)
    }

    /// The netns id of a namespace; a new one is recorded.
    fn netns_id(&mut self, netns: &RecordedNetns) -> Result<u16, DaemonError> {
        let namespaces = &mut self.sandboxes.namespaces;
        if let Some((number, _)) = namespaces.iter().find(|(_, known)| *known == netns) {
            return Ok(*number);
        }
        // There are fewer networks than netns ids.
        let number = (1..=u16::MAX).find(|number| !namespaces.contains_key(number)).unwrap_or(u16::MAX);
        // Objects in the namespace have records of their own.
        let _ = self.ledger.record(&Owned::Netns(number, netns.clone()))?;
        namespaces.insert(number, netns.clone());
        Ok(number)
    }

    /// Attaches one program in the namespace of its device.
    pub(super) fn attach_one(&mut self, hook: AttachPoint, vni: Option<Vni>) -> Result<(), AttachError> {
        match (hook.netns_id(), vni) {
            (0, _) => self.datapath.attach(&self.ledger, hook)?,
            (netns_id, Some(vni)) => {
                let netns = self.sandboxes.open(netns_id).ok_or(AttachError::Gone(hook.ifindex()))?;
                self.datapath.attach_in(&self.ledger, &netns, vni, hook)?;
            }
            (_, None) => return Err(AttachError::Gone(hook.ifindex())),
        }
        self.applied.attached.insert(hook);
        Ok(())
    }

    /// Removes unused shims, and the netns ids of namespaces without shims and hooks. Must be called after maps and
    /// hooks no longer refer to them.
    pub(super) async fn remove_shims(&mut self) -> Result<(), DaemonError> {
        let wanted: BTreeSet<Vni> = self.networks.accelerated().map(|(vni, ..)| vni).collect();
        let owned = self.ledger.root().owned()?;
        let shims = owned.iter().filter_map(|owned| if let Owned::Shim(vni) = owned { Some(*vni) } else { None });
        for vni in shims.filter(|vni| !self.sandboxes.shims.contains_key(vni) && !wanted.contains(vni)) {
            remove_shim(&self.host, &self.ledger, vni).await?;
        }
        let hooks = self.ledger.root().hooks()?;
        let in_use: Vec<RecordedNetns> = wanted_namespaces(&self.networks).into_values().collect();
        let is_used = |number: &u16, netns: &RecordedNetns| {
            in_use.contains(netns) || hooks.iter().any(|hook| hook.netns_id() == u32::from(*number))
        };
        let idle: Vec<_> = self.sandboxes.namespaces.iter().filter(|(number, netns)| !is_used(number, netns)).collect();
        let idle: Vec<_> = idle.into_iter().map(|(number, netns)| (*number, netns.clone())).collect();
        for (number, netns) in idle {
            if let Some(error) = remove_netns(&self.ledger, number, &netns).await.into_iter().next() {
                return Err(error);
            }
            self.sandboxes.namespaces.remove(&number);
        }
        Ok(())
    }
}

/// Removes the recorded shim of a network.
pub(super) async fn remove_shim(host: &Host, ledger: &Ledger, vni: Vni) -> Result<(), DaemonError> {
    host.delete_shim(vni).await?;
    Ok(ledger.forget(&Owned::Shim(vni))?)
}

/// Removes the clsact qdiscs that overlay created in another namespace, except those with filters of other programs,
/// and then the record of its netns id. Returns the failures.
pub(super) async fn remove_netns(ledger: &Ledger, number: u16, netns: &RecordedNetns) -> Vec<DaemonError> {
    let owned = match ledger.root().owned() {
        Ok(owned) => owned,
        Err(error) => return vec![error.into()],
    };
    let mut failed = Vec::new();
    for qdisc in owned {
        let Owned::Clsact(PortKey { netns_id, ifindex }) = qdisc else { continue };
        if netns_id != u32::from(number) {
            continue;
        }
        let inside = netns.open().map_err(KernelError::Netns).and_then(|netns| Host::open_in(&netns));
        let removed = match inside {
            Ok(inside) => inside.delete_idle_clsact(ifindex).await,
            Err(KernelError::Netns(gone @ NetnsError::Gone { .. })) => {
                debug!("the qdiscs were removed with their namespace: {gone}");
                Ok(())
            }
            Err(error) => Err(error),
        };
        failed.extend(removed.map_err(DaemonError::from).and_then(|()| Ok(ledger.forget(&qdisc)?)).err());
    }
    if failed.is_empty() {
        failed.extend(ledger.forget(&Owned::Netns(number, netns.clone())).err().map(DaemonError::from));
    }
    failed
}
