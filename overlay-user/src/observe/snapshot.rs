//! Snapshot of the data path at a pin root, and the reports that are derived from it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use overlay_common::{
    MacAddr, Reason, VtepAddr,
    maps::{Count, FdbEntry, PortKey, Traffic, Vtep, flags},
};

use crate::{
    api::types::{
        Amount, CountersReport, DaemonReport, FdbReport, FdbRow, HeartbeatRow, NetworkTraffic, PortRow, PortsReport,
        ReasonRow, StatusReport, UnderlayRow, VtepRow, VtepTraffic,
    },
    apply::{
        bpf::{Counters, Deadline, LoadError, Maps, TableIoError},
        ledger::{AttachPoint, PinError, PinRoot, RecordedNetns},
    },
    kernel::{ALIAS_PREFIX, Host, KernelError, Link, LinkKind, Reader, bridge_name},
    plan::tables::Tables,
};

/// The data path cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// Nothing is loaded, or the pin root cannot be read.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The maps have the layout of another version.
    #[error(transparent)]
    Layout(#[from] Box<LoadError>),
    /// A map.
    #[error(transparent)]
    Table(#[from] TableIoError),
    /// The links, for their names.
    #[error(transparent)]
    Host(#[from] KernelError),
}

/// The data path at one pin root, with the daemon's report if there is one.
#[derive(Debug)]
pub struct Snapshot {
    pin_root: PathBuf,
    /// Process id of the daemon, if it runs.
    pid: Option<i32>,
    ready: bool,
    deadline: Deadline,
    hooks: Vec<AttachPoint>,
    pub(super) tables: Tables,
    counters: Counters,
    /// By netns id and interface index.
    links: BTreeMap<(u32, u32), Link>,
    namespaces: BTreeMap<u16, RecordedNetns>,
    pub(super) daemon: Option<DaemonReport>,
}

impl Snapshot {
    /// Reads the data path. The calling thread must be in the daemon's network namespace.
    ///
    /// # Errors
    /// [`ObserveError`].
    pub async fn read(pin_root: &Path) -> Result<Self, ObserveError> {
        let root = PinRoot::open(pin_root)?;
        root.check_layout().map_err(Box::new)?;
        let maps = Maps::open(root.path())?;
        let tables = maps.read()?;
        let slots = tables.networks.values().map(|network| network.slot);
        let counters = maps.counters(slots, tables.vteps.keys().copied())?;
        let namespaces = root.netns_by_number()?;
        let mut links = BTreeMap::new();
        let here = Host::open()?.snapshot();
        links.extend(here.links().await?.iter().map(|link| ((0, link.index), link.clone())));
        for (number, netns) in &namespaces {
            // A removed namespace has no names; the daemon removes its entries from the maps.
            if let Ok(netns) = netns.open()
                && let Ok(there) = Reader::within(&netns, Reader::links).await
            {
                links.extend(there.into_iter().map(|link| ((u32::from(*number), link.index), link)));
            }
        }
        let pid = root.daemon_pid();
        Ok(Self {
            pin_root: pin_root.into(),
            pid,
            ready: pid.is_some() && root.is_ready()?,
            deadline: maps.deadline()?,
            hooks: root.hooks()?,
            tables,
            counters,
            links,
            namespaces,
            daemon: None,
        })
    }

    /// Process id of the daemon, if it runs.
    #[must_use]
    pub const fn daemon_pid(&self) -> Option<i32> {
        self.pid
    }

    /// Adds the daemon's report: names of discovered networks and their containers, and problems.
    #[must_use]
    pub fn with_daemon(self, daemon: Option<DaemonReport>) -> Self {
        Self { daemon, ..self }
    }

    /// `overlay status`.
    #[must_use]
    pub fn status(&self) -> StatusReport {
        let nic = self.hooks.iter().find_map(|hook| match hook {
            AttachPoint::Nic(ifindex) => Some(*ifindex),
            _ => None,
        });
        let underlay = self.tables.underlay();
        let mut ports: Vec<u16> = underlay.ports.into_iter().filter(|port| *port != 0).collect();
        ports.sort_unstable();
        ports.dedup();
        let vteps = self.tables.vteps.values().map(|vtep| VtepRow {
            address: address(vtep),
            port: u16::from_be_bytes(vtep.outer.udp_dst),
            resolved: vtep.resolved != 0,
            device: (vtep.resolved != 0).then(|| self.port_name(PortKey::host(vtep.ifindex))),
            next_hop: (vtep.resolved != 0).then(|| MacAddr(vtep.outer.eth_dst).to_string()),
            mtu: vtep.mtu,
        });
        StatusReport {
            ready: self.ready,
            daemon: self.pid,
            kernel: kernel(),
            pin_root: self.pin_root.clone(),
            heartbeat: heartbeat(self.deadline),
            underlay: nic.map(|ifindex| UnderlayRow {
                device: self.port_name(PortKey::host(ifindex)),
                address: underlay.addr.into(),
                mac: MacAddr(underlay.mac).to_string(),
                ports,
                rx: if self.hooks.contains(&AttachPoint::Xdp(ifindex)) { "xdp" } else { "tc" },
            }),
            networks: self.networks(),
            vteps: vteps.collect(),
            hooks: self.hooks.iter().map(|hook| hook.name()).collect(),
            control: self.daemon.clone().map(|daemon| DaemonReport { networks: Vec::new(), ..daemon }),
        }
    }

    /// `overlay fdb`: the port or VTEP of each MAC address.
    #[must_use]
    pub fn fdb(&self) -> FdbReport {
        let rows = self.tables.fdb.iter().map(|(key, entry)| {
            let vtep = if entry.kind == FdbEntry::REMOTE { self.tables.vteps.get(&entry.target) } else { None };
            let port = PortKey { netns_id: entry.netns_id.into(), ifindex: entry.target };
            FdbRow {
                vni: key.vni,
                network: self.network_name(key.vni),
                mac: MacAddr(key.mac).to_string(),
                device: entry.is_local().then(|| self.port_name(port)),
                sandbox: if entry.is_local() { self.sandbox(entry.netns_id.into()) } else { None },
                vtep: vtep.map(address),
                resolved: entry.is_local() || vtep.is_some_and(|vtep| vtep.resolved != 0),
            }
        });
        FdbReport { entries: rows.collect() }
    }

    /// `overlay ports`: the interfaces of local containers, with network and addresses.
    #[must_use]
    pub fn ports(&self) -> PortsReport {
        let rows = self.tables.ports.iter().map(|(key, port)| PortRow {
            ifindex: key.ifindex,
            device: self.port_name(*key),
            sandbox: self.sandbox(key.netns_id),
            vni: port.vni,
            network: self.network_name(port.vni),
            endpoint: self.endpoint(*key),
            container: self.container(port.vni, &MacAddr(port.mac).to_string()),
            mac: MacAddr(port.mac).to_string(),
            ip: port.ip.into(),
            mtu: port.mtu,
            strict: port.flags & flags::STRICT != 0,
            xdp: self.tables.txports.values().any(|port| port == key),
        });
        PortsReport { ports: rows.collect() }
    }

    /// `overlay counters`: the counters of the programs.
    #[must_use]
    pub fn counters(&self) -> CountersReport {
        let reasons = self.counters.reasons.iter().map(|(reason, count)| ReasonRow {
            reason: Reason::name(*reason),
            verdict: reason.verdict().as_str(),
            amount: amount(*count),
            help: reason.help(),
        });
        let networks = self.tables.networks.iter().map(|(vni, network)| {
            let (tx, rx) = self.traffic(network.slot);
            NetworkTraffic { vni: *vni, name: self.network_name(*vni), tx, rx }
        });
        let vteps = self.tables.vteps.iter().map(|(index, vtep)| {
            let (tx, rx) = of(&self.counters.vteps, *index);
            VtepTraffic { address: address(vtep), port: u16::from_be_bytes(vtep.outer.udp_dst), tx, rx }
        });
        CountersReport { reasons: reasons.collect(), networks: networks.collect(), vteps: vteps.collect() }
    }

    /// Fast-path counters, sent and received, of the network with this slot.
    pub(super) fn traffic(&self, slot: u32) -> (Amount, Amount) {
        of(&self.counters.networks, slot)
    }

    /// Whether the heartbeat deadline has expired, so that the programs pass every packet to the kernel.
    pub(super) fn is_expired(&self) -> bool {
        self.deadline == Deadline::Expired
    }

    pub(super) fn port_name(&self, key: PortKey) -> String {
        self.links
            .get(&(key.netns_id, key.ifindex))
            .map_or_else(|| format!("#{}", key.ifindex), |link| link.name.clone())
    }

    /// The path of a namespace; `None` for the daemon's own.
    pub(super) fn sandbox(&self, netns_id: u32) -> Option<PathBuf> {
        self.namespaces.get(&u16::try_from(netns_id).ok()?).map(|netns| netns.path.clone())
    }

    /// The name of a managed network, from the alias of its bridge.
    pub(super) fn bridge_alias(&self, vni: u32) -> Option<String> {
        let bridge = bridge_name(overlay_common::Vni::new(vni).ok()?);
        let link = self.links.values().find(|link| link.name == bridge)?;
        link.alias.as_deref()?.strip_prefix(ALIAS_PREFIX).map(str::to_owned)
    }

    /// The endpoint's name, from the veth's alias `overlay <network>/<endpoint>`.
    pub(super) fn endpoint(&self, key: PortKey) -> Option<String> {
        let link = self.links.get(&(0, key.ifindex)).filter(|_| key.netns_id == 0)?;
        let (_, endpoint) = link.alias.as_deref()?.strip_prefix(ALIAS_PREFIX)?.split_once('/')?;
        Some(endpoint.to_owned())
    }

    /// A VXLAN device of a namespace with this VNI.
    pub(super) fn vxlan(&self, netns_id: u32, vni: u32) -> Option<&Link> {
        let of_netns = self.links.range((netns_id, 0)..=(netns_id, u32::MAX));
        let has_vni = |link: &&Link| matches!(&link.kind, LinkKind::Vxlan(info) if info.vni == vni);
        of_netns.map(|(_, link)| link).find(has_vni)
    }
}

fn address(vtep: &Vtep) -> VtepAddr {
    vtep.outer.dst.into()
}

const fn amount(count: Count) -> Amount {
    Amount { packets: count.packets, bytes: count.bytes }
}

fn of(traffic: &BTreeMap<u32, Traffic>, index: u32) -> (Amount, Amount) {
    let traffic = traffic.get(&index).copied().unwrap_or_default();
    (amount(traffic.tx), amount(traffic.rx))
}

const fn heartbeat(deadline: Deadline) -> HeartbeatRow {
    match deadline {
        Deadline::Unlimited => HeartbeatRow { left_s: None, expired: false },
        Deadline::Left(left) => HeartbeatRow { left_s: Some(left.as_secs()), expired: false },
        Deadline::Expired => HeartbeatRow { left_s: Some(0), expired: true },
    }
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
