//! A record of the program `observe`. Compiled into the program and into the suite `differential`.

/// Bytes of a frame in a record: the Ethernet header, and the identification of IPv4 or the flow label of IPv6.
pub(crate) const HEAD: usize = 20;

/// Names of [`Record::fields`]. Most are fields of `struct __sk_buff` (`include/uapi/linux/bpf.h`), in host order.
pub(crate) const FIELDS: [&str; 15] = [
    "len",
    "mark",
    "priority",
    "pkt_type",
    "protocol",
    "queue_mapping",
    "vlan_present",
    "vlan_tci",
    "tc_index",
    "hash",
    "ingress_ifindex",
    "gso_size",
    "gso_segs",
    // `bpf_csum_level`: number of verified checksums minus one, or -EACCES.
    "csum_level",
    // `bpf_skb_adjust_room`: -EALREADY for a packet that is marked as a tunnel's, otherwise -EINVAL.
    "tunnel",
];

/// One packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Record {
    /// First bytes of the frame.
    pub(crate) head: [u8; HEAD],
    /// Values of [`FIELDS`].
    pub(crate) fields: [u32; FIELDS.len()],
}
