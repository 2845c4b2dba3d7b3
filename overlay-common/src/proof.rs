//! Pair proof: an entry is used after the kernel has sent a packet the way the programs would have sent it.
//!
//! `ovl_port_in` asks: it copies the head of a packet and the outer headers it would write into a slot of [`ASKED`], and
//! writes a [`Cookie`] into `skb->tc_index`. The packet takes the kernel path. `ovl_vxlan_out` finds the cookie at the
//! VXLAN device, `ovl_nic_out` at the NIC; both compare and count in the slot. `ovl_port_in` judges the slot before it
//! asks again on that CPU, and writes the result into [`PROOFS`].

use bytemuck::{Pod, Zeroable};

use crate::{
    encap::EthWords,
    maps::{Class, Map, Port, Vtep},
};

const fn map(name: &'static str, class: Class, entries: u32) -> Map {
    Map { name, class, entries, prefix_len: 0 }
}

/// [`Claim::key`], shortened → [`Proof`].
pub const PROOFS: Map = map("OVL_PROOFS", Class::Learned, 1 << 16);
/// CPU → [`Asked`].
pub const ASKED: Map = map("OVL_ASKED", Class::Learned, 1 << CPU_BITS);
/// [`Outcome`] → number of questions, per CPU.
pub const OUTCOMES: Map = map("OVL_OUTCOMES", Class::Counter, 16);
/// 0 → 1 while `ovl_nic_out` is attached: the programs ask only then.
pub const WINDOW: Map = map("OVL_WINDOW", Class::Planned, 1);

/// Everything that a proof is valid for. Two different claims have different keys.
pub struct Claim<'a> {
    /// Ethernet header of the frame.
    pub eth: EthWords,
    /// The port, as in `PortKey`.
    pub ifindex: u32,
    /// As `PortKey::netns_id`.
    pub netns_id: u32,
    /// The port's entry.
    pub port: &'a Port,
    /// Index of the VTEP in the FDB entry.
    pub index: u32,
    /// The VTEP's entry, with the template of the outer headers.
    pub vtep: &'a Vtep,
    /// `Heartbeat::epoch`.
    pub epoch: u64,
    /// [`class`] of the packet.
    pub class: u64,
}

/// The class of a packet: each is proven by a packet of its own.
#[inline(always)]
#[must_use]
pub const fn class(is_ipv6: bool, is_super_packet: bool, dscp: u8) -> u64 {
    is_ipv6 as u64 | (is_super_packet as u64) << 1 | ((dscp != 0) as u64) << 2
}

/// Odd numbers without a pattern: words of the fraction of π.
const FACTORS: [u64; 9] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7345,
    0xa409_3822_299f_31d1,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6d,
    0xc0ac_29b7_c97c_50dd,
    0x3f84_d5b5_b547_0917,
    0x9216_d5d9_8979_fb1b,
];

impl Claim<'_> {
    /// The key of this claim: a multilinear hash. The words that a container can choose have secret factors, which must
    /// be odd.
    #[inline(always)]
    #[must_use]
    pub fn key(&self, secret: [u64; 2]) -> u64 {
        let port: &[u32; 7] = bytemuck::must_cast_ref(self.port);
        let vtep: &[u64; 8] = bytemuck::must_cast_ref(self.vtep);
        let place = u64::from(self.ifindex) | u64::from(self.index) << 32 | u64::from(self.netns_id) << 48;
        let words = [
            self.epoch ^ self.class << 56,
            // VNI and flags; the range of outer source ports and the MTU.
            u64::from(port[0]) | u64::from(port[2]) << 32,
            u64::from(port[5]) | u64::from(port[6]) << 32,
            vtep[0],
            vtep[1],
            vtep[2],
            vtep[3],
            vtep[4],
            // Among them the device.
            vtep[6],
        ];
        let mut key = self.eth.first.wrapping_mul(secret[0]).wrapping_add(place.wrapping_mul(secret[1]));
        let mut at = 0;
        while at < words.len() {
            key = key.wrapping_add(words[at].wrapping_mul(FACTORS[at]));
            at += 1;
        }
        key
    }
}

/// Index in [`PROOFS`]: the upper bits depend on all bits of the claim.
#[inline(always)]
#[must_use]
pub const fn index(key: u64) -> u32 {
    (key >> 48) as u32
}

/// Value of [`PROOFS`]. Claims that share an index replace each other's proof.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Proof {
    /// End of the proof in ticks of `bpf_jiffies64`, exclusive or with the claim's key: one word, so that no program can
    /// read the end of one claim with the key of another.
    pub sealed: u64,
    /// Earliest tick of the next question.
    pub ask_after: u64,
}

impl Proof {
    /// A proof at the tick `time`, valid for two times `half` ticks.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: u64, time: u64, half: u64) -> Self {
        Self { sealed: (time + 2 * half) ^ key, ask_after: 0 }
    }

    /// Ticks until the proof of the claim with this key ends. Without a proof, a number that is far larger than any
    /// validity.
    #[inline(always)]
    #[must_use]
    pub const fn left(self, key: u64, now: u64) -> u64 {
        (self.sealed ^ key).wrapping_sub(now)
    }
}

/// Whether a proof with this many ticks left is valid.
#[inline(always)]
#[must_use]
pub const fn is_valid(left: u64, half: u64) -> bool {
    left <= 2 * half
}

/// Whether it is valid and in the first half of its validity: the kernel is not asked.
#[inline(always)]
#[must_use]
pub const fn is_fresh(left: u64, half: u64) -> bool {
    left.wrapping_sub(half) <= half
}

/// Number of bits of a CPU in a cookie.
pub const CPU_BITS: u32 = 10;
/// Generations of a slot: 1 to this number.
pub const GENERATIONS: u32 = 31;

/// The value of `skb->tc_index` on the way from the port to the NIC; 0: no question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie(u16);

impl Cookie {
    /// Set by `ovl_vxlan_out`, which has checked the ingress device.
    const BRIDGED: u16 = 1 << 15;

    /// The cookie of a slot; `cpu` is less than 2^[`CPU_BITS`].
    #[inline(always)]
    #[must_use]
    pub const fn new(cpu: u32, generation: u32) -> Self {
        Self(cpu as u16 | (generation as u16) << CPU_BITS)
    }

    /// Reads `skb->tc_index`; `None`: no question.
    #[inline(always)]
    #[must_use]
    pub const fn read(tc_index: u32) -> Option<Self> {
        if tc_index == 0 { None } else { Some(Self(tc_index as u16)) }
    }

    /// The CPU whose slot it is.
    #[inline(always)]
    #[must_use]
    pub const fn cpu(self) -> u32 {
        (self.0 & ((1 << CPU_BITS) - 1)) as u32
    }

    /// Whether the packet has passed `ovl_vxlan_out`.
    #[inline(always)]
    #[must_use]
    pub const fn is_bridged(self) -> bool {
        self.0 & Self::BRIDGED != 0
    }

    /// The cookie behind `ovl_vxlan_out`.
    #[inline(always)]
    #[must_use]
    pub const fn bridged(self) -> Self {
        Self(self.0 | Self::BRIDGED)
    }

    /// As [`Asked::cookie`].
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.0 & !Self::BRIDGED) as u32
    }

    /// The value of `skb->tc_index`.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0 as u32
    }
}

/// Bytes of the frame that are compared: IPv6 with ports, and 2 bytes more.
pub const HEAD: usize = 64;

/// Value of [`ASKED`]: a question and its answers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Asked {
    /// [`Claim::key`].
    pub key: u64,
    /// Tick of the question.
    pub time: u64,
    /// Packets seen by `ovl_vxlan_out`.
    pub bridged: u64,
    /// Packets seen by `ovl_nic_out`.
    pub sent: u64,
    /// The first [`HEAD`] bytes of the frame, followed by zeros.
    pub frame: [u64; HEAD / 8],
    /// The headers that the programs would have written: 50 bytes, then the inner Ethernet header.
    pub outer: [u64; 8],
    /// The first outer headers that differed, up to the VXLAN header.
    pub seen: [u64; 8],
    /// Ingress interface of the frame.
    pub port: u32,
    /// Its namespace, as `PortKey::netns_id`.
    pub netns_id: u32,
    /// Interface index of the NIC.
    pub device: u32,
    /// Length of the frame.
    pub len: u32,
    /// `skb->gso_size`.
    pub gso_size: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// `skb->priority`.
    pub priority: u32,
    /// [`Cookie::slot`] while the question is open; otherwise 0.
    pub cookie: u32,
    /// Generation of the last cookie.
    pub generation: u32,
    /// The first [`Difference`], or 0.
    pub difference: u32,
}

/// Differences between the kernel's packet and the programs'.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Length at the VXLAN device.
    Length = 1,
    /// `gso_size` at the VXLAN device.
    Segments,
    /// Mark at the VXLAN device.
    Mark,
    /// Priority at the VXLAN device.
    Priority,
    /// The head of the frame at the VXLAN device.
    Frame,
    /// The NIC.
    Device,
    /// Length at the NIC: the packet is split, or has options.
    OuterLength,
    /// `gso_size` at the NIC.
    OuterSegments,
    /// The head of the frame behind the outer headers.
    Inner,
    /// The outer headers.
    Outer,
}

/// The outcome of a question.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Asked; the sum of those below and the open questions.
    Asked,
    /// Exactly one packet, and it was equal.
    Proven,
    /// No packet at an exit.
    Unanswered,
    /// Several packets at an exit.
    Several,
    /// [`Asked::difference`].
    Differs,
    /// Not a question: a cookie of no open slot, or of another ingress device.
    Forged,
}

/// Word `index` of the outer headers, with the bits that the kernel chooses for each packet removed: identification, IPv4
/// checksum, UDP checksum. The length of the arrays has room for the inner Ethernet header.
#[inline(always)]
#[must_use]
pub const fn comparable(word: u64, index: usize) -> u64 {
    const fn without(word: u64, first: u32) -> u64 {
        let at = if cfg!(target_endian = "little") { first } else { 6 - first };
        word & !(0xffff << (8 * at))
    }
    match index {
        2 => without(word, 2),
        3 | 5 => without(word, 0),
        6 if cfg!(target_endian = "little") => word & 0xffff,
        6 => word & 0xffff << 48,
        _ => word,
    }
}

/// Word `index` of the outer headers, with only the fields that name the tunnel: protocol, UDP destination port, VNI. A
/// packet of another tunnel is no answer.
#[inline(always)]
#[must_use]
pub const fn tunnel(word: u64, index: usize) -> u64 {
    const fn only(word: u64, first: u32, bytes: u32) -> u64 {
        let bits = u64::MAX >> (64 - 8 * bytes);
        let at = if cfg!(target_endian = "little") { first } else { 8 - bytes - first };
        word & bits << (8 * at)
    }
    match index {
        2 => only(word, 7, 1),
        4 => only(word, 4, 2),
        5 => only(word, 6, 2),
        6 => only(word, 0, 1),
        _ => 0,
    }
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: the types implement bytemuck::Pod: any bytes are a value, and there is no padding.
    unsafe impl aya::Pod for super::Proof {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Asked {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outer::OuterHeader;

    const SECRET: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

    fn entries() -> (Port, Vtep) {
        let port = Port {
            vni: 4097,
            slot: 0,
            flags: 0,
            ip: [10, 0, 1, 2],
            mac: [2, 0x42, 10, 0, 1, 2],
            mtu: 1450,
            udp_src_first: 32_768,
            udp_src_span: 28_231,
        };
        let outer = OuterHeader::template([192, 168, 1, 9], [192, 168, 1, 10], 4789);
        (port, Vtep { outer, mtu: 1450, ifindex: 2, ip_sum: outer.ip_sum(), resolved: 1 })
    }

    #[test]
    fn every_part_of_a_claim_changes_its_key() {
        let (port, vtep) = entries();
        let eth = EthWords { first: 7, last: 9 };
        let claim = |port: &Port, vtep: &Vtep, eth, [ifindex, netns_id, index]: [u32; 3], epoch, class| {
            Claim { eth, ifindex, netns_id, port, index, vtep, epoch, class }.key(SECRET)
        };
        let place = [5, 0, 1];
        let own = claim(&port, &vtep, eth, place, 1, 0);
        let mut keys = vec![own];
        for other in [Port { vni: 4098, ..port }, Port { flags: 2, ..port }, Port { udp_src_span: 1, ..port }] {
            keys.push(claim(&other, &vtep, eth, place, 1, 0));
        }
        let outers = [
            OuterHeader { ttl: 17, ..vtep.outer },
            OuterHeader { eth_dst: [1; 6], ..vtep.outer },
            OuterHeader { dst: [192, 168, 1, 11], ..vtep.outer },
            OuterHeader { src: [192, 168, 1, 8], ..vtep.outer },
            OuterHeader { udp_dst: [1, 1], ..vtep.outer },
            OuterHeader { fragment: [0x40, 0], ..vtep.outer },
        ];
        for other in outers.map(|outer| Vtep { outer, ..vtep }).into_iter().chain([Vtep { ifindex: 3, ..vtep }]) {
            keys.push(claim(&port, &other, eth, place, 1, 0));
        }
        keys.push(claim(&port, &vtep, EthWords { first: 8, ..eth }, place, 1, 0));
        keys.extend([[6, 0, 1], [5, 1, 1], [5, 0, 2]].map(|place| claim(&port, &vtep, eth, place, 1, 0)));
        keys.push(claim(&port, &vtep, eth, place, 2, 0));
        keys.extend((1..8).map(|class| claim(&port, &vtep, eth, place, 1, class)));
        let count = keys.len();
        // What the bits of a validity cannot hold must differ.
        let mut upper: Vec<_> = keys.iter().map(|key| key >> 16).collect();
        upper.sort_unstable();
        upper.dedup();
        assert_eq!(upper.len(), count);
    }

    #[test]
    fn proof_is_valid_for_its_key_until_its_end() {
        const KEY: u64 = 0xdead_beef_0000_1234;
        let proof = Proof::new(KEY, 900, 50);
        let state = |key, now| {
            let left = proof.left(key, now);
            (is_fresh(left, 50), is_valid(left, 50))
        };
        // From the tick of the question on.
        assert_eq!((state(KEY, 900), state(KEY, 950)), ((true, true), (true, true)));
        assert_eq!((state(KEY, 951), state(KEY, 1000)), ((false, true), (false, true)));
        assert_eq!((state(KEY, 1001), state(KEY ^ 1 << 44, 900)), ((false, false), (false, false)));
        assert!(!is_valid(Proof::default().left(KEY, 900), 50));
    }

    #[test]
    fn cookie_has_cpu_generation_and_stage() {
        let cookie = Cookie::new(1023, GENERATIONS);
        assert_eq!((cookie.cpu(), cookie.slot(), cookie.is_bridged()), (1023, 0x7fff, false));
        let bridged = cookie.bridged();
        assert_eq!((bridged.cpu(), bridged.slot(), bridged.is_bridged()), (1023, 0x7fff, true));
        assert_eq!(Cookie::read(bridged.get()), Some(bridged));
        assert_eq!(Cookie::read(0), None);
    }

    /// The offsets of the outer headers whose bytes are left by `select`.
    fn offsets(select: impl Fn(u64, usize) -> u64) -> Vec<usize> {
        let word = |word| u64::from_ne_bytes(std::array::from_fn(|byte| u8::try_from(word * 8 + byte).unwrap() + 1));
        let bytes: Vec<u8> = (0..7).flat_map(|at| select(word(at), at).to_ne_bytes()).collect();
        (0..bytes.len()).filter(|at| bytes[*at] == u8::try_from(*at).unwrap() + 1).collect()
    }

    #[test]
    fn identification_and_checksums_are_not_compared() {
        let compared: Vec<_> = (0..50).filter(|at| ![18, 19, 24, 25, 40, 41].contains(at)).collect();
        assert_eq!(offsets(comparable), compared);
    }

    #[test]
    fn tunnel_is_named_by_protocol_port_and_vni() {
        assert_eq!(offsets(tunnel), [23, 36, 37, 46, 47, 48]);
    }
}
