//! `ovl_port_in`: from a container to another one, on this host or behind a VTEP.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use overlay_common::{
    MacAddr, Reason,
    encap::EthWords,
    maps::{FdbEntry, FdbKey, Port, PortKey, flags},
    wire::{ETH_LEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IPV4, ETH_P_IPV6, IPV4_LEN, IPV6_LEN},
};

use crate::{
    config, heartbeat,
    maps::{OVL_FDB, OVL_PORTS},
    packet::{
        self, Load, Packet, Size,
        encap::{Frame, encap},
        inner,
        redirect::{self, Sent},
    },
};

/// Bytes read from a frame: Ethernet, IP and the fixed part of a TCP header. A larger value would make
/// bpf_skb_pull_data copy beyond the linear head.
const HEADERS_IPV4: u32 = (ETH_LEN + IPV4_LEN + 20) as u32;
const HEADERS_IPV6: u32 = (ETH_LEN + IPV6_LEN + 20) as u32;

#[inline(always)]
pub(crate) fn forward(ctx: &TcContext, size: Size) -> Result<Sent, Reason> {
    // SAFETY: the context pointer is valid for the whole program.
    let skb = unsafe { &*ctx.skb.skb };
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let port = unsafe { OVL_PORTS.get(PortKey { netns_id: config::netns_id(), ifindex: skb.ifindex }) }
        .ok_or(Reason::NotAPort)?;
    let frame = read(ctx, skb, size, port)?;

    // SAFETY: as for the ports.
    let entry = unsafe { OVL_FDB.get(FdbKey::from_word(port.vni, frame.eth.first)) }.ok_or(Reason::UnknownMac)?;
    let heartbeat = heartbeat::current()?;
    match *entry {
        FdbEntry { kind: FdbEntry::REMOTE, target, .. } => encap(ctx, port, frame, target, heartbeat),
        // The interface index is valid only in the port's own netns.
        FdbEntry { netns_id, .. } if u32::from(netns_id) != config::netns_id() => Err(Reason::UnknownMac),
        FdbEntry { target, .. } if target == skb.ifindex => Err(Reason::Hairpin),
        entry => Ok(Sent { reason: Reason::Local, action: redirect::to_port(ctx, entry) }),
    }
}

/// Reads a frame, and checks it against the addresses and the MTU of its port.
#[inline(always)]
fn read<'a>(ctx: &TcContext, skb: &'a __sk_buff, size: Size, port: &Port) -> Result<Frame<'a>, Reason> {
    let protocol = u16::from_be(skb.protocol as u16);
    let packet = packet::tc_linear(ctx, size, if protocol == ETH_P_IPV6 { HEADERS_IPV6 } else { HEADERS_IPV4 });
    let eth = inner::ethernet(packet, 0).ok_or(Reason::Truncated)?;
    // Before other checks, because bridges learn the source MAC also from frames that the programs do not forward
    // (ARP).
    check_source_mac(port, eth)?;
    if skb.vlan_present != 0 {
        return Err(Reason::Vlan);
    }
    let ip = match protocol {
        ETH_P_IPV4 => inner::ipv4(packet).ok_or(Reason::Truncated)?,
        ETH_P_IPV6 => ipv6(packet, eth)?,
        ETH_P_8021Q | ETH_P_8021AD => return Err(Reason::Vlan),
        _ => return Err(Reason::NotIp),
    };
    check_source_ip(port, protocol, packet)?;
    if eth.destination().is_group() {
        return Err(Reason::GroupAddress);
    }
    let frame = Frame { skb, packet, size, eth, ip };
    frame.check_mtu(port.mtu)?;
    Ok(frame)
}

#[inline(always)]
fn ipv6(packet: Packet, eth: EthWords) -> Result<inner::Ip, Reason> {
    let ip = inner::ipv6(packet).ok_or(Reason::Truncated)?;
    if !eth.destination().is_group() {
        ip.check_solicitation(packet)?;
    }
    Ok(ip)
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
        let source: [u8; 4] = packet.load(ETH_LEN + 12).ok_or(Reason::Truncated)?;
        if source != port.ip {
            return Err(Reason::StrictIp);
        }
    }
    Ok(())
}
