//! Packets that nobody meant: random bytes and damaged frames. A model that shares no code with the programs says what
//! may become of each.

use overlay_common::{
    MacAddr,
    maps::{Port, flags},
};
use overlay_tests::{
    frame::{Inner, L4, OUTER_LEN, Outer, Version, fix_ipv4_checksum, internet_checksum, tagged},
    program::{
        GINDEMO1, GINDEMO2, Hook, MTU, NEIGHBOUR, NODE1, NODE1_MAC, NODE2, OTHER_UDP_PORT, Outcome, Programs,
        STRICT_VNI, Skb, UDP_PORT, VNI, from_node2, port, to_node2,
    },
};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestCaseResult, TestRunner},
};

/// What may become of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Kernel,
    Drop,
    /// The frame that leaves. For encapsulation, the inner one.
    Forward(Vec<u8>),
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// RFC 6040, figure 4, by [inner][outer] codepoint.
const ECN: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

fn nic_model(hook: Hook, packet: &[u8]) -> Fate {
    let ours = packet.len() >= OUTER_LEN
        && packet[..6] == NODE1_MAC.0
        && be16(packet, 12) == 0x0800
        && packet[14] == 0x45
        && be16(packet, 20) & 0x3fff == 0
        && packet[23] == 17
        && usize::from(be16(packet, 16)) == packet.len() - 14
        && usize::from(be16(packet, 38)) == packet.len() - 34
        && internet_checksum(&packet[14..34]) == 0
        && packet[30..34] == NODE1
        && [UDP_PORT, OTHER_UDP_PORT].contains(&be16(packet, 36))
        && packet[42..46] == [8, 0, 0, 0]
        && packet[49] == 0;
    if !ours {
        return Fate::Kernel;
    }
    let vni = u32::from_be_bytes([0, packet[46], packet[47], packet[48]]);
    if packet[26..30] != NODE2 {
        return if vni == STRICT_VNI { Fate::Drop } else { Fate::Kernel };
    }
    if ![VNI, STRICT_VNI].contains(&vni) || be16(packet, 36) != UDP_PORT {
        return Fate::Kernel;
    }
    let mut frame = packet[OUTER_LEN..].to_vec();
    let Some((version, mut class, protocol)) = read_ip(&frame) else { return Fate::Kernel };
    let local = [GINDEMO1.mac, NEIGHBOUR.mac].iter().any(|mac| frame[..6] == mac.0);
    let may_be_tcp = match version {
        Version::V4 => protocol == 6,
        Version::V6 => ![17, 58].contains(&protocol),
    };
    if !local || hook == Hook::NicXdp && may_be_tcp {
        return Fate::Kernel;
    }
    match ECN[usize::from(class & 3)][usize::from(packet[15] & 3)] {
        None => return Fate::Kernel,
        Some(ecn) => class = class & !3 | ecn,
    }
    match version {
        Version::V4 => frame[15] = class,
        Version::V6 => frame[15] = frame[15] & 0x0f | class << 4,
    }
    Fate::Forward(frame)
}

/// Version by EtherType, traffic class, and protocol or next header.
fn read_ip(frame: &[u8]) -> Option<(Version, u8, u8)> {
    if frame.len() < 14 {
        return None;
    }
    match be16(frame, 12) {
        0x0800 if frame.len() >= 34 => Some((Version::V4, frame[15], frame[23])),
        0x86dd if frame.len() >= 54 => Some((Version::V6, (be16(frame, 14) >> 4) as u8, frame[20])),
        _ => None,
    }
}

fn port_model(strict: bool, frame: &[u8]) -> Fate {
    if frame[6..12] != GINDEMO1.mac.0 {
        return if strict { Fate::Drop } else { Fate::Kernel };
    }
    match be16(frame, 12) {
        0x8100 | 0x88a8 if strict => return Fate::Drop,
        0x0806 if strict && frame.len() >= 32 => {
            let true_sender =
                frame[22..28] == GINDEMO1.mac.0 && [GINDEMO1.ipv4, [0; 4]].iter().any(|ip| frame[28..32] == *ip);
            return if true_sender { Fate::Kernel } else { Fate::Drop };
        }
        _ => {}
    }
    let Some((version, ..)) = read_ip(frame) else { return Fate::Kernel };
    if strict && version == Version::V4 && frame[26..30] != GINDEMO1.ipv4 {
        return Fate::Drop;
    }
    // The third known MAC is behind the port that the frame comes from.
    let other = if strict { GINDEMO1.mac } else { NEIGHBOUR.mac };
    let known = [other, GINDEMO2.mac].iter().any(|mac| frame[..6] == mac.0);
    // In the FDB, though not where the frame could go.
    let inside = known || frame[..6] == NEIGHBOUR.mac.0;
    if strict && !inside && version == Version::V4 && is_vxlan(frame) {
        return Fate::Drop;
    }
    if known && frame.len() - 14 <= MTU.into() { Fate::Forward(frame.to_vec()) } else { Fate::Kernel }
}

/// Of an IPv4 frame: whether it is UDP for a VXLAN port, or the beginning of that.
fn is_vxlan(frame: &[u8]) -> bool {
    let udp = 14 + usize::from(frame[14] & 15) * 4;
    frame[14] >> 4 == 4
        && frame[23] == 17
        && be16(frame, 20) & 0x1fff == 0
        && frame.len() >= udp + 4
        && [UDP_PORT, OTHER_UDP_PORT].contains(&be16(frame, udp + 2))
}

/// Damage to a good frame.
#[derive(Clone, Debug)]
enum Damage {
    Byte(Index, u8),
    Bit(Index, u8),
    /// Cuts or lengthens.
    Length(Index),
    Append(u8),
    /// Makes the outer lengths and the checksum right for what there is.
    Mend,
    Tag,
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, value)| Damage::Byte(at, value)),
        6 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        1 => any::<Index>().prop_map(Damage::Length),
        1 => (1u8..30).prop_map(Damage::Append),
        4 => Just(Damage::Mend),
        1 => Just(Damage::Tag),
    ];
    prop::collection::vec(one, 0..5)
}

fn apply(mut packet: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for one in damages {
        // Headers are where damage matters.
        let head = packet.len().min(110);
        match one {
            Damage::Byte(at, value) if head > 0 => packet[at.index(head)] = *value,
            Damage::Bit(at, bit) if head > 0 => packet[at.index(head)] ^= 1 << bit,
            Damage::Length(len) => packet.truncate(14 + len.index(packet.len() - 13)),
            Damage::Append(bytes) => packet.extend(0..*bytes),
            Damage::Mend if packet.len() >= OUTER_LEN => {
                let len = packet.len() as u16;
                packet[16..18].copy_from_slice(&(len - 14).to_be_bytes());
                packet[38..40].copy_from_slice(&(len - 34).to_be_bytes());
                fix_ipv4_checksum(&mut packet, 14);
            }
            Damage::Tag => packet = tagged(&packet, 0x8100),
            _ => {}
        }
    }
    packet
}

fn frame(to_here: bool) -> impl Strategy<Value = Vec<u8>> {
    let l4 = prop_oneof![
        (any::<u16>(), any::<u16>()).prop_map(|(src, dst)| L4::Tcp(src, dst)),
        (any::<u16>(), any::<u16>()).prop_map(|(src, dst)| L4::Udp(src, dst)),
        any::<u16>().prop_map(|src| L4::Udp(src, UDP_PORT)),
        Just(L4::Icmp),
        any::<u8>().prop_map(L4::Raw),
    ];
    let far = if to_here { GINDEMO2 } else { GINDEMO1 };
    let near = prop::sample::select(vec![GINDEMO1, GINDEMO2, NEIGHBOUR]);
    let version = prop::sample::select(vec![Version::V4, Version::V6]);
    let payload = prop_oneof![20 => 0usize..80, 1 => 1390usize..1430];
    (near, version, l4, any::<u8>(), payload).prop_map(move |(near, version, l4, tos, payload)| {
        Inner::new(far, near, version, l4).tos(tos).payload(&vec![0xa5; payload]).bytes()
    })
}

fn vxlan() -> impl Strategy<Value = Vec<u8>> {
    let vni = prop::sample::select(vec![VNI, VNI, STRICT_VNI, 77]);
    let src = prop::sample::select(vec![NODE2, NODE2, NODE2, [192, 168, 1, 66]]);
    let udp_dst = prop::sample::select(vec![UDP_PORT, UDP_PORT, UDP_PORT, OTHER_UDP_PORT, 53]);
    (frame(true), vni, src, udp_dst, any::<u8>())
        .prop_map(|(frame, vni, src, udp_dst, tos)| Outer { vni, src, udp_dst, tos, ..from_node2() }.around(&frame))
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 14..200)
}

/// `None` where the test run itself refuses the packet: TC, IP without a header.
fn run(programs: &Programs, hook: Hook, packet: &[u8], skb: Skb) -> Option<Outcome> {
    match programs.try_run(hook, packet, skb) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && hook != Hook::NicXdp => {
            assert!(packet.len() < 54, "{hook:?} {}: {error}", packet.len());
            None
        }
        outcome => Some(outcome.expect("the kernel runs the program")),
    }
}

fn unchanged(outcome: &Outcome, packet: &[u8], action: u32) -> TestCaseResult {
    prop_assert_eq!(outcome.action, action, "{:?}", &outcome.counted);
    prop_assert_eq!(&outcome.packet, packet);
    Ok(())
}

/// The checksum of an inner IPv4 header that was marked follows, right or wrong as it was.
fn assert_decapsulated(found: &[u8], expected: &[u8], packet: &[u8]) -> TestCaseResult {
    let (mut found, mut expected) = (found.to_vec(), expected.to_vec());
    if expected[12..14] == [8, 0] {
        let sum = |frame: &[u8]| internet_checksum(&frame[14..34]) % 0xffff;
        prop_assert_eq!(sum(&found), sum(&packet[OUTER_LEN..]), "inner header checksum");
        if packet[OUTER_LEN + 15] == expected[15] {
            prop_assert_eq!(&found[24..26], &expected[24..26]);
        }
        found[24..26].fill(0);
        expected[24..26].fill(0);
    }
    prop_assert_eq!(found, expected);
    Ok(())
}

fn prove(cases: u32, packets: &impl Strategy<Value = Vec<u8>>, check: impl Fn(&Programs, Vec<u8>) -> TestCaseResult) {
    let mut programs = Programs::cluster();
    // gindemo1 has a second port, that is strict.
    programs.port(programs.neighbour_port, Port { flags: flags::STRICT, ..port() });
    // Nothing is written to disk: a failure is to become a named test.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    if let Err(error) = TestRunner::new(config).run(packets, |packet| check(&programs, packet)) {
        panic!("{error}");
    }
}

fn check_nic(programs: &Programs, packet: &[u8]) -> TestCaseResult {
    for hook in [Hook::NicIn, Hook::NicXdp] {
        let Some(outcome) = run(programs, hook, packet, Skb::default()) else { continue };
        match nic_model(hook, packet) {
            Fate::Kernel => unchanged(&outcome, packet, hook.kernel())?,
            Fate::Drop => prop_assert_eq!(outcome.action, hook.drop()),
            Fate::Forward(expected) => {
                prop_assert_eq!(outcome.action, hook.redirect(), "{:?}", &outcome.counted);
                assert_decapsulated(&outcome.packet, &expected, packet)?;
            }
        }
    }
    Ok(())
}

fn check_port(programs: &Programs, packet: &[u8]) -> TestCaseResult {
    for strict in [false, true] {
        let ifindex = Some(if strict { programs.neighbour_port } else { programs.port });
        let skb = Skb { ifindex, ..Skb::default() };
        let Some(outcome) = run(programs, Hook::PortIn, packet, skb) else { continue };
        match port_model(strict, packet) {
            Fate::Kernel => unchanged(&outcome, packet, Hook::PortIn.kernel())?,
            Fate::Drop => unchanged(&outcome, packet, Hook::PortIn.drop())?,
            Fate::Forward(frame)
                if MacAddr([frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]]) == GINDEMO2.mac =>
            {
                prop_assert_eq!(outcome.action, Hook::PortIn.redirect(), "{:?}", &outcome.counted);
                let (_, class, _) = read_ip(&frame).expect("the model forwards IP alone");
                let expected = Outer {
                    id: be16(&outcome.packet, 18),
                    udp_src: be16(&outcome.packet, 34) | 0x8000,
                    tos: [0, 1, 2, 2][usize::from(class & 3)],
                    ..to_node2()
                };
                prop_assert_eq!(outcome.packet, expected.around(&frame));
            }
            Fate::Forward(frame) => unchanged(&outcome, &frame, Hook::PortIn.redirect())?,
        }
    }
    Ok(())
}

#[test]
fn damaged_vxlan_packets_get_what_the_model_says() {
    let packets = (vxlan(), damage()).prop_map(|(packet, damages)| apply(packet, &damages));
    prove(3000, &packets, |programs, packet| check_nic(programs, &packet));
}

#[test]
fn damaged_container_frames_get_what_the_model_says() {
    let packets = (frame(false), damage()).prop_map(|(packet, damages)| apply(packet, &damages));
    prove(3000, &packets, |programs, packet| check_port(programs, &packet));
}

#[test]
fn noise_is_never_forwarded() {
    prove(2000, &noise(), |programs, packet| {
        check_nic(programs, &packet)?;
        check_port(programs, &packet)
    });
}

/// A model that refuses everything would pass too: most undamaged packets must go the fast way.
#[test]
fn the_model_forwards_what_is_good() {
    let good = from_node2().around(&Inner::new(GINDEMO2, GINDEMO1, Version::V4, L4::Icmp).bytes());
    assert_eq!(nic_model(Hook::NicIn, &good), Fate::Forward(good[OUTER_LEN..].to_vec()));
    assert_eq!(nic_model(Hook::NicXdp, &good), Fate::Forward(good[OUTER_LEN..].to_vec()));
    let frame = Inner::new(GINDEMO1, GINDEMO2, Version::V6, L4::Icmp).bytes();
    assert_eq!(port_model(true, &frame), Fate::Forward(frame.clone()));
    assert_eq!(port_model(true, &tagged(&frame, 0x8100)), Fate::Drop);
}
