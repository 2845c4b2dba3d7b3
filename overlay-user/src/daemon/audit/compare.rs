//! Comparison of the desired state with the actual state, which is read again.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use overlay_common::{
    Vni,
    maps::{self, Map, PortKey},
};

use super::super::{Daemon, DaemonError, Extent, PreflightError, Scope, health::Part};
use crate::{
    apply::{
        ledger::{AttachPoint, RecordedNetns},
        net::HostError,
    },
    kernel::{self, FdbEntry, KernelError, Link, LinkKind, Neighbour, Reader, Snapshot},
    model::{Finding, Network, discovery::NetnsRef, network::External},
    observe::audit::{self, Compared, Difference, ExternalTables, Names},
    plan::{
        host::HostChanges,
        tables::{self, Changes, Tables},
    },
    sys::netns::Netns,
};

/// Differences between the desired and the actual state, with the changes that repair them.
pub(super) struct Comparison {
    pub(super) compared: Compared,
    pub(super) differences: Vec<Difference>,
    /// [`Daemon::refused`].
    pub(super) refused: Vec<Finding>,
    pub(super) found: Tables,
    /// Changes from the actual to the desired maps.
    pub(super) maps: Changes,
    pub(super) objects: HostChanges,
    /// Hooks without their program, with the networks of their ports.
    pub(super) hooks: BTreeMap<AttachPoint, Option<Vni>>,
    /// Missing or broken shims.
    pub(super) shims: Vec<Vni>,
    /// Maps without their pins.
    pub(super) pins: Vec<&'static str>,
}

impl Daemon {
    /// Applies pending changes of next hops, and compares the desired with the actual state.
    ///
    /// # Errors
    /// When a table cannot be read, or there is no desired state because the underlay is unusable.
    pub(super) async fn compare(&mut self) -> Result<Comparison, DaemonError> {
        let mut snapshot = self.host.snapshot();
        // Other errors are reported by their parts.
        if let Err(
            error @ DaemonError::Preflight(PreflightError::NoAddress { .. } | PreflightError::NotEthernet { .. }),
        ) = self.reconcile_from(&mut snapshot, Scope::NextHops, Extent::BestEffort).await
        {
            return Err(error);
        }
        let underlay = match self.networks.served {
            Some(address) => snapshot.link_by_address(address).await?.map(|link| (address, link.clone())),
            None => None,
        };
        let (objects, _) = self.wanted_objects(underlay.as_ref(), snapshot.links().await?)?;
        let state = snapshot.state(&objects, &self.ledger.root().owned()?).await?;
        let namespaces = self.read_sandboxes().await;
        let plan = HostChanges::between(&state, &objects);
        let mut found = self.datapath.maps.read()?;
        let wanted =
            tables::desired(self.inputs.view.as_ref(), &self.networks, &self.applied.facts, &self.applied.tables)?;
        // OVL_TXPORTS does not hold the namespace of an interface; its other fields are compared.
        found.copy_txport_netns(&wanted);
        let maps = Changes::between(&found, &wanted);
        let mut names = self.names(snapshot.links().await?, &namespaces);
        for (index, vtep) in found.vteps.iter().chain(&wanted.vteps) {
            names.vteps.insert(*index, vtep.outer.dst.into());
        }

        let mut comparison = Comparison {
            compared: Compared {
                map_entries: wanted.count(),
                kernel_objects: objects.count(),
                namespaces: 1 + names.namespaces.len(),
                ..Compared::default()
            },
            differences: audit::kernel(&state, &plan, self.health.last_error(Part::Objects)),
            refused: self.refused(),
            found,
            maps,
            objects: plan,
            hooks: BTreeMap::new(),
            shims: Vec::new(),
            pins: Vec::new(),
        };
        comparison.differences.extend(audit::maps(
            &comparison.maps,
            &self.applied.tables,
            &names,
            self.health.last_error(Part::Maps),
        ));
        self.compare_pins(&mut comparison);
        self.compare_hooks(&mut comparison, underlay.as_ref().map(|(_, link)| link), &names)?;
        self.compare_shims(&mut comparison).await?;
        self.compare_external(&mut comparison, &snapshot, &namespaces).await;
        Ok(comparison)
    }

    /// The networks that take the kernel path, and ports of the others, as `overlay status` lists them.
    fn refused(&self) -> Vec<Finding> {
        let of_network = |network: &Network| {
            let refusal = network.admission.refusal().map(|refusal| refusal.finding.clone());
            let ports = network.kind.external().filter(|_| network.is_accelerated());
            let ports = ports.into_iter().flat_map(|external| external.ports.values());
            refusal.into_iter().chain(ports.filter_map(|port| network.port_finding(port))).collect::<Vec<_>>()
        };
        let managed = self.applied.managed.judged.findings.values().cloned();
        self.networks.list.iter().flat_map(of_network).chain(managed).collect()
    }

    /// Reads each of the other namespaces once. One that cannot be read is being removed, and is skipped.
    async fn read_sandboxes(&self) -> BTreeMap<NetnsRef, SandboxTables> {
        let with_networks: BTreeSet<NetnsRef> =
            self.networks.accelerated().map(|(_, _, external)| external.netns.clone()).collect();
        let recorded = self.sandboxes.namespaces().map(|(_, netns)| netns_ref(netns));
        let all: BTreeSet<NetnsRef> = recorded.chain(with_networks.iter().cloned()).collect();
        let mut found = BTreeMap::new();
        for netns_ref in all {
            let NetnsRef::Other { path, inode } = &netns_ref else { continue };
            let has_network = with_networks.contains(&netns_ref);
            let read = move |reader: &Reader| {
                let mut tables = SandboxTables { links: reader.links()?, ..SandboxTables::default() };
                if has_network {
                    tables.fdb = reader.fdb(None, &HashSet::new())?;
                    tables.neighbours = reader.permanent_neighbours()?;
                }
                Ok(tables)
            };
            let Ok(netns) = Netns::open_same(path, *inode) else { continue };
            if let Ok(tables) = Reader::within(&netns, read).await {
                found.insert(netns_ref, tables);
            }
        }
        found
    }

    /// Names of devices and namespaces for the report.
    fn names(&self, links: &[Link], namespaces: &BTreeMap<NetnsRef, SandboxTables>) -> Names {
        let mut names = Names::default();
        let mut add = |number, links: &[Link]| {
            let devices =
                links.iter().map(|link| (PortKey { netns_id: number, ifindex: link.index }, link.name.clone()));
            names.devices.extend(devices);
        };
        add(0, links);
        for (number, netns) in self.sandboxes.namespaces() {
            if let Some(tables) = namespaces.get(&netns_ref(netns)) {
                add(number, &tables.links);
            }
        }
        names.namespaces = self.sandboxes.namespaces().map(|(number, netns)| (number, netns.path.clone())).collect();
        names
    }

    fn compare_pins(&self, comparison: &mut Comparison) {
        for Map { name: map, .. } in maps::MAPS {
            if !self.ledger.root().map(map).exists() {
                comparison.pins.push(map);
                comparison.differences.push(audit::pin(map));
            }
        }
    }

    fn compare_hooks(
        &mut self,
        comparison: &mut Comparison,
        underlay: Option<&Link>,
        names: &Names,
    ) -> Result<(), DaemonError> {
        // The reconciliation has reported unusable hooks.
        let (mut hooks, _) = self.wanted_hooks(underlay);
        hooks.extend(self.sandboxes.hooks());
        comparison.compared.hooks = hooks.len();
        let xdp = underlay.and_then(|link| link.xdp_program);
        for (hook, vni) in hooks {
            let netns = self.sandboxes.open(hook.netns_id());
            if hook.netns_id() != 0 && netns.is_none() {
                continue;
            }
            let running = self
                .datapath
                .running(self.ledger.root(), hook, netns.as_ref(), vni, xdp)
                .map_err(KernelError::Socket)?;
            let key = PortKey { netns_id: hook.netns_id(), ifindex: hook.ifindex() };
            let last_error = self.health.last_error(Part::Hooks).filter(|_| !self.applied.attached.contains(&hook));
            let difference =
                audit::hook(hook, &running, (&names.device(key), names.namespace(key.netns_id)), last_error);
            if difference.is_some() {
                comparison.hooks.insert(hook, vni);
            }
            comparison.differences.extend(difference);
        }
        Ok(())
    }

    async fn compare_shims(&self, comparison: &mut Comparison) -> Result<(), DaemonError> {
        for (vni, recorded) in self.sandboxes.shims() {
            // A shim is removed with its namespace.
            let Ok(netns) = recorded.open() else { continue };
            if self.host.find_shim(vni, &netns).await?.is_none() {
                comparison.shims.push(vni);
                comparison.differences.push(audit::shim(kernel::shim_name(vni), recorded.path.clone()));
            }
        }
        Ok(())
    }

    async fn compare_external(
        &self,
        comparison: &mut Comparison,
        snapshot: &Snapshot,
        namespaces: &BTreeMap<NetnsRef, SandboxTables>,
    ) {
        for (_, _, network) in self.networks.accelerated() {
            comparison.compared.external_networks += 1;
            // A network that cannot be read is being removed.
            if let Ok(Some(tables)) = external_tables(network, snapshot, namespaces).await {
                comparison.differences.extend(audit::external(network, &tables));
            }
        }
    }
}

/// Tables of another namespace.
#[derive(Default)]
struct SandboxTables {
    links: Vec<Link>,
    /// Empty without an accelerated network; so are the neighbours.
    fdb: Vec<FdbEntry>,
    neighbours: Vec<Neighbour>,
}

fn netns_ref(netns: &RecordedNetns) -> NetnsRef {
    NetnsRef::Other { path: netns.path.clone(), inode: netns.inode }
}

/// The kernel's tables of an external network; `None` without its VXLAN device.
async fn external_tables(
    network: &External,
    snapshot: &Snapshot,
    namespaces: &BTreeMap<NetnsRef, SandboxTables>,
) -> Result<Option<ExternalTables>, HostError> {
    let (links, fdb, neighbours) = match &network.netns {
        NetnsRef::Own => (snapshot.links().await?, snapshot.fdb().await?, snapshot.permanent_neighbours().await?),
        other => match namespaces.get(other) {
            Some(tables) => (&tables.links[..], &tables.fdb[..], &tables.neighbours[..]),
            None => return Ok(None),
        },
    };
    let Some(link) = links.iter().find(|link| link.name == network.device) else { return Ok(None) };
    Ok(Some(ExternalTables {
        device: link.index,
        proxy: matches!(&link.kind, LinkKind::Vxlan(info) if info.proxy),
        fdb: fdb.to_vec(),
        neighbours: neighbours.to_vec(),
    }))
}
