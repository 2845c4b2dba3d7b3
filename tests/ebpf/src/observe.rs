//! What a program in a container can read of a packet, for the suite `differential`.

use aya_ebpf::{
    bindings::{
        BPF_CSUM_LEVEL_QUERY, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_UNSPEC,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    bpf_f_adj_room_encap_l2,
    btf_maps::{PerCpuArray, RingBuf},
    helpers::{
        bpf_csum_level, bpf_get_hash_recalc, bpf_l3_csum_replace, bpf_skb_adjust_room, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    macros::{btf_map, classifier},
    programs::TcContext,
};

use crate::{
    global,
    record::{FIELDS, HEAD, Record},
};

/// Mark and priority that `change` sets.
#[unsafe(no_mangle)]
static CHANGE_MARK: u32 = 0;
#[unsafe(no_mangle)]
static CHANGE_PRIORITY: u32 = 0;

/// Offset in the packet of the frame whose first bytes `observe` records.
#[unsafe(no_mangle)]
static OBSERVE_AT: u32 = 0;

const ETH_P_IPV4: u16 = 0x0800;
/// Offset of the IPv4 header and of its checksum.
const IPV4: u32 = 14;
const CHECKSUM: u32 = IPV4 + 10;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// One record for each packet that `observe` has seen.
#[btf_map]
static RECORDS: RingBuf<Record, { 1 << 20 }> = RingBuf::new();

/// Packets without a record, because the ring was full.
#[btf_map]
static MISSED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// TC: returns the packet's flow hash, which the kernel computes with a random key.
#[classifier]
fn flow_hash(ctx: TcContext) -> i32 {
    // SAFETY: the context pointer is valid.
    unsafe { bpf_get_hash_recalc(ctx.skb.skb) as i32 }
}

/// TC: writes a record of every packet, and passes it on unmodified.
#[classifier]
fn observe(ctx: TcContext) -> i32 {
    let Some(mut entry) = RECORDS.reserve(0) else {
        if let Some(missed) = MISSED.get_ptr_mut(0) {
            // SAFETY: this CPU's slot.
            unsafe { *missed += 1 };
        }
        return TC_ACT_UNSPEC;
    };
    let skb = ctx.skb.skb;
    // SAFETY: the context pointer is valid for the whole program.
    let fields: [u32; FIELDS.len()] = unsafe {
        [
            (*skb).len,
            (*skb).mark,
            (*skb).priority,
            (*skb).pkt_type,
            (*skb).protocol,
            (*skb).queue_mapping,
            (*skb).vlan_present,
            (*skb).vlan_tci,
            (*skb).tc_index,
            (*skb).hash,
            (*skb).ingress_ifindex,
            (*skb).gso_size,
            (*skb).gso_segs,
            bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY.into()) as u32,
            // Fails always: the L2 length exceeds the room. `bpf_skb_net_grow` (`net/core/filter.c`) compares them
            // after it has refused packets with `skb->encapsulation`.
            bpf_skb_adjust_room(
                skb,
                4,
                BPF_ADJ_ROOM_MAC,
                BPF_F_ADJ_ROOM_FIXED_GSO as u64 | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64 | bpf_f_adj_room_encap_l2(8),
            ) as u32,
        ]
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the fields are inside the entry; the helper writes all bytes or clears them.
    unsafe {
        (*record).fields = fields;
        bpf_skb_load_bytes(skb.cast(), global(&raw const OBSERVE_AT), (&raw mut (*record).head).cast(), HEAD as u32);
    }
    entry.submit(0);
    TC_ACT_UNSPEC
}

/// TC: sets mark and priority, like a filter of the host, and passes the packet on.
#[classifier]
fn change(ctx: TcContext) -> i32 {
    // SAFETY: the context pointer is valid for the whole program.
    unsafe {
        (*ctx.skb.skb).mark = global(&raw const CHANGE_MARK);
        (*ctx.skb.skb).priority = global(&raw const CHANGE_PRIORITY);
    }
    TC_ACT_UNSPEC
}

/// TC: replaces ECT(0) in IPv4 by the congestion mark, like a router (RFC 3168), and passes the packet on.
#[classifier]
fn congest(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let mut head = [0u8; 2];
    // SAFETY: the context pointer is valid for the whole program; the helpers read and write bytes of the stack.
    unsafe {
        if (*skb).protocol as u16 == ETH_P_IPV4.to_be()
            && bpf_skb_load_bytes(skb.cast(), IPV4, head.as_mut_ptr().cast(), head.len() as u32) == 0
            && head[1] & CE == ECT_0
        {
            let marked = [head[0], head[1] | CE];
            let (old, new) = (u16::from_ne_bytes(head), u16::from_ne_bytes(marked));
            bpf_l3_csum_replace(skb, CHECKSUM, old.into(), new.into(), head.len() as u64);
            bpf_skb_store_bytes(skb, IPV4, marked.as_ptr().cast(), head.len() as u32, 0);
        }
    }
    TC_ACT_UNSPEC
}
