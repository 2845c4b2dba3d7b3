//! `ovl_shim_out` and `ovl_shim_in`: the second half of a packet's way through a veth pair between two namespaces.

use super::{
    Constants, Packet, Sent, Tables, Way, delivery,
    read::{ETHERNET, IPV4, Ipv4, UDP, ethernet, half, ipv4},
};
use overlay_common::{Reason, maps::FdbKey};

/// Only what `ovl_port_in` has encapsulated passes: from our MAC and address to one of our UDP ports.
pub(super) fn out(tables: &Tables, packet: &Packet<'_>) -> Result<Sent, Reason> {
    let underlay = &tables.underlay;
    let ours = || {
        let frame = packet.head();
        let (eth, ip) = (ethernet(frame)?, ipv4(frame.get(ETHERNET..)?)?);
        let udp = frame.get(ETHERNET + Ipv4::LEN..)?;
        // All eight bytes of it.
        let port = half(udp, 2).filter(|_| udp.len() >= 8)?;
        Some(
            eth.src.0 == underlay.mac
                && eth.ether_type == IPV4
                && (ip.version, ip.ihl, ip.protocol) == (4, 5, UDP)
                && ip.src == underlay.addr
                && underlay.ports.contains(&port),
        )
    };
    if ours() != Some(true) {
        return Err(Reason::ShimOut);
    }
    Ok(Sent { reason: None, way: Way::Egress(underlay.ifindex), frame: packet.bytes.to_vec(), carried: None })
}

/// Only what is for a port of this namespace passes.
pub(super) fn inward(constants: &Constants, tables: &Tables, packet: &Packet<'_>) -> Result<Sent, Reason> {
    let eth = ethernet(packet.head()).ok_or(Reason::ShimIn)?;
    let to = tables.fdb.get(&FdbKey::new(constants.vni, eth.dst)).ok_or(Reason::ShimIn)?;
    if !to.is_local() || u32::from(to.netns_id) != constants.netns_id {
        return Err(Reason::ShimIn);
    }
    Ok(Sent { reason: None, way: delivery(to), frame: packet.bytes.to_vec(), carried: None })
}
