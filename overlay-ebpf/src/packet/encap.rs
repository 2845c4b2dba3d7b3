//! Encapsulation: outer headers in front of a container's frame.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    bpf_f_adj_room_encap_l2,
    helpers::{bpf_get_hash_recalc, bpf_skb_adjust_room, bpf_skb_store_bytes},
    programs::TcContext,
};
use overlay_common::{
    Reason, ecn,
    encap::{EthWords, PerPacket, encapsulate},
    flow,
    maps::{self, Heartbeat, Port, flags},
    wire::{ENCAP_LEN, ETH_LEN, OVERHEAD},
};

use crate::{
    atomic, config, counters,
    maps::{OVL_IP_IDS, OVL_VTEPS},
    packet::{
        Packet, Size,
        inner::Ip,
        redirect::{self, Sent},
    },
};

/// The L2 length is that of the inner Ethernet header only (`bpf_skb_net_grow` in `net/core/filter.c`). FIXED_GSO keeps
/// `gso_size`, which [`Frame::check_mtu`] has checked.
const ENCAP: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64
    | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64
    | bpf_f_adj_room_encap_l2(ETH_LEN as u64);

/// A container's IP packet.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) skb: &'a __sk_buff,
    pub(crate) packet: Packet,
    pub(crate) size: Size,
    pub(crate) eth: EthWords,
    pub(crate) ip: Ip,
}

impl Frame<'_> {
    /// Refuses packets larger than `mtu`: the kernel replies with ICMP, fragments or drops them, as configured.
    #[inline(always)]
    pub(crate) fn check_mtu(self, mtu: u16) -> Result<(), Reason> {
        let l3_len = if self.skb.gso_size == 0 {
            self.size.bytes - ETH_LEN as u32
        } else {
            self.ip.segment_len(self.packet, self.skb.gso_size)?
        };
        if l3_len > u32::from(mtu) { Err(Reason::Oversize) } else { Ok(()) }
    }
}

/// Encapsulates a frame of `port` for the VTEP at `index`, and sends it.
#[inline(always)]
#[cfg_attr(not(feature = "proof"), expect(unused_variables, reason = "proofs are valid in an epoch"))]
pub(crate) fn encap(
    ctx: &TcContext,
    port: &Port,
    frame: Frame<'_>,
    index: u32,
    heartbeat: &Heartbeat,
) -> Result<Sent, Reason> {
    let Frame { skb, packet, size, eth, ip } = frame;
    let vtep = OVL_VTEPS.get(index).ok_or(Reason::NextHop)?;
    // The VXLAN device passes the mark to its route lookup, and the daemon asked without one. One comparison for both.
    if skb.mark >= vtep.resolved {
        return Err(if vtep.resolved == 0 { Reason::NextHop } else { Reason::Mark });
    }
    redirect::check_device(vtep.ifindex)?;
    if vtep.mtu < port.mtu {
        frame.check_mtu(vtep.mtu)?;
    }
    // The outer total length has 16 bits.
    if size.bytes + (OVERHEAD - ETH_LEN) as u32 > u32::from(u16::MAX) {
        return Err(Reason::Oversize);
    }
    let of_network = counters::network(port.slot).ok_or(Reason::NextHop)?;
    let of_vtep = counters::vtep(index).ok_or(Reason::NextHop)?;
    let ids = OVL_IP_IDS.get_ptr_mut(index % maps::IP_IDS.entries).ok_or(Reason::NextHop)?;
    // No program can make a super-packet's segments have a checksum (`SKB_GSO_UDP_TUNNEL_CSUM`).
    let has_checksum = port.flags & flags::UDP_CHECKSUM != 0 && skb.gso_size == 0;
    let inner_sum = if has_checksum { Some(ip.sum(packet, size.bytes)?) } else { None };
    #[cfg(feature = "proof")]
    crate::proof::require(skb, eth, port, (index, vtep), (size.bytes, ip.tos), inner_sum, heartbeat.epoch)?;
    // SAFETY: the context pointer is valid.
    let hash = unsafe { bpf_get_hash_recalc(ctx.skb.skb) };
    let ifindex = vtep.ifindex;

    // SAFETY: the context pointer is valid; every packet pointer is derived again below. The helper fails before it
    // changes anything (`net/core/filter.c`).
    if unsafe { bpf_skb_adjust_room(ctx.skb.skb, OVERHEAD as i32, BPF_ADJ_ROOM_MAC, ENCAP) } != 0 {
        return Err(Reason::AdjustRoom);
    }
    if config::fault() {
        return Err(Reason::Unfinished);
    }
    let headers = encapsulate(
        vtep,
        eth,
        PerPacket {
            inner_len: size.bytes,
            ecn: ecn::encapsulate(ip.tos),
            // Each segment of a super-packet has its own.
            // SAFETY: the map's value is valid and aligned, and all accesses are atomic.
            id: unsafe { atomic::fetch_add(&raw mut (*ids).next, size.packets) } as u16,
            udp_src: flow::source_port(hash, port.udp_src_first, port.udp_src_span),
            inner_sum,
            vni: port.vni,
        },
    );
    // With direct writes the program would begin by copying the head of every cloned skb, and TCP's skbs are cloned.
    // The helper copies only a head that is not writable; the heads of TCP's clones are.
    // SAFETY: the context pointer is valid; the source has ENCAP_LEN bytes.
    let stored = unsafe { bpf_skb_store_bytes(ctx.skb.skb, 0, headers.as_ptr().cast(), ENCAP_LEN as u32, 0) };
    if stored != 0 {
        return Err(Reason::Unfinished);
    }
    counters::sent(of_network, size);
    counters::sent(of_vtep, size);
    Ok(Sent { reason: Reason::Encap, action: redirect::to_device(ifindex) })
}
