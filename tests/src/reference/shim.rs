//! `ovl_shim_out` and `ovl_shim_in`: the programs on both ends of a cross-netns veth (shim).

use super::{
    Constants, Packet, Redirect, Sent, Tables, delivery,
    read::{ETHERNET, IPV4, Ipv4, UDP, ethernet, half, ipv4},
};
use overlay_common::{Reason, maps::FdbKey};

/// Forwards only packets of `ovl_port_in`: from the underlay's MAC and IP address to one of its UDP ports.
pub(super) fn out(tables: &Tables, packet: &Packet<'_>) -> Result<Sent, Reason> {
    let underlay = &tables.underlay;
    let is_encapsulated = || {
        let frame = packet.head();
        let (eth, ip) = (ethernet(frame)?, ipv4(frame.get(ETHERNET..)?)?);
        let udp = frame.get(ETHERNET + Ipv4::LEN..)?;
        // The UDP header must be complete.
        let port = half(udp, 2).filter(|_| udp.len() >= 8)?;
        Some(
            eth.src.0 == underlay.mac
                && eth.ether_type == IPV4
                && (ip.version, ip.ihl, ip.protocol) == (4, 5, UDP)
                && ip.src == underlay.addr
                && underlay.ports.contains(&port),
        )
    };
    if is_encapsulated() != Some(true) {
        return Err(Reason::ShimOut);
    }
    Ok(Sent { reason: None, redirect: Redirect::Egress(underlay.ifindex), frame: packet.bytes.to_vec(), traffic: None })
}

/// Forwards only packets for a port of this namespace.
pub(super) fn inward(constants: &Constants, tables: &Tables, packet: &Packet<'_>) -> Result<Sent, Reason> {
    let eth = ethernet(packet.head()).ok_or(Reason::ShimIn)?;
    let to = tables.fdb.get(&FdbKey::new(constants.vni, eth.dst)).ok_or(Reason::ShimIn)?;
    if !to.is_local() || u32::from(to.netns_id) != constants.netns_id {
        return Err(Reason::ShimIn);
    }
    Ok(Sent { reason: None, redirect: delivery(to), frame: packet.bytes.to_vec(), traffic: None })
}
