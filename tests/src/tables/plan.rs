//! The expected contents of the maps, from the configuration of the lab and from the kernel's devices, routes and
//! addresses.
//!
//! Indices are free choices of the daemon. The expected index of an object is that of most entries that refer to it, so
//! that one wrong entry is found as such.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    ops::Range,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use bytemuck::Pod;
use overlay_common::{
    MacAddr,
    maps::{
        self, FdbEntry, FdbKey, Heartbeat, Map, Network, Peer, PeerKey, Port, PortKey, UDP_PORTS, Underlay, Vtep, flags,
    },
    outer::OuterHeader,
};
use overlay_user::testing::sys::ticks;

use super::{
    external::Sandbox,
    fields::{Device, Rows, TABLES},
};

/// Length of outer IPv4, UDP and VXLAN headers and the inner Ethernet header (RFC 7348 §5).
pub(super) const HEADERS: u32 = 20 + 8 + 8 + 14;

/// The contents of all compared maps.
#[derive(Debug, Default)]
pub(super) struct Contents(BTreeMap<&'static str, Rows>);

/// The expected state of a host.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) nic: Nic,
    /// The managed networks, then the external ones.
    pub(super) networks: Vec<PlannedNetwork>,
    pub(super) sandboxes: Vec<Sandbox>,
    /// Resolved next hops, by VTEP.
    pub(super) next_hops: BTreeMap<Ipv4Addr, NextHop>,
    /// Heartbeat deadline of the daemon.
    pub(super) deadline: Option<Duration>,
}

/// The underlay device.
#[derive(Debug)]
pub(super) struct Nic {
    pub(super) address: Ipv4Addr,
    pub(super) mac: MacAddr,
    pub(super) ifindex: u32,
    pub(super) mtu: u32,
    /// Generic receive offload is on.
    pub(super) has_gro: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NextHop {
    pub(super) mac: MacAddr,
    /// MTU of the route.
    pub(super) mtu: u32,
}

/// A network with endpoints on the host.
#[derive(Debug)]
pub(super) struct PlannedNetwork {
    pub(super) vni: u32,
    pub(super) udp_port: u16,
    pub(super) mtu: u16,
    /// Of packets of the VXLAN device: its own, or `net.ipv4.ip_default_ttl`.
    pub(super) ttl: u8,
    /// Smallest outer source port, and number of source ports.
    pub(super) udp_sources: (u16, u16),
    /// Outer headers have a UDP checksum.
    pub(super) has_udp_checksum: bool,
    /// MAC address of the VXLAN device.
    pub(super) device_mac: MacAddr,
    /// The VXLAN device learns.
    pub(super) learns: bool,
    pub(super) is_strict: bool,
    pub(super) local: Vec<Local>,
    pub(super) remote: Vec<Remote>,
}

/// An endpoint of the host.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) mac: MacAddr,
    pub(super) ip: Ipv4Addr,
    pub(super) port: PortKey,
    /// A veth whose other end is in another network namespace.
    pub(super) has_peer: bool,
    /// Interface index of the host end of the cross-netns veth (shim), or 0.
    pub(super) shim: u32,
    /// XDP redirects to the port.
    pub(super) xdp: bool,
}

/// An endpoint of another host.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) mac: MacAddr,
    /// 0.0.0.0: unknown.
    pub(super) ip: Ipv4Addr,
    pub(super) vtep: Ipv4Addr,
}

/// Largest layer-3 packet inside VXLAN; an outer IPv4 packet has at most 65,535 bytes.
pub(super) fn inner_mtu(outer: u32) -> u16 {
    outer.min(65_535).saturating_sub(HEADERS) as u16
}

impl Contents {
    /// Reads the maps.
    pub(super) fn read(pin_root: &Path) -> Result<Self> {
        TABLES.iter().map(|table| Ok((table.map.name, table.read(pin_root)?))).collect::<Result<_>>().map(Self)
    }

    /// The entries of a map, as bytes.
    pub(super) fn rows(&self, map: Map) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.0.get(map.name).into_iter().flatten()
    }

    fn entries<K: Pod, V: Pod>(&self, map: Map) -> impl Iterator<Item = (K, V)> {
        let read = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            (bytemuck::pod_read_unaligned(key.as_slice()), bytemuck::pod_read_unaligned(value.as_slice()))
        };
        self.rows(map).map(read)
    }

    fn add<K: Pod, V: Pod>(&mut self, map: Map, key: K, value: V) {
        let (key, value) = (bytemuck::bytes_of(&key).to_vec(), bytemuck::bytes_of(&value).to_vec());
        self.0.entry(map.name).or_default().insert(key, value);
    }
}

impl Plan {
    /// The expected contents. `found`: for indices, and for the heartbeat deadline if it is in its range.
    pub(super) fn contents(&self, found: &Contents, clock: Clock) -> Result<Contents> {
        let mut contents = Contents::default();
        let (slots, vteps, tx_keys) = (self.slots(found), self.vtep_indices(found), self.tx_keys(found));
        for network in &self.networks {
            let PlannedNetwork { vni, udp_port: port, mtu, is_strict, .. } = *network;
            let (slot, flags) = (slots[&vni], u32::from(is_strict));
            contents.add(maps::NETWORKS, vni, Network { slot, flags, mtu, port });
            for Local { mac, ip, port, has_peer, shim, xdp } in &network.local {
                let (mac, ip, port) = (mac.0, ip.octets(), *port);
                let flags = flags | if network.has_udp_checksum { flags::UDP_CHECKSUM } else { 0 };
                let (udp_src_first, udp_src_span) = network.udp_sources;
                let value = Port { vni, slot, flags, ip, mac, mtu, udp_src_first, udp_src_span };
                contents.add(maps::PORTS, port, value);
                let tx = match (xdp, port.netns_id) {
                    (false, _) => 0,
                    (true, 0) => port.ifindex,
                    (true, _) => tx_keys[&port],
                };
                let kind = if *has_peer { FdbEntry::LOCAL_PEER } else { FdbEntry::LOCAL };
                let netns_id = port.netns_id.try_into().context("a netns id has 16 bits")?;
                let entry = FdbEntry { kind, netns_id, target: port.ifindex, shim_or_ip: *shim, tx };
                contents.add(maps::FDB, FdbKey::new(vni, MacAddr(mac)), entry);
                if *xdp {
                    contents.add(maps::TXPORTS, tx, Device { ifindex: port.ifindex, program: 0 });
                }
            }
            for Remote { mac, ip, vtep } in &network.remote {
                let (target, addr, shim_or_ip) =
                    (vteps[&(*vtep, port)], vtep.octets(), u32::from_ne_bytes(ip.octets()));
                let entry = FdbEntry { kind: FdbEntry::REMOTE, netns_id: 0, target, shim_or_ip, tx: 0 };
                contents.add(maps::FDB, FdbKey::new(vni, *mac), entry);
                let learning = if network.learns { flags::LEARNING } else { 0 };
                let flags = (u32::from(is_strict) | learning) as u16;
                let device_mac = network.device_mac.0;
                let peer = Peer { vtep: target, slot, device_mac, mtu: network.mtu, port, flags };
                contents.add(maps::PEERS, PeerKey { vni, addr }, peer);
                contents.add(maps::VTEPS, target, self.vtep(*vtep, network));
            }
        }
        if !self.networks.is_empty() {
            contents.add(maps::UNDERLAY, 0_u32, self.underlay());
        }
        contents.add(maps::HEARTBEAT, 0_u32, self.heartbeat(found, clock));
        Ok(contents)
    }

    fn underlay(&self) -> Underlay {
        let used: BTreeSet<u16> = self.networks.iter().map(|network| network.udp_port).collect();
        let mut ports = [used.first().copied().unwrap_or_default(); UDP_PORTS];
        ports.iter_mut().zip(&used).for_each(|(port, used)| *port = *used);
        let Nic { address, mac, ifindex, has_gro, .. } = self.nic;
        let strict = if self.networks.iter().any(|network| network.is_strict) { flags::STRICT } else { 0 };
        let flags = (strict | if has_gro { 0 } else { flags::SEGMENTS }) as u16;
        Underlay { addr: address.octets(), mac: mac.0, ports, flags, ifindex }
    }

    /// The encapsulation, as the kernel's VXLAN device makes it (`vxlan_xmit_one` in drivers/net/vxlan/vxlan_core.c).
    fn vtep(&self, address: Ipv4Addr, &PlannedNetwork { udp_port, ttl, .. }: &PlannedNetwork) -> Vtep {
        let Nic { address: local, mac, ifindex, .. } = self.nic;
        let mut outer = OuterHeader {
            eth_dst: [0; 6],
            eth_src: [0; 6],
            eth_type: [0x08, 0x00],
            version_ihl: 0x45,
            tos: 0,
            total_len: [0; 2],
            id: [0; 2],
            fragment: [0; 2],
            ttl,
            protocol: 17,
            checksum: [0; 2],
            src: local.octets(),
            dst: address.octets(),
            udp_src: [0; 2],
            udp_dst: udp_port.to_be_bytes(),
            udp_len: [0; 2],
            udp_checksum: [0; 2],
            vxlan_flags: 0x08,
            vxlan_reserved1: [0; 3],
            vni: [0; 3],
            vxlan_reserved2: 0,
        };
        let words = bytemuck::bytes_of(&outer)[14..34].chunks_exact(2);
        let ip_sum = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let Some(hop) = self.next_hops.get(&address) else {
            return Vtep { outer, mtu: 0, ifindex: 0, ip_sum, resolved: 0 };
        };
        (outer.eth_dst, outer.eth_src) = (hop.mac.0, mac.0);
        Vtep { outer, mtu: inner_mtu(hop.mtu), ifindex, ip_sum, resolved: 1 }
    }

    /// The epoch of a new map; the deadline as found if it is not past and not too far.
    fn heartbeat(&self, found: &Contents, clock: Clock) -> Heartbeat {
        let Some(length) = self.deadline else { return Heartbeat { epoch: 1, deadline_jiffies: 0, deadline_ns: 0 } };
        let found = found.entries::<u32, Heartbeat>(maps::HEARTBEAT).next().map(|(_, heartbeat)| heartbeat);
        let within = |value: Option<u64>, now: u64, length: u64| {
            let latest = now + length;
            value.filter(|value| (now..=latest).contains(value)).unwrap_or(latest)
        };
        Heartbeat {
            epoch: 1,
            // Rounded up to a tick.
            deadline_jiffies: within(found.map(|found| found.deadline_jiffies), clock.jiffies, ticks(length) + 1),
            deadline_ns: within(found.map(|found| found.deadline_ns), clock.ns, length.as_nanos() as u64),
        }
    }

    /// Slots by VNI.
    fn slots(&self, found: &Contents) -> BTreeMap<u32, u32> {
        let votes = self.networks.iter().map(|network| {
            let vni = network.vni;
            let networks = found.entries::<u32, Network>(maps::NETWORKS).filter(move |(key, _)| *key == vni);
            let peers = found.entries::<PeerKey, Peer>(maps::PEERS).filter(move |(key, _)| key.vni == vni);
            let ports = found.entries::<PortKey, Port>(maps::PORTS).filter(move |(_, port)| port.vni == vni);
            let slots = networks.map(|(_, network)| network.slot);
            (vni, slots.chain(peers.map(|(_, peer)| peer.slot)).chain(ports.map(|(_, port)| port.slot)).collect())
        });
        elect(votes, 0..maps::VNI_STATS.entries)
    }

    /// Indices by address and UDP port.
    fn vtep_indices(&self, found: &Contents) -> BTreeMap<(Ipv4Addr, u16), u32> {
        let fdb: BTreeMap<FdbKey, FdbEntry> = found.entries(maps::FDB).collect();
        let peers: BTreeMap<PeerKey, Peer> = found.entries(maps::PEERS).collect();
        let mut votes = BTreeMap::<(Ipv4Addr, u16), Vec<u32>>::new();
        for PlannedNetwork { vni, udp_port, remote, .. } in &self.networks {
            for Remote { mac, vtep, .. } in remote {
                let votes = votes.entry((*vtep, *udp_port)).or_default();
                votes.extend(fdb.get(&FdbKey::new(*vni, *mac)).map(|entry| entry.target));
                votes.extend(peers.get(&PeerKey { vni: *vni, addr: vtep.octets() }).map(|peer| peer.vtep));
            }
        }
        for (index, vtep) in found.entries::<u32, Vtep>(maps::VTEPS) {
            let key = (vtep.outer.dst.into(), u16::from_be_bytes(vtep.outer.udp_dst));
            votes.entry(key).and_modify(|votes| votes.push(index));
        }
        elect(votes, 0..maps::VTEP_STATS.entries)
    }

    /// Keys in `OVL_TXPORTS` of ports in other network namespaces. The map has only the interface index.
    fn tx_keys(&self, found: &Contents) -> BTreeMap<PortKey, u32> {
        let fdb: BTreeMap<FdbKey, FdbEntry> = found.entries(maps::FDB).collect();
        let votes = self.networks.iter().flat_map(|network| {
            network.local.iter().filter(|local| local.xdp && local.port.netns_id != 0).map(|local| {
                let devices = found.entries::<u32, Device>(maps::TXPORTS);
                let devices = devices.filter(|(_, device)| device.ifindex == local.port.ifindex).map(|(key, _)| key);
                let entry = fdb.get(&FdbKey::new(network.vni, local.mac)).map(|entry| entry.tx);
                (local.port, entry.into_iter().chain(devices).collect())
            })
        });
        elect(votes, 1 << 31..u32::MAX)
    }
}

/// The index with the most votes for each object. No two objects have the same, and each is in the range.
fn elect<T: Ord>(votes: impl IntoIterator<Item = (T, Vec<u32>)>, range: Range<u32>) -> BTreeMap<T, u32> {
    let mut taken = BTreeSet::new();
    let mut elect = |votes: Vec<u32>| {
        let count = |index: &u32| votes.iter().filter(|vote| *vote == index).count();
        let free = votes.iter().filter(|index| range.contains(index) && !taken.contains(*index));
        let elected = free.max_by_key(|index| count(index)).copied();
        taken.extend(elected);
        elected.unwrap_or(u32::MAX)
    };
    votes.into_iter().map(|(object, votes)| (object, elect(votes))).collect()
}

/// The kernel's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// `jiffies`.
    jiffies: u64,
    /// `CLOCK_MONOTONIC`.
    ns: u64,
}

impl Clock {
    /// Reads the header of the list of timers (`timer_list_show_tickdevices_header` in kernel/time/timer_list.c).
    pub(super) fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/timer_list").context("cannot read /proc/timer_list")?;
        let number = |before: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(before));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        };
        let read = || Some(Self { jiffies: number("jiffies: ")?, ns: number("now at ")? });
        read().context("/proc/timer_list has no times")
    }
}
