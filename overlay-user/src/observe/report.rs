//! The reports, as `--json` prints them.

use std::{net::Ipv4Addr, path::PathBuf};

use overlay_common::maps::Count;
use serde::Serialize;

use crate::datapath::Deadline;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// As on the wire: the segments of a GSO super-packet.
    pub packets: u64,
    /// From the Ethernet header on.
    pub bytes: u64,
}

impl From<Count> for Amount {
    fn from(count: Count) -> Self {
        Self { packets: count.packets, bytes: count.bytes }
    }
}

/// `overlay status`.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// The daemon runs and has made everything that the configuration asks for at least once.
    pub ready: bool,
    /// Process id of the daemon, if it runs.
    pub daemon: Option<i32>,
    /// Kernel release.
    pub kernel: String,
    /// Where maps and links are pinned.
    pub pin_root: PathBuf,
    /// Until when the programs trust the tables.
    pub lease: LeaseRow,
    /// The NIC; absent while this host takes part in no network.
    pub underlay: Option<UnderlayRow>,
    /// Networks of this host.
    pub networks: Vec<NetworkRow>,
    /// VTEPs that this host sends to.
    pub vteps: Vec<VtepRow>,
    /// Attachments, as they are named below `links`.
    pub hooks: Vec<String>,
}

/// Until when the programs trust the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseRow {
    /// Whole seconds that are left of the deadline, 0 past it; `None`: there is none.
    pub left_s: Option<u64>,
    /// Packets are left to the kernel, because no daemon has extended the deadline.
    pub expired: bool,
}

impl From<Deadline> for LeaseRow {
    fn from(deadline: Deadline) -> Self {
        match deadline {
            Deadline::Unlimited => Self { left_s: None, expired: false },
            Deadline::Left(left) => Self { left_s: Some(left.as_secs()), expired: false },
            Deadline::Expired => Self { left_s: Some(0), expired: true },
        }
    }
}

/// The NIC.
#[derive(Clone, Debug, Serialize)]
pub struct UnderlayRow {
    /// Interface name.
    pub device: String,
    /// Address of this VTEP.
    pub address: Ipv4Addr,
    /// MAC address.
    pub mac: String,
    /// UDP ports of the networks.
    pub ports: Vec<u16>,
    /// `tc` or `xdp`.
    pub rx: &'static str,
}

/// A network of this host.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkRow {
    /// From the bridge's alias.
    pub name: Option<String>,
    /// Network identifier.
    pub vni: u32,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u16,
    /// UDP port.
    pub port: u16,
    /// Frames with a false sender are dropped.
    pub strict: bool,
    /// Endpoints on this host.
    pub local: usize,
    /// Endpoints on other hosts.
    pub remote: usize,
    /// The other hosts.
    pub vteps: Vec<Ipv4Addr>,
    /// Sent to the underlay by the fast path.
    pub tx: Amount,
    /// Received from the underlay by the fast path.
    pub rx: Amount,
}

/// A VTEP that this host sends to.
#[derive(Clone, Debug, Serialize)]
pub struct VtepRow {
    /// Its address.
    pub address: Ipv4Addr,
    /// UDP port.
    pub port: u16,
    /// Whether the next hop is known; packets go to the kernel otherwise.
    pub resolved: bool,
    /// The interface that the next hop is behind.
    pub device: Option<String>,
    /// MAC address of the next hop.
    pub next_hop: Option<String>,
    /// Largest inner layer-3 packet that fits the route, in bytes.
    pub mtu: u16,
}

/// `overlay fdb`.
#[derive(Clone, Debug, Serialize)]
pub struct FdbReport {
    /// In the order of VNI and MAC.
    pub entries: Vec<FdbRow>,
}

/// Where a MAC address is.
#[derive(Clone, Debug, Serialize)]
pub struct FdbRow {
    /// Network identifier.
    pub vni: u32,
    /// The MAC address.
    pub mac: String,
    /// The port, if it is on this host.
    pub device: Option<String>,
    /// The file of the network namespace that the port is in; `None`: the daemon's own.
    pub sandbox: Option<PathBuf>,
    /// The VTEP, if it is on another.
    pub vtep: Option<Ipv4Addr>,
    /// Whether the fast path can send there now.
    pub resolved: bool,
}

/// `overlay ports`.
#[derive(Clone, Debug, Serialize)]
pub struct PortsReport {
    /// In the order of interface indices.
    pub ports: Vec<PortRow>,
}

/// Who may send through an interface.
#[derive(Clone, Debug, Serialize)]
pub struct PortRow {
    /// Interface index.
    pub ifindex: u32,
    /// Interface name.
    pub device: String,
    /// The file of the network namespace that it is in; `None`: the daemon's own.
    pub sandbox: Option<PathBuf>,
    /// Network identifier.
    pub vni: u32,
    /// From the bridge's alias.
    pub network: Option<String>,
    /// From the veth's alias; unknown for ports that overlay did not make.
    pub endpoint: Option<String>,
    /// The MAC address that may send.
    pub mac: String,
    /// The IPv4 address that may send.
    pub ip: Ipv4Addr,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u16,
    /// Frames with a false sender are dropped.
    pub strict: bool,
    /// XDP can deliver to it.
    pub xdp: bool,
}

/// `overlay counters`.
#[derive(Clone, Debug, Serialize)]
pub struct CountersReport {
    /// Every reason, in the order of the map `OVL_REASONS`.
    pub reasons: Vec<ReasonRow>,
    /// Networks of this host.
    pub networks: Vec<NetworkTraffic>,
    /// VTEPs.
    pub vteps: Vec<VtepTraffic>,
}

/// Packets that went one way for one reason.
#[derive(Clone, Debug, Serialize)]
pub struct ReasonRow {
    /// [`overlay_common::Reason::name`].
    pub reason: &'static str,
    /// `fast`, `kernel` or `drop`.
    pub verdict: &'static str,
    /// How much.
    #[serde(flatten)]
    pub amount: Amount,
    /// What it means.
    pub help: &'static str,
}

/// Inner frames of one network.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkTraffic {
    /// Network identifier.
    pub vni: u32,
    /// From the bridge's alias.
    pub name: Option<String>,
    /// Sent to the underlay by the fast path.
    pub tx: Amount,
    /// Received from the underlay by the fast path.
    pub rx: Amount,
}

/// Inner frames to and from one VTEP.
#[derive(Clone, Debug, Serialize)]
pub struct VtepTraffic {
    /// Its address.
    pub address: Ipv4Addr,
    /// UDP port.
    pub port: u16,
    /// Sent by the fast path.
    pub tx: Amount,
    /// Received by the fast path.
    pub rx: Amount,
}
