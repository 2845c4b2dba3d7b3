//! Frames for a program and its tables: valid ones, nearly valid ones, and random bytes.

use fastrand::Rng;
use overlay_common::{
    MacAddr,
    maps::{FdbEntry, FdbKey, PortKey},
};
use overlay_tests::reference::{Program, Tables};
use overlay_tests::{
    frame::{Inner, L4, OUTER_LEN, Outer, Station, UdpChecksum, Version, arp_request, tagged},
    program::{NODE1, NODE1_MAC, NODE2, NODE2_MAC, SECOND, Skb, UDP_PORT, from_node2},
};

use super::{
    mutate,
    rig::{Case, Rig},
    tables::{BROADCAST, CONTAINERS, VNIS, VTEPS, chance, pick},
};

/// A container that is in no table.
const UNKNOWN: Station = Station::container([10, 0, 1, 99]);
/// Broadcast and multicast.
const GROUPS: [MacAddr; 2] = [BROADCAST.mac, MacAddr([1, 0, 0x5e, 0, 0, 1])];

/// The next packet for the rig's tables.
pub(super) fn case(rng: &mut Rng, rig: &Rig) -> Case {
    let program = pick(
        rng,
        &[
            Program::PortIn,
            Program::PortIn,
            Program::PortIn,
            Program::NicIn,
            Program::NicIn,
            Program::NicXdp,
            Program::NicXdp,
            Program::ShimOut,
            Program::ShimIn,
        ],
    );
    let tables = &rig.tables;
    let mut skb = Skb::default();
    let is_outer = !matches!(program, Program::PortIn | Program::ShimIn);
    let mut bytes = match program {
        _ if chance(rng, 4) => noise(rng),
        Program::PortIn => {
            let ifindex = interface(rng, rig);
            skb.ifindex = Some(ifindex);
            from_container(rng, tables, PortKey { netns_id: rig.constants.netns_id, ifindex })
        }
        Program::NicIn | Program::NicXdp => from_underlay(rng, tables),
        Program::ShimOut => {
            let [from, to] = [pick(rng, &CONTAINERS), pick(rng, &CONTAINERS)];
            let inner = inner(rng, from, to);
            let src = if chance(rng, 90) { NODE1 } else { pick(rng, &VTEPS) };
            let (dst, vni) = (pick(rng, &VTEPS), pick(rng, &VNIS));
            outer(rng, src, dst, vni, NODE1_MAC).encapsulate(&inner)
        }
        Program::ShimIn => {
            let to = destination(rng, tables, rig.constants.vni, true);
            let from = pick(rng, &CONTAINERS);
            inner(rng, from, to)
        }
    };
    if chance(rng, 50) {
        bytes = mutate::mutate(rng, bytes, is_outer);
    }
    let skb = skb_fields(rng, rig, program, &bytes, skb);
    Case { program, skb, bytes }
}

/// The skb around the packet.
fn skb_fields(rng: &mut Rng, rig: &Rig, program: Program, bytes: &[u8], mut skb: Skb) -> Skb {
    if program == Program::NicXdp {
        let linear = rng.u32(14..140);
        if rig.splits_buffers && chance(rng, 5) && (linear as usize) < bytes.len() {
            skb.linear = Some(linear);
        }
        return skb;
    }
    if chance(rng, 10) {
        skb.gso_segs = pick(rng, &[1, 2, 45, 65_535]);
    }
    if chance(rng, 3) {
        skb.mark = pick(rng, &[1, 0x4000, u32::MAX]);
    }
    if chance(rng, 8) {
        skb.gso_size = pick(rng, &[1, 60, 524, 1348, 1398, 1410, 1422, 1450, 8910, 65_535]);
    }
    skb.checksum_complete = rig.sums_checksums && program == Program::NicIn && chance(rng, 20);
    skb
}

fn interface(rng: &mut Rng, rig: &Rig) -> u32 {
    let interfaces = rig.interfaces();
    if chance(rng, 96) { pick(rng, &interfaces.ports) } else { interfaces.other }
}

fn noise(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; rng.usize(14..200)];
    rng.fill(&mut bytes);
    if chance(rng, 50) {
        let ether_type: u16 = pick(rng, &[0x0800, 0x86dd, 0x0806]);
        bytes[12..14].copy_from_slice(&ether_type.to_be_bytes());
    }
    bytes
}

fn from_container(rng: &mut Rng, tables: &Tables, key: PortKey) -> Vec<u8> {
    let port = tables.ports.get(&key);
    let mut from = pick(rng, &CONTAINERS);
    if let Some(port) = port
        && chance(rng, 94)
    {
        from.mac = MacAddr(port.mac);
        from.ipv4 = if chance(rng, 92) { port.ip } else { UNKNOWN.ipv4 };
    }
    let to = destination(rng, tables, port.map_or(VNIS[0], |port| port.vni), false);
    match rng.u8(..100) {
        0..6 => arp(rng, from, to),
        6..14 => injected(rng, tables, from, to),
        _ => inner(rng, from, to),
    }
}

fn from_underlay(rng: &mut Rng, tables: &Tables) -> Vec<u8> {
    let peers: Vec<_> = tables.peers.iter().collect();
    let mut vni = pick(rng, &VNIS);
    let (mut src, mut port, mut from) = (pick(rng, &VTEPS), UDP_PORT, pick(rng, &CONTAINERS));
    if !peers.is_empty() && chance(rng, 88) {
        let (key, peer) = pick(rng, &peers);
        (vni, src, port) = (key.vni, key.addr, peer.port);
        let is_behind = |container: &&Station| {
            let entry = tables.fdb.get(&FdbKey::new(vni, container.mac));
            entry.is_some_and(|entry| entry.kind == FdbEntry::REMOTE && entry.target == peer.vtep)
        };
        let behind: Vec<_> = CONTAINERS.iter().filter(is_behind).copied().collect();
        if !behind.is_empty() && chance(rng, 85) {
            from = pick(rng, &behind);
            from.ipv4 = if chance(rng, 92) { from.ipv4 } else { UNKNOWN.ipv4 };
        }
    } else if chance(rng, 30) {
        vni = rng.u32(..1 << 24);
    }
    let to = destination(rng, tables, vni, true);
    let inner = if chance(rng, 6) { arp(rng, from, to) } else { inner(rng, from, to) };
    let mut outer = outer(rng, src, NODE1, vni, NODE2_MAC);
    if chance(rng, 6) {
        outer.dst = pick(rng, &[SECOND, [224, 0, 0, 1], [239, 1, 2, 3], [255; 4], [0; 4], NODE2, [127, 0, 0, 1]]);
    }
    outer.eth_dst = match rng.u8(..100) {
        0 => NODE2_MAC,
        1..4 => pick(rng, &GROUPS),
        _ => MacAddr(tables.underlay.mac),
    };
    if chance(rng, 94) {
        outer.udp_dst = port;
    }
    let mut packet = outer.encapsulate(&inner);
    if outer.fragment == (0, true) && chance(rng, 70) {
        // The rest is in the next fragment, or is padding.
        let payload = rng.usize(8..80);
        mutate::end_at(&mut packet, 34 + payload);
        if chance(rng, 60) {
            packet.truncate(34 + payload);
        }
    }
    packet
}

/// An ARP request, mostly with the container's own address as sender.
fn arp(rng: &mut Rng, from: Station, to: Station) -> Vec<u8> {
    let sender = match rng.u8(..10) {
        0..6 => from.ipv4,
        6..8 => [0; 4],
        _ => UNKNOWN.ipv4,
    };
    let to = if chance(rng, 40) { Station { mac: GROUPS[0], ..to } } else { to };
    let mut frame = arp_request(Station { ipv4: sender, ..from }, to);
    if chance(rng, 15) {
        frame[22..28].copy_from_slice(&UNKNOWN.mac.0);
    }
    frame
}

/// A VXLAN packet sent by a container.
fn injected(rng: &mut Rng, tables: &Tables, from: Station, to: Station) -> Vec<u8> {
    let [peer, receiver] = [pick(rng, &CONTAINERS), pick(rng, &CONTAINERS)];
    let content = inner(rng, peer, receiver);
    let vni = if chance(rng, 90) { pick(rng, &VNIS) } else { rng.u32(..1 << 24) };
    let packet = outer(rng, NODE1, NODE2, vni, NODE1_MAC).encapsulate(&content);
    let port = if chance(rng, 90) { pick(rng, &tables.underlay.ports) } else { rng.u16(..) };
    let to = if chance(rng, 80) { Station { mac: pick(rng, &[UNKNOWN.mac, GROUPS[0], GROUPS[1]]), ..to } } else { to };
    let mut frame = Inner::new(from, to, Version::V4, L4::Udp(rng.u16(..), port));
    let vxlan = packet.get(OUTER_LEN - 8..).unwrap_or_default();
    frame.payload = vxlan[..if chance(rng, 70) { vxlan.len() } else { rng.usize(..=vxlan.len().min(12)) }].to_vec();
    if chance(rng, 10) {
        frame.options = vec![1; 4 * rng.usize(1..=10)];
    }
    if chance(rng, 40) {
        frame.fragment = pick(rng, &[(0, true), (0, true), (1, true), (1, false)]);
    }
    frame.bytes()
}

/// A destination, mostly one that the FDB has at the expected location.
fn destination(rng: &mut Rng, tables: &Tables, vni: u32, local: bool) -> Station {
    let is_in_fdb = |container: &&Station| {
        let entry = tables.fdb.get(&FdbKey::new(vni, container.mac));
        entry.is_some_and(|entry| !local || entry.is_local())
    };
    let present: Vec<_> = CONTAINERS.iter().filter(is_in_fdb).copied().collect();
    match rng.u8(..100) {
        0..90 if !present.is_empty() => pick(rng, &present),
        90..94 => Station { mac: pick(rng, &GROUPS), ..UNKNOWN },
        94..96 => UNKNOWN,
        _ => pick(rng, &CONTAINERS),
    }
}

fn inner(rng: &mut Rng, from: Station, to: Station) -> Vec<u8> {
    let ports = (rng.u16(..), rng.u16(..));
    let l4 = match rng.u8(..10) {
        0..3 => L4::Tcp(ports.0, ports.1),
        3..7 => L4::Udp(ports.0, ports.1),
        7 => L4::Icmp,
        8 => L4::Raw(pick(rng, &[0, 4, 41, 47, 50, 58, 132, 136])),
        _ => L4::Raw(rng.u8(..)),
    };
    let version = if chance(rng, 60) { Version::V4 } else { Version::V6 };
    let mut frame = Inner::new(from, to, version, l4).tos(rng.u8(..));
    let payload = match rng.u8(..100) {
        0..70 => rng.usize(..60),
        70..76 => rng.usize(1370..1440),
        76..78 => rng.usize(1440..3000),
        78..84 => 0,
        _ => rng.usize(..600),
    };
    frame.payload = vec![rng.u8(..); payload];
    if l4 == L4::Raw(58) {
        frame.payload.splice(..payload.min(2), [pick(rng, &[133, 135, 136]), 0]).for_each(drop);
    }
    if version == Version::V4 && chance(rng, 6) {
        frame.options = vec![1; 4 * rng.usize(1..=10)];
    }
    if version == Version::V4 && chance(rng, 6) {
        frame.fragment = pick(rng, &[(0, true), (8, true), (0x1fff, false)]);
    }
    let bytes = frame.bytes();
    if chance(rng, 2) { tagged(&bytes, pick(rng, &[0x8100, 0x88a8])) } else { bytes }
}

fn outer(rng: &mut Rng, src: [u8; 4], dst: [u8; 4], vni: u32, eth_src: MacAddr) -> Outer {
    let mut outer = Outer { src, dst, vni, eth_src, tos: rng.u8(..), id: rng.u16(..), ..from_node2() };
    outer.udp_src = rng.u16(..);
    outer.udp_checksum = pick(rng, &[UdpChecksum::Absent, UdpChecksum::Absent, UdpChecksum::Right]);
    outer.dont_fragment = chance(rng, 20);
    match rng.u8(..100) {
        0 | 1 => outer.options = vec![1; 4 * rng.usize(1..=10)],
        2..6 => outer.fragment = pick(rng, &[(0, true), (0, true), (0, true), (185, true), (1, false)]),
        6 => outer.vxlan_flags = rng.u8(..),
        7 => outer.vxlan_reserved2 = rng.u8(..),
        8 => outer.udp_dst = rng.u16(..),
        _ => {}
    }
    outer
}
