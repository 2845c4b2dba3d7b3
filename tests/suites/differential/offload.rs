//! Frames whose checksum or segmentation is left to a device, and their segments.

use overlay_tests::{frame::internet_checksum, lab::Offload};
use proptest::{collection::vec, prelude::*};

use crate::frames::{self, Frame, L4, MTU, Version};

/// Numbers of consecutive packets differ by this: more than the segments of one packet, whose IPv4 identifications
/// are consecutive.
const STEP: u16 = 64;

/// Layer-3 length of the largest super-packet that `eth0` does not segment (`GSO_LEGACY_MAX_SIZE`). With outer headers
/// it is too long.
const LARGEST: usize = 65_535 - 14;

/// A frame as a container's stack passes it to `eth0`.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) frame: Frame,
    /// The checksum is incomplete; of TCP and UDP only, and not in fragments.
    pub(crate) partial: bool,
    /// Payload per segment, and number of segments: a super-packet, with an incomplete checksum.
    pub(crate) gso: Option<(u16, u8)>,
    /// Whether the headers are in the linear part.
    pub(crate) linear: bool,
}

impl Work {
    fn has_checksum(&self) -> bool {
        matches!(self.frame.l4, L4::Tcp { .. } | L4::Udp { .. }) && self.frame.fragment.is_none()
    }

    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self.frame.l4, L4::Tcp { .. })
    }

    /// Offset of the layer-4 header in the frame, and of the checksum in that header.
    fn checksum_at(&self) -> (usize, usize) {
        (14 + self.frame.l3_header_len(), if self.is_tcp() { 16 } else { 6 })
    }

    /// The frame, and what is left to the device.
    pub(crate) fn bytes(&self, number: u16) -> (Offload, Vec<u8>) {
        let Some((size, count)) = self.gso else {
            let mut bytes = self.frame.bytes(number);
            if !(self.partial && self.has_checksum()) {
                return (Offload::default(), bytes);
            }
            return (self.without_checksum(&mut bytes), bytes);
        };
        let headers = self.frame.l3_header_len() + self.l4_header_len();
        let size = usize::from(size).min(MTU - headers);
        // All segments but the last are full.
        let last = 1 + usize::from(self.frame.payload.first().copied().unwrap_or_default()) % size;
        let payload = (size * (usize::from(count) - 1) + last).min(LARGEST - headers);
        let seed = self.frame.payload.len();
        let frame =
            Frame { payload: (0..payload).map(|at| (at ^ at >> 8 ^ seed) as u8).collect(), ..self.frame.clone() };
        let mut bytes = frame.with_l3_len(number, headers + payload);
        let mut offload = self.without_checksum(&mut bytes);
        offload.gso_size = size as u16;
        offload.gso_type = match (&self.frame.version, self.frame.l4) {
            (_, L4::Udp { .. }) => Offload::UDP,
            (Version::V4 { .. }, _) => Offload::TCP_V4,
            (Version::V6 { .. }, _) => Offload::TCP_V6,
        };
        if let L4::Tcp { flags, .. } = self.frame.l4
            && flags & CWR != 0
        {
            offload.gso_type |= Offload::TCP_ECN;
        }
        (offload, bytes)
    }

    fn l4_header_len(&self) -> usize {
        match self.frame.l4 {
            L4::Tcp { options, .. } => 20 + 4 * usize::from(options),
            _ => 8,
        }
    }

    /// Replaces the checksum by that of the pseudo header.
    fn without_checksum(&self, bytes: &mut [u8]) -> Offload {
        let (start, offset) = self.checksum_at();
        let sum = !pseudo_checksum(bytes, start);
        bytes[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        let linear = if self.linear { start + self.l4_header_len() } else { 0 };
        Offload {
            flags: Offload::NEEDS_CHECKSUM,
            hdr_len: linear as u16,
            csum_start: start as u16,
            csum_offset: offset as u16,
            ..Offload::default()
        }
    }
}

const CWR: u8 = 0x80;
const PSH_FIN: u8 = 0x09;

/// Checksum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1) of the layer-4 header at `start`.
fn pseudo_checksum(frame: &[u8], start: usize) -> u16 {
    let is_v4 = frame[12] == 8;
    let addresses = if is_v4 { &frame[26..34] } else { &frame[22..54] };
    let protocol = if is_v4 { frame[23] } else { last_protocol(frame) };
    let length = (frame.len() - start) as u32;
    internet_checksum(&[addresses, &length.to_be_bytes(), &[0, 0, 0, protocol]].concat())
}

/// Protocol after the extension headers of an IPv6 packet.
fn last_protocol(frame: &[u8]) -> u8 {
    let (mut next, mut at) = (frame[20], 54);
    while [0, 43, 60].contains(&next) {
        (next, at) = (frame[at], at + 8 * (usize::from(frame[at + 1]) + 1));
    }
    next
}

/// Offset of the payload of a super-packet.
fn payload_at(offload: Offload, frame: &[u8]) -> usize {
    let start = usize::from(offload.csum_start);
    start + if offload.gso_type == Offload::UDP { 8 } else { usize::from(frame[start + 12] >> 4) * 4 }
}

/// Number of [`segments`].
pub(crate) fn count(offload: Offload, frame: &[u8]) -> usize {
    match offload.gso_type {
        0 => 1,
        _ => (frame.len() - payload_at(offload, frame)).div_ceil(offload.gso_size.into()),
    }
}

/// The packets that a device sends for a frame: its segments, with complete checksums.
///
/// As the kernel segments (`net/ipv4/tcp_offload.c`, `net/ipv4/udp_offload.c`): IPv4 identifications are consecutive,
/// only the first segment has CWR, only the last one FIN and PSH.
pub(crate) fn segments(offload: Offload, frame: &[u8]) -> Vec<Vec<u8>> {
    let (start, offset) = (usize::from(offload.csum_start), usize::from(offload.csum_offset));
    if offload.flags & Offload::NEEDS_CHECKSUM == 0 {
        return vec![frame.to_vec()];
    }
    if offload.gso_type == 0 {
        let mut frame = frame.to_vec();
        complete_checksum(&mut frame, start, offset);
        return vec![frame];
    }
    let is_tcp = offload.gso_type != Offload::UDP;
    let headers = payload_at(offload, frame);
    let chunks: Vec<_> = frame[headers..].chunks(offload.gso_size.into()).collect();
    let count = chunks.len();
    let segment = |(index, chunk): (usize, &&[u8])| {
        let mut segment = [&frame[..headers], chunk].concat();
        let l3_len = segment.len() - 14;
        if frame[12] == 8 {
            put(&mut segment, 16, l3_len as u16);
            put(&mut segment, 18, word(frame, 18).wrapping_add(index as u16));
            put(&mut segment, 24, 0);
            let checksum = internet_checksum(&segment[14..14 + usize::from(frame[14] & 0xf) * 4]);
            put(&mut segment, 24, checksum);
        } else {
            put(&mut segment, 18, (l3_len - 40) as u16);
        }
        if is_tcp {
            let sequence = u32::from_be_bytes(frame[start + 4..start + 8].try_into().expect("four bytes"));
            let sequence = sequence.wrapping_add((index * usize::from(offload.gso_size)) as u32);
            segment[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut segment[start + 13];
            *flags &= !(if index == 0 { 0 } else { CWR } | if index + 1 == count { 0 } else { PSH_FIN });
        } else {
            let length = segment.len() - start;
            put(&mut segment, start + 4, length as u16);
        }
        complete_checksum(&mut segment, start, offset);
        segment
    };
    chunks.iter().enumerate().map(segment).collect()
}

fn complete_checksum(frame: &mut [u8], start: usize, offset: usize) {
    let at = start + offset;
    put(frame, at, 0);
    let pseudo = !pseudo_checksum(frame, start);
    let mut covered = frame[start..].to_vec();
    covered.resize(covered.len().next_multiple_of(2), 0);
    covered.extend(pseudo.to_be_bytes());
    let checksum = internet_checksum(&covered);
    // In UDP, 0 means no checksum (RFC 768). TCP's can be 0.
    put(frame, at, if checksum == 0 && offset == 6 { 0xffff } else { checksum });
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Numbers the packets so that their segments have different numbers.
pub(crate) fn numbered(packets: &[Work]) -> Vec<(Offload, Vec<u8>)> {
    packets.iter().enumerate().map(|(index, work)| work.bytes(first_number(index))).collect()
}

fn first_number(index: usize) -> u16 {
    STEP * (index as u16 + 1)
}

/// Index of the packet that a segment with this number is of.
pub(crate) fn index(number: u16) -> usize {
    usize::from(number / STEP) - 1
}

/// A single packet of any kind, or a super-packet.
pub(crate) fn work() -> impl Strategy<Value = Work> {
    let single = (frames::frame(), any::<bool>(), any::<bool>()).prop_map(|(frame, partial, linear)| Work {
        frame,
        partial,
        gso: None,
        linear,
    });
    prop_oneof![1 => single, 2 => super_packet()]
}

fn super_packet() -> impl Strategy<Value = Work> {
    let size = prop_oneof![1 => 1..100u16, 2 => 100..1350u16, 2 => Just(MTU as u16)];
    let l4 = prop_oneof![2 => frames::tcp(), 1 => frames::udp()];
    let version = prop_oneof![
        2 => any::<bool>().prop_map(|dont_fragment| Version::V4 { dont_fragment, options: Vec::new() }),
        2 => Just(Version::V6 { extensions: Vec::new() }),
        1 => frames::version(),
    ];
    (version, any::<u8>(), 1u8.., l4, vec(any::<u8>(), 1..100), size, 2..60u8, any::<bool>()).prop_map(
        |(version, tos, ttl, l4, payload, size, count, linear)| Work {
            frame: Frame { version, tos, ttl, l4, fragment: None, payload },
            partial: true,
            gso: Some((size, count)),
            linear,
        },
    )
}
