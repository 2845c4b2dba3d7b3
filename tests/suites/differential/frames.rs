//! Inner frames of every kind, each with a number that the tunnel preserves.

use std::fmt;

use overlay_tests::{
    frame::{ethernet, internet_checksum},
    program::{GINDEMO1, GINDEMO2},
};
use proptest::{collection::vec, prelude::*};

/// MTU of the network: layer-3 bytes.
pub(crate) const MTU: usize = 1450;

/// An IP packet from gindemo1 to gindemo2.
#[derive(Clone)]
pub(crate) struct Frame {
    pub(crate) version: Version,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) l4: L4,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) enum Version {
    V4 {
        dont_fragment: bool,
        options: Vec<u8>,
    },
    /// With extension headers: protocol number, and length in units of eight bytes minus one.
    V6 {
        extensions: Vec<(u8, u8)>,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum L4 {
    Tcp {
        src: u16,
        dst: u16,
        flags: u8,
        /// Options: number of words of four bytes.
        options: u8,
    },
    Udp {
        src: u16,
        dst: u16,
    },
    /// ICMP or ICMPv6.
    Icmp {
        kind: u8,
        code: u8,
    },
    Other(u8),
}

/// In units of eight bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment {
    offset: u16,
    more: bool,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, tos, ttl, l4, fragment, payload } = self;
        let seed = payload.first();
        write!(f, "{version:?} tos {tos:#x} ttl {ttl} {l4:?} {fragment:?} payload {} ({seed:?})", payload.len())
    }
}

impl Frame {
    /// An echo request.
    pub(crate) fn echo(version: Version, tos: u8) -> Self {
        Self { version, tos, ttl: 64, l4: L4::Icmp { kind: 8, code: 0 }, fragment: None, payload: vec![0x5a; 20] }
    }

    /// The frame, with `number` as IPv4 identification or IPv6 flow label. The payload is truncated to the MTU.
    pub(crate) fn bytes(&self, number: u16) -> Vec<u8> {
        self.with_l3_len(number, MTU)
    }

    /// Like [`Self::bytes`]; the payload is truncated so that the layer-3 packet has at most `limit` bytes.
    pub(crate) fn with_l3_len(&self, number: u16, limit: usize) -> Vec<u8> {
        let room = limit - self.l3_header_len();
        let ether_type = if matches!(self.version, Version::V4 { .. }) { 0x0800 } else { 0x86dd };
        let ip = match &self.version {
            Version::V4 { dont_fragment, options } => self.ipv4(number, *dont_fragment, options, &self.layer4(room)),
            Version::V6 { .. } => self.ipv6(number, &self.layer4(room)),
        };
        [ethernet(GINDEMO2.mac, GINDEMO1.mac, ether_type), ip].concat()
    }

    /// Length of the IP header, with options and extension headers.
    pub(crate) fn l3_header_len(&self) -> usize {
        match &self.version {
            Version::V4 { options, .. } => 20 + options.len(),
            Version::V6 { .. } => 40 + self.extension_headers(0).1.len(),
        }
    }

    fn ipv4(&self, number: u16, dont_fragment: bool, options: &[u8], body: &[u8]) -> Vec<u8> {
        let length = 20 + options.len() + body.len();
        let fragment = match self.fragment {
            None => u16::from(dont_fragment) << 14,
            Some(Fragment { offset, more }) => u16::from(more) << 13 | offset,
        };
        let mut header = vec![0x40 | (5 + options.len() / 4) as u8, self.tos];
        header.extend((length as u16).to_be_bytes());
        header.extend(number.to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol(), 0, 0]);
        header.extend(GINDEMO1.ipv4);
        header.extend(GINDEMO2.ipv4);
        header.extend(options);
        let checksum = internet_checksum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        [&header, body].concat()
    }

    fn ipv6(&self, number: u16, body: &[u8]) -> Vec<u8> {
        let (first, extensions) = self.extension_headers(number);
        let word = 6 << 28 | u32::from(self.tos) << 20 | u32::from(number);
        let mut header = word.to_be_bytes().to_vec();
        header.extend(((extensions.len() + body.len()) as u16).to_be_bytes());
        header.extend([first, self.ttl]);
        header.extend(GINDEMO1.ipv6);
        header.extend(GINDEMO2.ipv6);
        [&header, &extensions, body].concat()
    }

    /// Protocol number of the first header after IPv6, and all headers up to layer 4.
    fn extension_headers(&self, number: u16) -> (u8, Vec<u8>) {
        let Version::V6 { extensions } = &self.version else { return (0, Vec::new()) };
        let mut next = self.protocol();
        let mut headers = Vec::new();
        if let Some(Fragment { offset, more }) = self.fragment {
            let word = (offset << 3 | u16::from(more)).to_be_bytes();
            headers = [&[next, 0], &word[..], &u32::from(number).to_be_bytes()].concat();
            next = 44;
        }
        for (kind, size) in extensions.iter().rev() {
            let mut header = vec![0; 8 * (usize::from(*size) + 1)];
            (header[0], header[1]) = (next, *size);
            if *kind != 43 {
                // One PadN option fills the header. A routing header of type 0 without segments is all zeros.
                (header[2], header[3]) = (1, (header.len() - 4) as u8);
            }
            headers = [header, headers].concat();
            next = *kind;
        }
        (next, headers)
    }

    fn protocol(&self) -> u8 {
        match (self.l4, &self.version) {
            (L4::Tcp { .. }, _) => 6,
            (L4::Udp { .. }, _) => 17,
            (L4::Icmp { .. }, Version::V4 { .. }) => 1,
            (L4::Icmp { .. }, Version::V6 { .. }) => 58,
            (L4::Other(protocol), _) => protocol,
        }
    }

    /// The layer-4 header with its checksum, and the payload truncated to `room`.
    fn layer4(&self, room: usize) -> Vec<u8> {
        let (mut segment, checksum_at) = match self.l4 {
            L4::Tcp { src, dst, flags, options } => {
                let mut header = [src.to_be_bytes(), dst.to_be_bytes()].concat();
                header.extend([1, 2, 3, 4, 0, 0, 0, 0, 0x50 + (options << 4), flags, 0xfa, 0xf0, 0, 0, 0, 0]);
                // No operation.
                header.extend(std::iter::repeat_n(1, 4 * usize::from(options)));
                (header, Some(16))
            }
            L4::Udp { src, dst } => ([src.to_be_bytes(), dst.to_be_bytes(), [0; 2], [0; 2]].concat(), Some(6)),
            L4::Icmp { kind, code } => (vec![kind, code, 0, 0, 0, 7, 0, 1], Some(2)),
            L4::Other(_) => (Vec::new(), None),
        };
        let payload = self.payload.len().min(room - segment.len());
        segment.extend(&self.payload[..payload]);
        if matches!(self.l4, L4::Udp { .. }) {
            let length = segment.len() as u16;
            segment[4..6].copy_from_slice(&length.to_be_bytes());
        }
        if let Some(at) = checksum_at {
            let checksum = self.checksum(&segment);
            segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        segment
    }

    fn checksum(&self, segment: &[u8]) -> u16 {
        let mut covered = segment.to_vec();
        covered.resize(segment.len().next_multiple_of(2), 0);
        let addresses = match &self.version {
            Version::V4 { .. } => [&GINDEMO1.ipv4[..], &GINDEMO2.ipv4].concat(),
            Version::V6 { .. } => [&GINDEMO1.ipv6[..], &GINDEMO2.ipv6].concat(),
        };
        if self.protocol() != 1 {
            covered.extend(addresses);
            covered.extend((segment.len() as u32).to_be_bytes());
            covered.extend([0, 0, 0, self.protocol()]);
        }
        match internet_checksum(&covered) {
            // In UDP, 0 means no checksum (RFC 768).
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// Number of a frame made by [`Frame::bytes`]; `None` for everything else.
pub(crate) fn number(frame: &[u8]) -> Option<u16> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let is_ours = frame.get(..12)? == [GINDEMO2.mac.0, GINDEMO1.mac.0].concat();
    match word(12)? {
        0x0800 if is_ours => word(18),
        0x86dd if is_ours => word(16),
        _ => None,
    }
}

/// A key that is equal for frames which differ only in their number; `None`: each frame is a flow of its own. The number
/// of an IPv6 frame is its flow label.
pub(crate) fn flow(frame: &[u8]) -> Option<Vec<u8>> {
    if frame.get(12..14)? != [0x08, 0x00] {
        return None;
    }
    let mut key = frame.to_vec();
    // Identification and header checksum.
    key.get_mut(18..20)?.fill(0);
    key.get_mut(24..26)?.fill(0);
    Some(key)
}

/// DSCP and ECN of an inner frame.
pub(crate) fn tos(frame: &[u8]) -> u8 {
    if frame[12] == 8 { frame[15] } else { frame[14] << 4 | frame[15] >> 4 }
}

/// Any frame.
pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    let payload = prop_oneof![
        1 => Just(0usize),
        4 => 0usize..100,
        1 => 100usize..1300,
        2 => 1300usize..1500,
    ];
    let payload = (payload, any::<u8>()).prop_map(|(length, seed)| (0..length).map(|i| seed ^ i as u8).collect());
    let fragment = (0u16..180, any::<bool>()).prop_map(|(offset, more)| Fragment { offset, more });
    (version(), any::<u8>(), 1u8.., l4(), prop::option::weighted(0.2, fragment), payload)
        .prop_map(|(version, tos, ttl, l4, fragment, payload)| Frame { version, tos, ttl, l4, fragment, payload })
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    // No operation, end of list, router alert, an empty timestamp.
    let option = prop::sample::select(vec![[1, 1, 1, 1], [1, 1, 1, 0], [148, 4, 0, 0], [68, 4, 5, 0]]);
    let options = prop_oneof![2 => Just(Vec::new()), 1 => vec(option, 1..=10)];
    let v4 = (any::<bool>(), options).prop_map(|(dont_fragment, o)| Version::V4 { dont_fragment, options: o.concat() });
    let extension = (prop::sample::select(vec![0u8, 43, 60]), 0u8..4);
    let extensions = prop_oneof![2 => Just(Vec::new()), 1 => vec(extension, 1..4)];
    prop_oneof![v4, extensions.prop_map(|extensions| Version::V6 { extensions })]
}

fn l4() -> impl Strategy<Value = L4> {
    prop_oneof![
        3 => tcp(),
        3 => udp(),
        2 => any::<(u8, u8)>().prop_map(|(kind, code)| L4::Icmp { kind, code }),
        // Not the protocols above, whose headers would be invalid. Nor IPv6 hop-by-hop options: with
        // bridge-nf-call-ip6tables a bridge drops invalid ones (`br_validate_ipv6`).
        2 => any::<u8>().prop_filter("has a header", |p| ![0, 1, 6, 17, 58].contains(p)).prop_map(L4::Other),
    ]
}

pub(crate) fn tcp() -> impl Strategy<Value = L4> {
    let options = prop_oneof![2 => Just(0), 1 => 1..=10u8];
    // GRO merges only segments with ACK, and PSH.
    let flags = prop_oneof![1 => any::<u8>(), 2 => Just(0x10), 1 => Just(0x18)];
    (any::<(u16, u16)>(), flags, options).prop_map(|((src, dst), flags, options)| L4::Tcp { src, dst, flags, options })
}

pub(crate) fn udp() -> impl Strategy<Value = L4> {
    any::<(u16, u16)>().prop_map(|(src, dst)| L4::Udp { src, dst })
}

/// Numbers the frames from 1.
pub(crate) fn numbered(frames: &[Frame]) -> Vec<Vec<u8>> {
    (1..).zip(frames).map(|(number, frame)| frame.bytes(number)).collect()
}
