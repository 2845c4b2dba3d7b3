//! `ovl_port_in`: from a container to another, on this host or behind a VTEP.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    bpf_f_adj_room_encap_l2,
    helpers::{
        bpf_skb_adjust_room, bpf_skb_change_type, bpf_skb_store_bytes,
        generated::{bpf_redirect, bpf_redirect_peer},
    },
    programs::TcContext,
};
use overlay_common::{
    MacAddr, Reason, ecn, flow,
    maps::{FdbEntry, FdbKey, Port, PortKey, flags},
    outer::{EthWords, PerPacket, encapsulate},
    wire::{ENCAP_LEN, ETH_LEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IPV4, ETH_P_IPV6, IPV4_LEN, IPV6_LEN, OVERHEAD},
};

use crate::{
    Sent, config, counters,
    hooks::shim,
    lease,
    maps::{OVL_FDB, OVL_PORTS, OVL_VTEPS},
    packet::{
        self, PACKET_HOST, Packet, Size,
        inner::{self, Ip},
    },
};

/// Inner Ethernet, IP and the fixed part of a TCP header: the most that is read of a frame. No byte more, because making
/// bytes linear copies the head of the packet, and TCP's payload is never in it.
const HEADERS_IPV4: u32 = (ETH_LEN + IPV4_LEN + 20) as u32;
const HEADERS_IPV6: u32 = (ETH_LEN + IPV6_LEN + 20) as u32;

/// The L2 length that the kernel wants is that of the inner Ethernet header alone (`net/core/filter.c`,
/// `bpf_skb_net_grow`); FIXED_GSO keeps `gso_size`, which the MTU check below has found small enough.
const ENCAP: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64
    | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64
    | bpf_f_adj_room_encap_l2(ETH_LEN as u64);

#[inline(always)]
pub(crate) fn forward(ctx: &TcContext, size: Size) -> Result<Sent, Reason> {
    // SAFETY: the context pointer is valid for the whole program.
    let skb = unsafe { &*ctx.skb.skb };
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let port =
        unsafe { OVL_PORTS.get(PortKey { site: config::site(), ifindex: skb.ifindex }) }.ok_or(Reason::NotAPort)?;
    let protocol = u16::from_be(skb.protocol as u16);
    let packet = packet::tc_linear(ctx, size, if protocol == ETH_P_IPV6 { HEADERS_IPV6 } else { HEADERS_IPV4 });

    let eth = ethernet(packet).ok_or(Reason::Truncated)?;
    // Before all else: from a flooded frame, an ARP request for instance, every bridge learns the sender's MAC.
    check_source_mac(port, eth)?;
    if skb.vlan_present != 0 {
        return Err(Reason::Vlan);
    }
    let ip = match protocol {
        ETH_P_IPV4 => inner::ipv4(packet),
        ETH_P_IPV6 => inner::ipv6(packet),
        ETH_P_8021Q | ETH_P_8021AD => return Err(Reason::Vlan),
        _ => return Err(Reason::NotIp),
    };
    let ip = ip.ok_or(Reason::Truncated)?;
    check_source_ip(port, protocol, packet)?;
    let key = FdbKey::from_word(port.vni, eth.first);
    if MacAddr(key.mac).is_group() {
        return Err(Reason::GroupAddress);
    }
    check_mtu(port.mtu, skb, size, ip, packet)?;

    // SAFETY: as for the ports.
    let entry = unsafe { OVL_FDB.get(key) }.ok_or(Reason::UnknownMac)?;
    lease::check()?;
    match *entry {
        FdbEntry { kind: FdbEntry::REMOTE, target, .. } => {
            encap(ctx, port, size, Frame { skb, packet, eth, ip }, target)
        }
        // Its interface index means nothing here.
        FdbEntry { site, .. } if u32::from(site) != config::site() => Err(Reason::UnknownMac),
        FdbEntry { target, .. } if target == skb.ifindex => Err(Reason::Hairpin),
        entry => Ok(Sent { reason: Reason::Local, action: deliver(ctx, entry) }),
    }
}

/// Delivers to a port of this host: at the other end of a veth, in its namespace, as if it had come in there; elsewhere
/// by the port's egress.
#[inline(always)]
pub(crate) fn deliver(ctx: &TcContext, to: FdbEntry) -> i32 {
    if to.kind != FdbEntry::LOCAL_PEER {
        // SAFETY: the helper only notes the target.
        return unsafe { bpf_redirect(to.target, 0) as i32 };
    }
    // At a bridge port the packet type is "other host", and before Linux 6.15 bpf_redirect_peer keeps it.
    // SAFETY: the context pointer is valid; the helpers change no packet bytes.
    unsafe {
        if (*ctx.skb.skb).pkt_type != PACKET_HOST {
            bpf_skb_change_type(ctx.skb.skb, PACKET_HOST);
        }
        bpf_redirect_peer(to.target, 0) as i32
    }
}

#[inline(always)]
fn ethernet(packet: Packet) -> Option<EthWords> {
    let first: *const u64 = packet.at(0)?;
    let last: *const u64 = packet.at(ETH_LEN - 8)?;
    // SAFETY: bounds were checked by `at`.
    unsafe { Some(EthWords { first: *first, last: *last }) }
}

#[inline(always)]
fn check_source_mac(port: &Port, eth: EthWords) -> Result<(), Reason> {
    if eth.source_is(MacAddr(port.mac)) {
        return Ok(());
    }
    Err(if port.flags & flags::STRICT != 0 { Reason::StrictMac } else { Reason::SourceMac })
}

#[inline(always)]
fn check_source_ip(port: &Port, protocol: u16, packet: Packet) -> Result<(), Reason> {
    if port.flags & flags::STRICT != 0 && protocol == ETH_P_IPV4 {
        let source: *const [u8; 4] = packet.at(ETH_LEN + 12).ok_or(Reason::Truncated)?;
        // SAFETY: bounds were checked by `at`.
        if unsafe { *source } != port.ip {
            return Err(Reason::StrictIp);
        }
    }
    Ok(())
}

/// Leaves to the kernel what is larger than `mtu`: it answers with ICMP, fragments or drops, as configured.
#[inline(always)]
fn check_mtu(mtu: u16, skb: &__sk_buff, size: Size, ip: Ip, packet: Packet) -> Result<(), Reason> {
    let l3_len = if skb.gso_size == 0 { size.bytes - ETH_LEN as u32 } else { ip.segment_len(packet, skb.gso_size)? };
    if l3_len > u32::from(mtu) { Err(Reason::Oversize) } else { Ok(()) }
}

struct Frame<'a> {
    skb: &'a __sk_buff,
    packet: Packet,
    eth: EthWords,
    ip: Ip,
}

#[inline(always)]
fn encap(ctx: &TcContext, port: &Port, size: Size, frame: Frame<'_>, index: u32) -> Result<Sent, Reason> {
    let Frame { skb, packet, eth, ip } = frame;
    let vtep = OVL_VTEPS.get(index).ok_or(Reason::NextHop)?;
    if vtep.resolved == 0 {
        return Err(Reason::NextHop);
    }
    shim::check_way(vtep.ifindex)?;
    if vtep.mtu < port.mtu {
        check_mtu(vtep.mtu, skb, size, ip, packet)?;
    }
    // The outer total length has 16 bits.
    if size.bytes + (OVERHEAD - ETH_LEN) as u32 > u32::from(u16::MAX) {
        return Err(Reason::Oversize);
    }
    let hash = if skb.hash != 0 { skb.hash } else { ip.flow_hash(packet) };
    let of_network = counters::network(port.slot).ok_or(Reason::NextHop)?;
    let of_vtep = counters::vtep(index).ok_or(Reason::NextHop)?;
    let headers = encapsulate(
        vtep,
        eth,
        PerPacket {
            inner_len: size.bytes,
            ecn: ecn::encapsulate(ip.tos),
            // DF is clear, so fragments must not be confused: the segments sent so far number the packets.
            // SAFETY: this CPU's slot.
            id: unsafe { (*of_vtep).tx.packets } as u16,
            udp_src: flow::source_port(hash),
            vni: port.vni,
        },
    );
    let ifindex = vtep.ifindex;

    // SAFETY: the context pointer is valid; every packet pointer is derived anew below. The helper fails before it
    // changes anything (`net/core/filter.c`), so the kernel can still have the packet.
    if unsafe { bpf_skb_adjust_room(ctx.skb.skb, OVERHEAD as i32, BPF_ADJ_ROOM_MAC, ENCAP) } != 0 {
        return Err(Reason::AdjustRoom);
    }
    if config::fault() {
        return Err(Reason::Unfinished);
    }
    // Not a direct write: a program with one begins with bpf_skb_pull_data for every cloned skb, and TCP's are, which
    // copies the head. The helper looks whether the head may be written; TCP's clones allow it.
    // SAFETY: the context pointer is valid; the source is as long as said.
    let stored = unsafe { bpf_skb_store_bytes(ctx.skb.skb, 0, headers.as_ptr().cast(), ENCAP_LEN as u32, 0) };
    if stored != 0 {
        return Err(Reason::Unfinished);
    }
    counters::sent(of_network, size);
    counters::sent(of_vtep, size);
    Ok(Sent { reason: Reason::Encap, action: shim::send(ifindex) })
}
