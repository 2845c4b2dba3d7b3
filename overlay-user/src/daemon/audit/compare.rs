//! Reads everything anew, beside what should be.

use std::collections::{BTreeMap, BTreeSet};

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
    model::{mirror::Site, network::External},
    observe::audit::{self, Compared, Difference, ForeignTables, Names},
    plan::{
        host::HostChanges,
        tables::{self, Changes, Tables},
    },
    sys::netns::Netns,
};

/// What should be and what is, side by side.
pub(super) struct Comparison {
    pub(super) compared: Compared,
    pub(super) differences: Vec<Difference>,
    pub(super) found: Tables,
    /// What makes of the maps that are found those that should be.
    pub(super) maps: Changes,
    pub(super) objects: HostChanges,
    /// Hooks whose program is not there, with the networks of their ports.
    pub(super) hooks: BTreeMap<AttachPoint, Option<Vni>>,
    /// Shims that carry nothing.
    pub(super) shims: Vec<Vni>,
    /// Maps without their pins.
    pub(super) pins: Vec<&'static str>,
}

impl Daemon {
    /// Brings up to date what the daemon follows by itself, and reads everything anew.
    ///
    /// # Errors
    /// What cannot be read, and that there is no right state to compare with.
    pub(super) async fn compare(&mut self) -> Result<Comparison, DaemonError> {
        let mut snapshot = self.host.snapshot();
        // There is no right state without an underlay. Of any other error its part says so.
        if let Err(
            error @ DaemonError::Preflight(PreflightError::NoAddress { .. } | PreflightError::NotEthernet { .. }),
        ) = self.reconcile_from(&mut snapshot, Scope::NextHops, Extent::Possible).await
        {
            return Err(error);
        }
        let underlay = match self.networks.served {
            Some(address) => snapshot.link_by_address(address).await?.map(|link| (address, link.clone())),
            None => None,
        };
        let (objects, _) = self.wanted_objects(underlay.as_ref(), snapshot.links().await?)?;
        let state = snapshot.state(&objects, &self.ledger.root().owned()?).await?;
        let sites = self.read_sites().await;
        let plan = HostChanges::between(&state, &objects);
        let mut found = self.datapath.maps.read()?;
        let wanted =
            tables::desired(self.inputs.view.as_ref(), &self.networks, &self.applied.facts, &self.applied.tables)?;
        // The map does not know the namespace of an interface; the rest says whether it is the right one.
        found.place_txports_as(&wanted);
        let maps = Changes::between(&found, &wanted);
        let mut names = self.names(snapshot.links().await?, &sites);
        for (index, vtep) in found.vteps.iter().chain(&wanted.vteps) {
            names.vteps.insert(*index, vtep.outer.dst.into());
        }

        let mut comparison = Comparison {
            compared: Compared {
                map_entries: wanted.count(),
                kernel_objects: objects.count(),
                namespaces: 1 + names.places.len(),
                ..Compared::default()
            },
            differences: audit::kernel(&state, &plan, self.health.cause(Part::Objects)),
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
            self.health.cause(Part::Maps),
        ));
        self.compare_pins(&mut comparison);
        self.compare_hooks(&mut comparison, underlay.as_ref().map(|(_, link)| link), &names)?;
        self.compare_shims(&mut comparison).await?;
        self.compare_foreign(&mut comparison, &snapshot, &sites).await;
        Ok(comparison)
    }

    /// Reads the other namespaces, each once. One that cannot be read is about to go, and left out: it has no names, and
    /// nothing that could differ.
    async fn read_sites(&self) -> BTreeMap<Site, SiteTables> {
        let with_networks: BTreeSet<Site> =
            self.networks.accelerated().map(|(_, _, external)| external.site.clone()).collect();
        let recorded = self.sandboxes.places().map(|(_, place)| site(place));
        let all: BTreeSet<Site> = recorded.chain(with_networks.iter().cloned()).collect();
        let mut found = BTreeMap::new();
        for site in all {
            let Site::Netns { path, inode } = &site else { continue };
            let has_network = with_networks.contains(&site);
            let read = move |reader: &Reader| {
                let mut tables = SiteTables { links: reader.links()?, ..SiteTables::default() };
                if has_network {
                    tables.fdb = reader.fdb()?;
                    tables.neighbours = reader.permanent_neighbours()?;
                }
                Ok(tables)
            };
            let Ok(netns) = Netns::open_same(path, *inode) else { continue };
            if let Ok(tables) = Reader::within(&netns, read).await {
                found.insert(site, tables);
            }
        }
        found
    }

    /// Names for what a report is about.
    fn names(&self, links: &[Link], sites: &BTreeMap<Site, SiteTables>) -> Names {
        let mut names = Names::default();
        let mut note = |number, links: &[Link]| {
            let devices = links.iter().map(|link| (PortKey { site: number, ifindex: link.index }, link.name.clone()));
            names.devices.extend(devices);
        };
        note(0, links);
        for (number, place) in self.sandboxes.places() {
            if let Some(tables) = sites.get(&site(place)) {
                note(number, &tables.links);
            }
        }
        names.places = self.sandboxes.places().map(|(number, place)| (number, place.path.clone())).collect();
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
        // What keeps a hook from being used was complained of.
        let (mut hooks, _) = self.wanted_hooks(underlay);
        hooks.extend(self.sandboxes.hooks());
        comparison.compared.hooks = hooks.len();
        let xdp = underlay.and_then(|link| link.xdp_program);
        for (hook, vni) in hooks {
            let netns = self.sandboxes.open(hook.site());
            if hook.site() != 0 && netns.is_none() {
                continue;
            }
            let running = self
                .datapath
                .running(self.ledger.root(), hook, netns.as_ref(), vni, xdp)
                .map_err(KernelError::Socket)?;
            let key = PortKey { site: hook.site(), ifindex: hook.ifindex() };
            let complaint = self.health.cause(Part::Hooks).filter(|_| !self.applied.attached.contains(&hook));
            let difference = audit::hook(hook, &running, (&names.device(key), names.place(key.site)), complaint);
            if difference.is_some() {
                comparison.hooks.insert(hook, vni);
            }
            comparison.differences.extend(difference);
        }
        Ok(())
    }

    async fn compare_shims(&self, comparison: &mut Comparison) -> Result<(), DaemonError> {
        for (vni, place) in self.sandboxes.shims() {
            // With the namespace goes the shim.
            let Ok(netns) = place.open() else { continue };
            if self.host.find_shim(vni, &netns).await?.is_none() {
                comparison.shims.push(vni);
                comparison.differences.push(audit::shim(kernel::shim_name(vni), place.path.clone()));
            }
        }
        Ok(())
    }

    async fn compare_foreign(
        &self,
        comparison: &mut Comparison,
        snapshot: &Snapshot,
        sites: &BTreeMap<Site, SiteTables>,
    ) {
        for (_, _, network) in self.networks.accelerated() {
            comparison.compared.foreign_networks += 1;
            // One that cannot be read is about to go.
            if let Ok(Some(tables)) = foreign_tables(network, snapshot, sites).await {
                comparison.differences.extend(audit::foreign(network, &tables));
            }
        }
    }
}

/// What is read of another namespace.
#[derive(Default)]
struct SiteTables {
    links: Vec<Link>,
    /// Empty where there is no accelerated network; so are the neighbours.
    fdb: Vec<FdbEntry>,
    neighbours: Vec<Neighbour>,
}

fn site(place: &RecordedNetns) -> Site {
    Site::Netns { path: place.path.clone(), inode: place.inode }
}

/// What the kernel has in the namespace of a network; `None` without its VXLAN device.
async fn foreign_tables(
    network: &External,
    snapshot: &Snapshot,
    sites: &BTreeMap<Site, SiteTables>,
) -> Result<Option<ForeignTables>, HostError> {
    let (links, fdb, neighbours) = match &network.site {
        Site::Host => (snapshot.links().await?, snapshot.fdb().await?, snapshot.permanent_neighbours().await?),
        other => match sites.get(other) {
            Some(tables) => (&tables.links[..], &tables.fdb[..], &tables.neighbours[..]),
            None => return Ok(None),
        },
    };
    let Some(link) = links.iter().find(|link| link.name == network.device) else { return Ok(None) };
    Ok(Some(ForeignTables {
        device: link.index,
        proxy: matches!(&link.kind, LinkKind::Vxlan(info) if info.proxy),
        fdb: fdb.to_vec(),
        neighbours: neighbours.to_vec(),
    }))
}
