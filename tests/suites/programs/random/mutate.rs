//! Mutations of a valid frame: bits, lengths, and fields that a program reads.

use fastrand::Rng;
use overlay_tests::frame::{OUTER_LEN, fix_ipv4_checksum, tagged};

use super::tables::{chance, pick};

/// Fields of Ethernet and its payload, as (offset, length).
const IN_ETHERNET: [(usize, usize); 18] = [
    (0, 6),
    (6, 6),
    (12, 2),
    // IPv4: version and length, type of service, total length, identification, fragment, TTL, protocol, checksum,
    // addresses. IPv6 has its version, next header and addresses at some of these offsets.
    (14, 1),
    (15, 1),
    (16, 2),
    (18, 2),
    (20, 2),
    (22, 1),
    (23, 1),
    (24, 2),
    (26, 4),
    (30, 4),
    (20, 1),
    // Ports, TCP's data offset.
    (34, 2),
    (36, 2),
    (46, 1),
    (66, 1),
];

/// UDP and VXLAN: ports, length, checksum, flags, reserved, VNI, reserved.
const IN_VXLAN: [(usize, usize); 8] = [(34, 2), (36, 2), (38, 2), (40, 2), (42, 1), (43, 3), (46, 3), (49, 1)];

/// Applies one to four mutations.
pub(super) fn mutate(rng: &mut Rng, mut frame: Vec<u8>, is_outer: bool) -> Vec<u8> {
    for _ in 0..rng.usize(1..=4) {
        match rng.u8(..100) {
            0..15 => {
                let at = rng.usize(..frame.len().min(110));
                frame[at] ^= 1 << rng.u8(..8);
            }
            15..25 => {
                let at = rng.usize(..frame.len().min(110));
                frame[at] = rng.u8(..);
            }
            25..70 => field(rng, &mut frame, is_outer),
            70..76 => frame.truncate(rng.usize(14..=frame.len())),
            76..80 => frame.extend(std::iter::repeat_n(0, rng.usize(1..30))),
            80..84 => swap_macs(&mut frame, if is_outer && chance(rng, 50) { OUTER_LEN } else { 0 }),
            84..88 => frame = tag(rng, &frame, is_outer),
            88..92 => pad(rng, &mut frame),
            _ if is_outer => fix_outer(&mut frame),
            _ => {}
        }
    }
    // Wrong outer lengths and checksums would hide most other mutations.
    if is_outer && chance(rng, 50) {
        fix_outer(&mut frame);
    }
    frame
}

fn field(rng: &mut Rng, frame: &mut [u8], is_outer: bool) {
    let (at, len) = match (is_outer, rng.u8(..3)) {
        (true, 0) => pick(rng, &IN_VXLAN),
        (true, 1) => {
            let (at, len) = pick(rng, &IN_ETHERNET);
            (at + OUTER_LEN, len)
        }
        _ => pick(rng, &IN_ETHERNET),
    };
    let Some(field) = frame.get_mut(at..at + len) else { return };
    match rng.u8(..6) {
        0 => field.fill(0),
        1 => field.fill(0xff),
        2 => rng.fill(field),
        3 => field[len - 1] = field[len - 1].wrapping_add(1),
        4 => field[len - 1] = field[len - 1].wrapping_sub(1),
        // A flag bit, for instance the group bit or "more fragments".
        _ => field[0] ^= pick(rng, &[1, 2, 8, 0x10, 0x20, 0x40, 0x80]),
    }
}

fn swap_macs(frame: &mut [u8], at: usize) {
    if let Some([macs @ .., _, _]) = frame.get_mut(at..at + 14) {
        macs.rotate_left(6);
    }
}

/// Turns the end of the frame into padding.
fn pad(rng: &mut Rng, frame: &mut [u8]) {
    // Most of the cuts remove headers.
    let most = if chance(rng, 80) { 120 } else { 1500 };
    let end = rng.usize(34..=most);
    end_at(frame, end);
}

/// Sets the IPv4 total length so that the bytes after `end` are padding.
pub(super) fn end_at(frame: &mut [u8], end: usize) {
    if end < frame.len() {
        frame[16..18].copy_from_slice(&u16::try_from(end - 14).expect("a short packet").to_be_bytes());
        fix_ipv4_checksum(frame, 14);
    }
}

fn tag(rng: &mut Rng, frame: &[u8], is_outer: bool) -> Vec<u8> {
    let at = if !is_outer || chance(rng, 30) || frame.len() < OUTER_LEN + 14 { 0 } else { OUTER_LEN };
    let (outer, inner) = frame.split_at(at);
    let mut inner = tagged(inner, pick(rng, &[0x8100, 0x88a8]));
    if chance(rng, 50) {
        inner[14..16].fill(0);
    }
    [outer, &inner].concat()
}

/// Corrects the outer lengths and the header checksum.
fn fix_outer(packet: &mut [u8]) {
    if packet.len() < OUTER_LEN {
        return;
    }
    let len = u16::try_from(packet.len()).expect("a short packet");
    packet[16..18].copy_from_slice(&(len - 14).to_be_bytes());
    packet[38..40].copy_from_slice(&(len - 34).to_be_bytes());
    fix_ipv4_checksum(packet, 14);
}
