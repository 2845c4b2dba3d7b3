//! Random tables of a host with some containers and peers: all values that a daemon writes, and some that it does not.

use std::collections::BTreeMap;

use fastrand::Rng;
use overlay_common::{
    MacAddr,
    maps::{FdbEntry, FdbKey, Network, Peer, PeerKey, Port, PortKey, Underlay, Vtep, flags},
    outer::OuterHeader,
};
use overlay_tests::reference::{Constants, Slots, Tables};
use overlay_tests::{
    frame::Station,
    program::{GINDEMO2, NODE1, NODE1_MAC, NODE2, OTHER_UDP_PORT, SANDBOX, SECOND, SHIM, SIZE, UDP_PORT, VNI},
};

/// The test's interfaces, by index.
#[derive(Clone, Copy)]
pub(super) struct Interfaces {
    pub(super) nic: u32,
    pub(super) ports: [u32; 2],
    pub(super) other: u32,
}

/// VNIs that tables may contain.
pub(super) const VNIS: [u32; 2] = [VNI, 0x00fe_dcba];
/// Containers that tables may contain, local or remote.
pub(super) const CONTAINERS: [Station; 6] = [
    Station::container([10, 0, 1, 2]),
    Station::container([10, 0, 1, 3]),
    Station::container([10, 0, 1, 6]),
    Station::container([10, 0, 1, 7]),
    Station::container([172, 31, 255, 254]),
    Station::container([10, 255, 0, 0]),
];
/// The broadcast address of a network.
pub(super) const BROADCAST: Station = Station { mac: MacAddr([0xff; 6]), ..Station::container([255; 4]) };
/// Peers that tables may contain.
pub(super) const VTEPS: [[u8; 4]; 3] = [NODE2, [192, 168, 1, 11], [10, 99, 255, 1]];
/// A key of `OVL_TXPORTS` that is not an interface index.
const TX_KEY: u32 = 9;

/// True in `percent` of 100 cases.
pub(super) fn chance(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

pub(super) fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

pub(super) fn random_tables(rng: &mut Rng, interfaces: Interfaces, constants: &Constants) -> Tables {
    let udp_ports = [UDP_PORT, OTHER_UDP_PORT, 1, u16::MAX];
    let mac = if chance(rng, 95) { NODE1_MAC } else { MacAddr([2, 0, 0, 0, 0, 1]) };
    let networks = networks(rng);
    let any_strict = networks.values().any(|network| network.flags & flags::STRICT != 0);
    let mut underlay = Underlay::new(NODE1, mac, interfaces.nic, &udp_ports[..rng.usize(1..=4)]).expect("one to four");
    underlay.flags = u16::from(if chance(rng, 92) { any_strict } else { rng.bool() });
    let txports = [interfaces.ports[0], interfaces.ports[1], TX_KEY].into_iter().filter(|_| chance(rng, 70)).collect();
    Tables {
        ports: ports(rng, interfaces, constants),
        fdb: fdb(rng, interfaces, constants),
        vteps: vteps(rng, interfaces),
        peers: peers(rng, &networks),
        networks,
        underlay,
        local_addresses: [NODE1, SECOND].into(),
        txports,
        expired: chance(rng, 8),
        vni_stats: Slots { used: BTreeMap::new(), size: SIZE },
        vtep_stats: Slots { used: BTreeMap::new(), size: SIZE },
        ..Tables::default()
    }
}

/// An array index, rarely one out of range.
fn index(rng: &mut Rng) -> u32 {
    if chance(rng, 4) { pick(rng, &[SIZE, u32::MAX]) } else { rng.u32(..SIZE) }
}

fn mtu(rng: &mut Rng) -> u16 {
    pick(rng, &[1450, 1450, 1450, 1450, 1400, 8950, 576, 100, 0, u16::MAX])
}

fn strict(rng: &mut Rng) -> u32 {
    if chance(rng, 40) { flags::STRICT } else { 0 }
}

fn ports(rng: &mut Rng, interfaces: Interfaces, constants: &Constants) -> BTreeMap<PortKey, Port> {
    let mut ports = BTreeMap::new();
    for ifindex in interfaces.ports {
        let netns_id = if chance(rng, 95) { constants.netns_id } else { constants.netns_id ^ 1 };
        let container = pick(rng, &CONTAINERS);
        let port = Port {
            vni: pick(rng, &VNIS),
            slot: index(rng),
            flags: strict(rng) | if chance(rng, 30) { flags::UDP_CHECKSUM } else { 0 },
            ip: container.ipv4,
            mac: container.mac.0,
            mtu: mtu(rng),
            udp_src_first: pick(rng, &[32_768, 32_768, 0, 5000, u16::MAX]),
            udp_src_span: pick(rng, &[28_231, 28_231, 1, 0, u16::MAX]),
        };
        ports.insert(PortKey { netns_id, ifindex }, port);
    }
    ports
}

fn fdb(rng: &mut Rng, interfaces: Interfaces, constants: &Constants) -> BTreeMap<FdbKey, FdbEntry> {
    let mut fdb = BTreeMap::new();
    // An FDB entry for broadcast, which no daemon writes.
    let all = CONTAINERS.into_iter().chain([BROADCAST]);
    for (vni, container) in VNIS.into_iter().flat_map(|vni| all.clone().map(move |container| (vni, container))) {
        if chance(rng, if container == BROADCAST { 80 } else { 15 }) {
            continue;
        }
        let entry = if chance(rng, 45) {
            let vtep = if chance(rng, 90) { rng.u32(..4) } else { index(rng) };
            match rng.u8(..10) {
                0..6 => FdbEntry::remote_with_ip(vtep, container.ipv4),
                6 => FdbEntry::remote_with_ip(vtep, pick(rng, &CONTAINERS).ipv4),
                _ => FdbEntry::remote(vtep),
            }
        } else {
            let netns_id = pick(rng, &[0, 0, SANDBOX, constants.netns_id as u16]);
            FdbEntry {
                kind: pick(rng, &[FdbEntry::LOCAL_PEER, FdbEntry::LOCAL_PEER, FdbEntry::LOCAL]),
                netns_id,
                target: pick(rng, &[interfaces.ports[0], interfaces.ports[1], interfaces.other]),
                shim_or_ip: if netns_id == 0 { 0 } else { SHIM },
                tx: pick(rng, &[0, interfaces.ports[0], interfaces.ports[1], TX_KEY]),
            }
        };
        fdb.insert(FdbKey::new(vni, container.mac), entry);
    }
    fdb
}

fn vteps(rng: &mut Rng, interfaces: Interfaces) -> Slots<Vtep> {
    let mut used = BTreeMap::new();
    for (index, dst) in (0..).zip(VTEPS.into_iter().chain([NODE2])) {
        let mut outer = OuterHeader::template(NODE1, dst, pick(rng, &[UDP_PORT, UDP_PORT, OTHER_UDP_PORT]));
        rng.fill(&mut outer.eth_dst);
        outer.eth_src = NODE1_MAC.0;
        let ifindex = if chance(rng, 90) { interfaces.nic } else { interfaces.other };
        let resolved = chance(rng, 85).into();
        used.insert(index, Vtep { outer, mtu: mtu(rng), ifindex, ip_sum: outer.ip_sum(), resolved });
    }
    Slots { used, size: SIZE }
}

fn peers(rng: &mut Rng, networks: &BTreeMap<u32, Network>) -> BTreeMap<PeerKey, Peer> {
    let mut peers = BTreeMap::new();
    for (vni, (vtep, addr)) in VNIS.into_iter().flat_map(|vni| (0..).zip(VTEPS).map(move |peer| (vni, peer))) {
        if chance(rng, 75) {
            let is_strict = networks.get(&vni).is_some_and(|network| network.flags & flags::STRICT != 0);
            let peer = Peer {
                vtep: if chance(rng, 75) { vtep } else { index(rng) },
                slot: index(rng),
                port: if chance(rng, 85) { UDP_PORT } else { OTHER_UDP_PORT },
                device_mac: if chance(rng, 10) { GINDEMO2.mac.0 } else { [2; 6] },
                mtu: mtu(rng),
                flags: u16::from(if chance(rng, 92) { is_strict } else { rng.bool() })
                    | if rng.bool() { flags::LEARNING as u16 } else { 0 },
            };
            peers.insert(PeerKey { vni, addr }, peer);
        }
    }
    peers
}

fn networks(rng: &mut Rng) -> BTreeMap<u32, Network> {
    let mut networks = BTreeMap::new();
    for vni in VNIS {
        if chance(rng, 90) {
            networks.insert(vni, Network { slot: index(rng), flags: strict(rng), mtu: mtu(rng), port: UDP_PORT });
        }
    }
    networks
}
