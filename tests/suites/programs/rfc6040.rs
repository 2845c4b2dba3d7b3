//! Congestion marks across the tunnel: RFC 6040, figure 4, all 16 combinations, in IPv4 and IPv6, by both hooks.

use overlay_common::Reason;
use overlay_tests::{
    frame::{L4, Outer, Version, fix_ipv4_checksum, has_valid_checksums, internet_checksum},
    program::{Hook, Programs, from_node2, inbound},
};

const NOT_ECT: u8 = 0;
const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;

/// Rows: inner. Columns: outer Not-ECT, ECT(0), ECT(1), CE, in the order of the figure. `None`: drop.
const FIGURE_4: [(u8, [Option<u8>; 4]); 4] = [
    (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
    (ECT0, [Some(ECT0), Some(ECT0), Some(ECT1), Some(CE)]),
    (ECT1, [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)]),
    (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
];

fn every_combination(version: Version, hook: Hook) {
    let programs = Programs::cluster();
    let reason = if hook == Hook::NicXdp { Reason::DecapXdp } else { Reason::Decap };
    for (inner, row) in FIGURE_4 {
        for (outer, expected) in [NOT_ECT, ECT0, ECT1, CE].into_iter().zip(row) {
            for dscp in [0, 46, 63] {
                let frame = inbound(version, L4::Udp(5000, 53)).tos(dscp << 2 | inner);
                let packet = Outer { tos: 10 << 2 | outer, ..from_node2() }.encapsulate(&frame.bytes());
                let outcome = programs.run(hook, &packet);
                let Some(expected) = expected else {
                    // The kernel drops it and counts it.
                    outcome.assert_kernel(Reason::Ecn, &packet);
                    continue;
                };
                // The inner DSCP is kept: the kernel uses the pipe model.
                let marked = frame.tos(dscp << 2 | expected).bytes();
                outcome.assert_forwarded(reason, packet.len(), &marked);
                assert!(has_valid_checksums(&outcome.packet), "inner {inner} outer {outer}");
            }
        }
    }
}

#[test]
fn tc_applies_rfc6040_to_ipv4() {
    every_combination(Version::V4, Hook::NicIn);
}

#[test]
fn tc_applies_rfc6040_to_ipv6() {
    every_combination(Version::V6, Hook::NicIn);
}

#[test]
fn xdp_applies_rfc6040_to_ipv4() {
    every_combination(Version::V4, Hook::NicXdp);
}

#[test]
fn xdp_applies_rfc6040_to_ipv6() {
    every_combination(Version::V6, Hook::NicXdp);
}

/// Covers both zeros of the ones' complement sum, and double carries.
#[test]
fn header_checksum_is_correct_after_ecn_marking() {
    let programs = Programs::cluster();
    for id in (0..=u16::MAX).step_by(7).chain(0xcf00..0xd100) {
        let mut inner = inbound(Version::V4, L4::Udp(5000, 53)).tos(ECT1).bytes();
        inner[18..20].copy_from_slice(&id.to_be_bytes());
        fix_ipv4_checksum(&mut inner, 14);
        let packet = Outer { tos: CE, id, ..from_node2() }.encapsulate(&inner);
        let outcome = programs.run(Hook::NicXdp, &packet);
        assert_eq!(outcome.packet[15], CE);
        assert_eq!(internet_checksum(&outcome.packet[14..34]), 0, "id {id}");
    }
}
