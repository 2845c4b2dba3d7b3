//! Tests of the model with literal packets.

use super::*;
use overlay_common::{MacAddr, outer::OuterHeader, wire::VXLAN_PORT};

const VNI: u32 = 4097;
const NODE1: [u8; 4] = [192, 168, 1, 9];
const NODE2: [u8; 4] = [192, 168, 1, 10];
const NODE1_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 9]);
const GINDEMO1: MacAddr = MacAddr::from_ipv4([10, 0, 1, 2]);
const GINDEMO2: MacAddr = MacAddr::from_ipv4([10, 0, 1, 6]);

/// node 1 of the running example: gindemo1 on interface 7, gindemo2 on node 2.
fn tables() -> Tables {
    let mut outer = OuterHeader::template(NODE1, NODE2, VXLAN_PORT);
    outer.eth_dst = [0x52, 0x54, 0, 0, 0, 10];
    outer.eth_src = NODE1_MAC.0;
    let vtep = Vtep { outer, mtu: 1450, ifindex: 2, ip_sum: outer.ip_sum(), resolved: 1 };
    let slots = || Slots { used: BTreeMap::new(), size: 4 };
    Tables {
        ports: [(
            PortKey::host(7),
            Port {
                vni: VNI,
                slot: 0,
                flags: 0,
                ip: [10, 0, 1, 2],
                mac: GINDEMO1.0,
                mtu: 1450,
                udp_src_first: 40_000,
                udp_src_span: 10_000,
            },
        )]
        .into(),
        fdb: [
            (FdbKey::new(VNI, GINDEMO1), FdbEntry { tx: 7, ..FdbEntry::local(FdbEntry::LOCAL_PEER, 7) }),
            (FdbKey::new(VNI, GINDEMO2), FdbEntry::remote(1)),
        ]
        .into(),
        vteps: Slots { used: [(1, vtep)].into(), size: 4 },
        peers: [(
            PeerKey { vni: VNI, addr: NODE2 },
            Peer { vtep: 1, slot: 0, device_mac: [0; 6], mtu: 1450, port: VXLAN_PORT, flags: 0 },
        )]
        .into(),
        networks: [(VNI, Network { slot: 0, flags: 0, mtu: 1450, port: VXLAN_PORT })].into(),
        underlay: Underlay::new(NODE1, NODE1_MAC, 2, &[VXLAN_PORT]).unwrap(),
        txports: [7].into(),
        vni_stats: slots(),
        vtep_stats: slots(),
        ..Tables::default()
    }
}

/// An Ethernet frame with an IPv4 packet of 28 bytes with UDP; the ECN field is 2.
fn frame(from: MacAddr, to: MacAddr) -> Vec<u8> {
    let ip = [0x45, 2, 0, 28, 0, 0, 0x40, 0, 64, 17, 0x24, 0xc3, 10, 0, 1, 2, 10, 0, 1, 6];
    [&to.0[..], &from.0, &[8, 0], &ip, &[0x13, 0x88, 0, 53, 0, 8, 0, 0]].concat()
}

/// A VXLAN packet from node 2 to node 1 with `inner`; the ECN field is `tos`.
fn vxlan(tos: u8, inner: &[u8]) -> Vec<u8> {
    let udp_len = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
    let total_len = u16::try_from(inner.len() + 36).unwrap().to_be_bytes();
    let mut ip = vec![0x45, tos, total_len[0], total_len[1], 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 1, 10, 192, 168, 1, 9];
    let checksum = !read::ones_complement_sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let ethernet = [&NODE1_MAC.0[..], &[0x52, 0x54, 0, 0, 0, 10], &[8, 0]].concat();
    let udp = [0xc6, 0x2a, 0x12, 0xb5, udp_len[0], udp_len[1], 0, 0];
    [&ethernet[..], &ip, &udp, &[8, 0, 0, 0, 0, 0x10, 1, 0], inner].concat()
}

fn run(program: Program, tables: &Tables, bytes: &[u8]) -> Prediction {
    let ifindex = if program == Program::PortIn { 7 } else { 2 };
    predict(program, &Constants::default(), tables, &Packet::new(bytes, ifindex))
}

#[test]
fn sum_of_the_example_in_rfc_1071_is_correct() {
    assert_eq!(read::ones_complement_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
}

#[test]
fn frame_of_a_container_is_encapsulated_and_counted() {
    let mut tables = tables();
    let inner = frame(GINDEMO1, GINDEMO2);
    for id in 0..3u8 {
        let found = run(Program::PortIn, &tables, &inner);
        let Action::Forwarded(Redirect::Egress(2), packet) = &found.action else { panic!("{found:?}") };
        assert_eq!(packet[..12], [0x52, 0x54, 0, 0, 0, 10, 0x52, 0x54, 0, 0, 0, 9]);
        assert_eq!(packet[12..24], [8, 0, 0x45, 2, 0, 78, 0, id, 0, 0, 64, 17]);
        assert_eq!(read::ones_complement_sum(&packet[14..34]), 0xffff);
        assert_eq!(packet[26..34], [192, 168, 1, 9, 192, 168, 1, 10]);
        assert!(packet[34] >= 0x80, "the source port is in the upper half");
        assert_eq!(packet[36..50], [0x12, 0xb5, 0, 58, 0, 0, 8, 0, 0, 0, 0, 0x10, 1, 0]);
        assert_eq!(packet[50..], inner);
        tables.count(&found);
    }
    let count = Count { packets: 3, bytes: 3 * inner.len() as u64 };
    assert_eq!(tables.reasons, [(Reason::Encap as u32, count)].into());
    assert_eq!(tables.vni_stats.used[&0].tx, count);
    assert_eq!(tables.vtep_stats.used[&1].tx, count);
}

#[test]
fn vxlan_packet_is_decapsulated_and_keeps_the_ce_mark() {
    let tables = tables();
    let inner = frame(GINDEMO2, GINDEMO1);
    for (program, redirect, reason) in
        [(Program::NicIn, Redirect::Peer(7), Reason::Decap), (Program::NicXdp, Redirect::TxPort(7), Reason::DecapXdp)]
    {
        let found = run(program, &tables, &vxlan(0, &inner));
        assert_eq!(found.action, Action::Forwarded(redirect, inner.clone()));
        assert_eq!(found.reason, Some(reason));
        // CE outside, ECT(0) inside: CE, and the checksum one less.
        let mut marked = inner.clone();
        (marked[15], marked[25]) = (3, 0xc2);
        assert_eq!(run(program, &tables, &vxlan(3, &inner)).action, Action::Forwarded(redirect, marked));
    }
}

#[test]
fn packet_that_is_not_forwarded_has_a_reason() {
    let tables = tables();
    let good = vxlan(0, &frame(GINDEMO2, GINDEMO1));
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    for (packet, reason) in [
        (with(17, 0), Reason::Malformed),
        (with(14, 0x46), Reason::IpOptions),
        (with(20, 0x20), Reason::Fragment),
        (with(37, 0xb6), Reason::NotVxlan),
        (with(42, 0), Reason::VxlanNoVni),
        (with(49, 1), Reason::VxlanReserved),
        (with(48, 2), Reason::UnknownVni),
        (with(55, 9), Reason::UnknownMac),
        (with(62, 0x81), Reason::Vlan),
        (good[..40].to_vec(), Reason::NotVxlan),
    ] {
        let found = run(Program::NicIn, &tables, &packet);
        assert_eq!((found.action, found.reason), (Action::Kernel, Some(reason)));
    }
    // TC uses the packet type, XDP the MAC address. TC counts packets that XDP passes.
    assert_eq!(run(Program::NicIn, &tables, &with(0, 2)).reason, Some(Reason::Decap));
    let elsewhere = run(Program::NicXdp, &tables, &with(0, 2));
    assert_eq!((elsewhere.reason, elsewhere.counted), (Some(Reason::NotOurAddress), None));
}

#[test]
fn strict_port_drops_spoofed_sources() {
    let mut tables = tables();
    tables.ports.values_mut().for_each(|port| port.flags = overlay_common::maps::flags::STRICT);
    let found = run(Program::PortIn, &tables, &frame(GINDEMO2, GINDEMO1));
    assert_eq!((found.action, found.reason), (Action::Dropped, Some(Reason::StrictMac)));
}

/// [`tables`] with a strict network: 10.0.1.6 is on node 2.
fn strict_tables() -> Tables {
    let strict = overlay_common::maps::flags::STRICT;
    let mut tables = tables();
    tables.ports.values_mut().for_each(|port| port.flags = strict);
    tables.networks.values_mut().for_each(|network| network.flags = strict);
    tables.peers.values_mut().for_each(|peer| peer.flags = strict as u16);
    tables.fdb.insert(FdbKey::new(VNI, GINDEMO2), FdbEntry::remote_with_ip(1, [10, 0, 1, 6]));
    tables.underlay.flags = strict as u16;
    tables
}

/// A [`frame`] with the IPv4 source address of gindemo2.
fn from_gindemo2() -> Vec<u8> {
    let mut frame = frame(GINDEMO2, GINDEMO1);
    frame[26..30].copy_from_slice(&[10, 0, 1, 6]);
    frame
}

#[test]
fn vtep_of_a_strict_network_sends_only_from_its_own_endpoints() {
    let tables = strict_tables();
    let good = from_gindemo2();
    let with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    for (inner, reason) in [
        (good.clone(), Reason::Decap),
        (with(29, 7), Reason::StrictInnerIp),
        (with(11, 7), Reason::StrictVtep),
        (with(11, 7)[..14].to_vec(), Reason::StrictVtep),
        (with(12, 0x81), Reason::StrictVlan),
        (good[..14].to_vec(), Reason::Truncated),
    ] {
        assert_eq!(run(Program::NicIn, &tables, &vxlan(0, &inner)).reason, Some(reason));
    }
    let arp = |mac: MacAddr, ip: [u8; 4]| {
        let ethernet = [&GINDEMO1.0[..], &GINDEMO2.0, &[8, 6]].concat();
        [&ethernet[..], &[0, 1, 8, 0, 6, 4, 0, 1], &mac.0, &ip, &[0; 6], &[10, 0, 1, 2]].concat()
    };
    for (inner, reason) in [
        (arp(GINDEMO2, [10, 0, 1, 6]), Reason::NotIp),
        (arp(GINDEMO2, [0; 4]), Reason::NotIp),
        (arp(GINDEMO2, [10, 0, 1, 7]), Reason::StrictArp),
        (arp(GINDEMO1, [10, 0, 1, 6]), Reason::StrictArp),
    ] {
        assert_eq!(run(Program::NicIn, &tables, &vxlan(0, &inner)).reason, Some(reason));
    }
}

#[test]
fn packets_that_the_kernel_would_receive_for_a_strict_network_are_checked() {
    let mut tables = strict_tables();
    tables.local_addresses = [[10, 9, 9, 9]].into();
    let good = vxlan(0, &from_gindemo2());
    // The source address belongs to no VTEP.
    let to = |dst: [u8; 4]| {
        let mut packet = good.clone();
        packet[26..34].copy_from_slice(&[[192, 168, 1, 66], dst].concat());
        run(Program::NicIn, &tables, &packet).reason
    };
    for dst in [[10, 9, 9, 9], [255; 4], [239, 1, 2, 3]] {
        assert_eq!(to(dst), Some(Reason::StrictPeer), "{dst:?}");
    }
    assert_eq!(to([10, 9, 9, 8]), Some(Reason::NotOurAddress));
    // A first fragment needs 46 bytes for the check, in units of eight.
    for (payload, reason) in [(48, Reason::Fragment), (47, Reason::StrictFragment), (8, Reason::StrictFragment)] {
        let mut packet = good.clone();
        (packet[17], packet[20]) = (20 + payload, 0x20);
        assert_eq!(run(Program::NicIn, &tables, &packet).reason, Some(reason), "{payload}");
    }
}
