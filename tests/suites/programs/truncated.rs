//! Truncated packets of every length: never forwarded without complete headers, never modified.

use overlay_common::Reason;
use overlay_tests::{
    frame::{L4, OUTER_LEN, Version, arp_request, fix_ipv4_checksum},
    program::{Hook, Outcome, Programs, Skb, TC_REDIRECT, from_node2, inbound, outbound},
};

const UDP: L4 = L4::Udp(5000, 53);
const ETH: usize = 14;

/// Runs the program; `None`: the kernel rejects such a packet before the program runs: fewer than 14 bytes at any hook,
/// and IP without its header at TC (`bpf_prog_test_run_skb`, since Linux 6.18).
fn run(programs: &Programs, hook: Hook, packet: &[u8]) -> Option<Outcome> {
    let l3 = match packet.get(12..14) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        _ => 0,
    };
    match programs.try_run(hook, packet, Skb::default()) {
        Ok(outcome) => Some(outcome),
        Err(error) => {
            let may_be_rejected = packet.len() < ETH || hook != Hook::NicXdp && packet.len() < ETH + l3;
            assert!(
                may_be_rejected && error.raw_os_error() == Some(libc::EINVAL),
                "{hook:?} {}: {error}",
                packet.len()
            );
            None
        }
    }
}

#[test]
fn vxlan_packet_truncated_at_any_length_falls_back_to_kernel() {
    let programs = Programs::cluster();
    for version in [Version::V4, Version::V6] {
        let packet = from_node2().encapsulate(&inbound(version, UDP).bytes());
        let mut seen = 0;
        for len in 0..packet.len() {
            for hook in [Hook::NicIn, Hook::NicXdp] {
                if let Some(outcome) = run(&programs, hook, &packet[..len]) {
                    outcome.assert_passed_to_kernel(&packet[..len]);
                    seen += 1;
                }
            }
        }
        assert!(seen >= 2 * packet.len() - 2 * (ETH + 20), "{seen}");
    }
}

#[test]
fn inner_frame_truncated_in_headers_falls_back_to_kernel() {
    let programs = Programs::cluster();
    for (version, headers) in [(Version::V4, ETH + 20), (Version::V6, ETH + 40)] {
        let inner = inbound(version, UDP).bytes();
        for len in 0..headers {
            // The outer lengths and the checksum match the truncated packet.
            let packet = from_node2().encapsulate(&inner[..len]);
            for hook in [Hook::NicIn, Hook::NicXdp] {
                programs.run(hook, &packet).assert_kernel(Reason::Truncated, &packet);
            }
        }
        // Like the kernel, the programs do not inspect layer 4.
        for len in headers..inner.len() {
            let packet = from_node2().encapsulate(&inner[..len]);
            programs.run(Hook::NicIn, &packet).assert_forwarded(Reason::Decap, packet.len(), &inner[..len]);
            programs.run(Hook::NicXdp, &packet).assert_forwarded(Reason::DecapXdp, packet.len(), &inner[..len]);
        }
    }
}

#[test]
fn datagram_truncated_in_vxlan_header_falls_back_to_kernel() {
    let programs = Programs::cluster();
    let headers = from_node2().encapsulate(&[]);
    for len in 42..OUTER_LEN {
        let mut packet = headers[..len].to_vec();
        packet[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
        packet[38..40].copy_from_slice(&(len as u16 - 34).to_be_bytes());
        fix_ipv4_checksum(&mut packet, ETH);
        for hook in [Hook::NicIn, Hook::NicXdp] {
            programs.run(hook, &packet).assert_kernel(Reason::Truncated, &packet);
        }
    }
}

/// A container's frame needs complete Ethernet and IP headers. Layer 4 is not inspected, as on a bridge.
#[test]
fn container_frame_with_complete_ip_header_is_forwarded() {
    let programs = Programs::cluster();
    for (version, headers) in [(Version::V4, ETH + 20), (Version::V6, ETH + 40)] {
        for l4 in [UDP, L4::Tcp(1, 2)] {
            let frame = outbound(version, l4).bytes();
            for len in 0..frame.len() {
                let frame = &frame[..len];
                let Some(outcome) = run(&programs, Hook::PortIn, frame) else { continue };
                if len < headers {
                    outcome.assert_kernel(Reason::Truncated, frame);
                } else {
                    assert_eq!(outcome.action, TC_REDIRECT, "{len}");
                    assert_eq!(outcome.packet[OUTER_LEN..], *frame);
                }
            }
        }
    }
}

#[test]
fn truncated_arp_from_container_falls_back_to_kernel() {
    let programs = Programs::cluster();
    let frame = arp_request(outbound(Version::V4, UDP).from, outbound(Version::V4, UDP).to);
    for len in ETH..frame.len() {
        programs.run(Hook::PortIn, &frame[..len]).assert_kernel(Reason::NotIp, &frame[..len]);
    }
}
