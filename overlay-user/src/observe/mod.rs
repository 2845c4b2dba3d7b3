//! What an operator can see: counters and tables, read from the pinned maps, with names from the kernel's links.
//!
//! Nothing here needs the daemon to run, except [`EventLog`], which is a part of it. Every report is plain data that serialises to the JSON of `--json`.

mod device;
mod event;
mod events;
mod report;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

pub use device::{DeviceCount, device_count};
pub use event::EventRow;
pub use events::{EventLog, EventsReport};
use overlay_common::{
    MacAddr, Reason,
    maps::{FdbEntry, PortKey, Traffic, Vtep, flags},
};
pub use report::{
    Amount, CountersReport, FdbReport, FdbRow, LeaseRow, NetworkRow, NetworkTraffic, PortRow, PortsReport, ReasonRow,
    StatusReport, UnderlayRow, VtepRow, VtepTraffic,
};

use crate::{
    datapath::{self, AttachPoint, LoadError, Maps, PinError, PinRoot, RecordedNetns, TableIoError},
    host::{ALIAS_PREFIX, Host, HostError, Link, bridge_name},
    plan::tables::Tables,
};

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// Nothing is loaded, or it cannot be read.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// What is loaded is another version's.
    #[error(transparent)]
    Layout(#[from] Box<LoadError>),
    /// A map.
    #[error(transparent)]
    Table(#[from] TableIoError),
    /// The links, for their names.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What is loaded at one pin root.
struct Seen {
    root: PinRoot,
    maps: Maps,
    tables: Tables,
    /// By the number of their namespace, and interface index.
    links: BTreeMap<(u32, u32), Link>,
    places: BTreeMap<u16, RecordedNetns>,
}

impl Seen {
    async fn at(pin_root: &Path) -> Result<Self, ObserveError> {
        let root = PinRoot::open(pin_root)?;
        root.check_layout().map_err(Box::new)?;
        let maps = Maps::open(root.path())?;
        let tables = maps.read()?;
        let places = root.places()?;
        let mut links = BTreeMap::new();
        let here = Host::open()?.links().await?;
        links.extend(here.into_iter().map(|link| ((0, link.index), link)));
        for (number, place) in &places {
            // One that has gone has no names; what points there will be taken out of the maps.
            if let Ok(host) = place.open().map_err(HostError::from).and_then(|netns| Host::open_in(&netns)) {
                links.extend(host.links().await?.into_iter().map(|link| ((u32::from(*number), link.index), link)));
            }
        }
        Ok(Self { root, maps, tables, links, places })
    }

    /// An interface of the daemon's namespace.
    fn device(&self, ifindex: u32) -> String {
        self.port(PortKey { site: 0, ifindex })
    }

    fn port(&self, key: PortKey) -> String {
        self.links.get(&(key.site, key.ifindex)).map_or_else(|| format!("#{}", key.ifindex), |link| link.name.clone())
    }

    /// The file that stands for a namespace; `None` for the daemon's own.
    fn sandbox(&self, site: u32) -> Option<PathBuf> {
        self.places.get(&u16::try_from(site).ok()?).map(|place| place.path.clone())
    }

    /// The network's name is its bridge's alias.
    fn network(&self, vni: u32) -> Option<String> {
        let bridge = bridge_name(overlay_common::Vni::new(vni).ok()?);
        let link = self.links.values().find(|link| link.name == bridge)?;
        link.alias.as_deref()?.strip_prefix(ALIAS_PREFIX).map(str::to_owned)
    }

    /// The endpoint's name, from the veth's alias `overlay <network>/<endpoint>`.
    fn endpoint(&self, ifindex: u32) -> Option<String> {
        let alias = self.links.get(&(0, ifindex))?.alias.as_deref()?.strip_prefix(ALIAS_PREFIX)?;
        alias.split_once('/').map(|(_, endpoint)| endpoint.to_owned())
    }

    fn traffic(&self) -> Result<datapath::Counters, ObserveError> {
        let slots = self.tables.networks.values().map(|network| network.slot);
        Ok(self.maps.counters(slots, self.tables.vteps.keys().copied())?)
    }
}

fn address(vtep: &Vtep) -> Ipv4Addr {
    vtep.outer.dst.into()
}

fn of(traffic: &BTreeMap<u32, Traffic>, index: u32) -> (Amount, Amount) {
    let traffic = traffic.get(&index).copied().unwrap_or_default();
    (traffic.tx.into(), traffic.rx.into())
}

/// What is loaded, and whether the daemon runs.
///
/// # Errors
/// [`ObserveError`].
pub async fn status(pin_root: &Path) -> Result<StatusReport, ObserveError> {
    let seen = Seen::at(pin_root).await?;
    let counters = seen.traffic()?;
    let hooks = datapath::attached(&seen.root)?;
    let nic = hooks.iter().find_map(|hook| if let AttachPoint::Nic(ifindex) = hook { Some(*ifindex) } else { None });
    let mut ports: Vec<u16> = seen.tables.underlay().ports.into_iter().filter(|port| *port != 0).collect();
    ports.sort_unstable();
    ports.dedup();
    let pid = seen.root.daemon_pid();
    let networks = seen.tables.networks.iter().map(|(vni, network)| {
        let (tx, rx) = of(&counters.networks, network.slot);
        NetworkRow {
            name: seen.network(*vni),
            vni: *vni,
            mtu: network.mtu,
            port: network.port,
            strict: network.flags & flags::STRICT != 0,
            local: seen.tables.ports.values().filter(|port| port.vni == *vni).count(),
            remote: remote(&seen.tables, *vni),
            vteps: seen.tables.senders.keys().filter(|key| key.vni == *vni).map(|key| key.addr.into()).collect(),
            tx,
            rx,
        }
    });
    let vteps = seen.tables.vteps.values().map(|vtep| VtepRow {
        address: address(vtep),
        port: u16::from_be_bytes(vtep.outer.udp_dst),
        resolved: vtep.resolved != 0,
        device: (vtep.resolved != 0).then(|| seen.device(vtep.ifindex)),
        next_hop: (vtep.resolved != 0).then(|| MacAddr(vtep.outer.eth_dst).to_string()),
        mtu: vtep.mtu,
    });
    Ok(StatusReport {
        ready: pid.is_some() && !seen.root.marks("state")?.is_empty(),
        daemon: pid,
        kernel: kernel(),
        pin_root: pin_root.into(),
        lease: seen.maps.deadline()?.into(),
        underlay: nic.map(|ifindex| UnderlayRow {
            device: seen.device(ifindex),
            address: seen.tables.underlay().addr.into(),
            mac: MacAddr(seen.tables.underlay().mac).to_string(),
            ports,
            rx: if hooks.contains(&AttachPoint::Xdp(ifindex)) { "xdp" } else { "tc" },
        }),
        networks: networks.collect(),
        vteps: vteps.collect(),
        hooks: hooks.iter().map(|hook| hook.name()).collect(),
    })
}

fn remote(tables: &Tables, vni: u32) -> usize {
    tables.fdb.iter().filter(|(key, entry)| key.vni == vni && !entry.is_local()).count()
}

/// Where each MAC address is.
///
/// # Errors
/// [`ObserveError`].
pub async fn fdb(pin_root: &Path) -> Result<FdbReport, ObserveError> {
    let seen = Seen::at(pin_root).await?;
    let rows = seen.tables.fdb.iter().map(|(key, entry)| {
        let vtep = if entry.kind == FdbEntry::REMOTE { seen.tables.vteps.get(&entry.target) } else { None };
        FdbRow {
            vni: key.vni,
            mac: MacAddr(key.mac).to_string(),
            device: entry.is_local().then(|| seen.port(PortKey { site: entry.site.into(), ifindex: entry.target })),
            sandbox: if entry.is_local() { seen.sandbox(entry.site.into()) } else { None },
            vtep: vtep.map(address),
            resolved: entry.is_local() || vtep.is_some_and(|vtep| vtep.resolved != 0),
        }
    });
    Ok(FdbReport { entries: rows.collect() })
}

/// Who may send into which network.
///
/// # Errors
/// [`ObserveError`].
pub async fn ports(pin_root: &Path) -> Result<PortsReport, ObserveError> {
    let seen = Seen::at(pin_root).await?;
    let rows = seen.tables.ports.iter().map(|(key, port)| PortRow {
        ifindex: key.ifindex,
        device: seen.port(*key),
        sandbox: seen.sandbox(key.site),
        vni: port.vni,
        network: seen.network(port.vni),
        endpoint: if key.site == 0 { seen.endpoint(key.ifindex) } else { None },
        mac: MacAddr(port.mac).to_string(),
        ip: port.ip.into(),
        mtu: port.mtu,
        strict: port.flags & flags::STRICT != 0,
        xdp: seen.tables.txports.values().any(|port| port == key),
    });
    Ok(PortsReport { ports: rows.collect() })
}

/// What the programs counted.
///
/// # Errors
/// [`ObserveError`].
pub async fn counters(pin_root: &Path) -> Result<CountersReport, ObserveError> {
    let seen = Seen::at(pin_root).await?;
    let counters = seen.traffic()?;
    let reasons = counters.reasons.iter().map(|(reason, count)| ReasonRow {
        reason: Reason::name(*reason),
        verdict: reason.verdict().as_str(),
        amount: (*count).into(),
        help: reason.help(),
    });
    let networks = seen.tables.networks.iter().map(|(vni, network)| {
        let (tx, rx) = of(&counters.networks, network.slot);
        NetworkTraffic { vni: *vni, name: seen.network(*vni), tx, rx }
    });
    let vteps = seen.tables.vteps.iter().map(|(index, vtep)| {
        let (tx, rx) = of(&counters.vteps, *index);
        VtepTraffic { address: address(vtep), port: u16::from_be_bytes(vtep.outer.udp_dst), tx, rx }
    });
    Ok(CountersReport { reasons: reasons.collect(), networks: networks.collect(), vteps: vteps.collect() })
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
