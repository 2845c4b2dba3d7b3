//! Sampled events in readable form.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, LinkSlice};
use nix::time::{ClockId, clock_gettime};
use overlay_common::{
    Event, Hook, MacAddr, Reason, VtepAddr,
    wire::{UDP_LEN, VXLAN_LEN},
};
use serde::{Deserialize, Serialize};

/// A sampled event: a packet that was dropped, or passed to the kernel because of its source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventRow {
    /// Number of the event, counted by the daemon from 1. Gaps are events that are no longer kept.
    pub number: u64,
    /// Time: RFC 3339, UTC.
    pub time: String,
    /// The reason's name.
    pub reason: String,
    /// Verdict: `kernel` or `drop`.
    pub verdict: String,
    /// Hook: `port`, `nic`, `xdp`, `shim_out` or `shim_in`.
    pub hook: String,
    /// Index of the ingress interface.
    pub ifindex: u32,
    /// Its name, if it still exists in the daemon's network namespace.
    pub device: Option<String>,
    /// VNI of the port, or of the packet.
    pub vni: Option<u32>,
    /// Source address of the outer packet.
    pub outer_src: Option<VtepAddr>,
    /// Destination address of the outer packet.
    pub outer_dst: Option<VtepAddr>,
    /// Source MAC of the container's frame.
    pub src_mac: Option<String>,
    /// Destination MAC of the container's frame.
    pub dst_mac: Option<String>,
    /// EtherType of the container's frame, after any VLAN tags.
    pub ethertype: Option<u16>,
    /// Source address of the container's frame; in ARP the sender's.
    pub src_ip: Option<IpAddr>,
    /// Destination address of the container's frame; in ARP the target's.
    pub dst_ip: Option<IpAddr>,
    /// Length of the packet in bytes, from the (outer) Ethernet header on.
    pub len: u32,
    /// Packets of the same reason on the same CPU since the previous sample that were not sampled.
    pub skipped: u64,
}

impl EventRow {
    /// Reads a sample; `None` for a reason or hook that this version does not have.
    #[must_use]
    pub(crate) fn new(event: &Event) -> Option<Self> {
        let reason = *Reason::ALL.get(event.reason as usize)?;
        let hook = Hook::from_number(event.hook)?;
        let mut row = Self {
            number: 0,
            time: humantime::format_rfc3339_millis(at(event.time_ns)).to_string(),
            reason: reason.name().to_owned(),
            verdict: reason.verdict().as_str().to_owned(),
            hook: hook.name().to_owned(),
            ifindex: event.ifindex,
            vni: (event.vni != 0).then_some(event.vni),
            len: event.len,
            skipped: event.skipped,
            ..Self::default()
        };
        match hook {
            Hook::Nic | Hook::Xdp => row.outer(event.bytes()),
            Hook::Port | Hook::ShimOut | Hook::ShimIn => row.inner(event.bytes()),
        }
        Some(row)
    }

    /// Reads the headers of a packet on the NIC. They are untrusted.
    fn outer(&mut self, bytes: &[u8]) {
        let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else { return };
        let Some(LaxNetSlice::Ipv4(ip)) = packet.net else { return };
        let header = ip.header();
        (self.outer_src, self.outer_dst) = (Some(header.source_addr().into()), Some(header.destination_addr().into()));
        if header.protocol() != IpNumber::UDP || header.fragments_offset().value() != 0 {
            return;
        }
        // Not `packet.transport`, which is empty for fragments.
        let payload = ip.payload().payload;
        if let Some([_, _, _, _, a, b, c, _]) = payload.get(UDP_LEN..UDP_LEN + VXLAN_LEN) {
            self.vni = Some(u32::from_be_bytes([0, *a, *b, *c]));
            self.inner(&payload[UDP_LEN + VXLAN_LEN..]);
        }
    }

    /// Reads the headers of a container's frame.
    fn inner(&mut self, bytes: &[u8]) {
        let Ok(frame) = LaxSlicedPacket::from_ethernet(bytes) else { return };
        if let Some(LinkSlice::Ethernet2(ethernet)) = &frame.link {
            self.src_mac = Some(MacAddr(ethernet.source()).to_string());
            self.dst_mac = Some(MacAddr(ethernet.destination()).to_string());
            self.ethertype = Some(frame.ether_payload().map_or(ethernet.ether_type(), |payload| payload.ether_type).0);
        }
        (self.src_ip, self.dst_ip) = match &frame.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                (Some(ip.header().source_addr().into()), Some(ip.header().destination_addr().into()))
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                (Some(ip.header().source_addr().into()), Some(ip.header().destination_addr().into()))
            }
            Some(LaxNetSlice::Arp(arp)) => (address(arp.sender_protocol_addr()), address(arp.target_protocol_addr())),
            None => (None, None),
        };
    }

    /// One line.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let device = self.device.clone().unwrap_or_else(|| format!("interface {}", self.ifindex));
        let mut line = format!("{} {} {} {} {device}", self.time, self.verdict, self.reason, self.hook);
        let mut add = |text: String| line += &text;
        if let Some(vni) = self.vni {
            add(format!(" vni {vni}"));
        }
        if let (Some(src), Some(dst)) = (self.outer_src, self.outer_dst) {
            add(format!(" {src} > {dst}"));
        }
        let station = |mac: &Option<String>, ip: Option<IpAddr>| match (mac, ip) {
            (Some(mac), Some(ip)) => Some(format!("{mac} ({ip})")),
            (mac, _) => mac.clone(),
        };
        if let (Some(src), Some(dst)) = (station(&self.src_mac, self.src_ip), station(&self.dst_mac, self.dst_ip)) {
            add(format!(" {src} > {dst}"));
        }
        if let (Some(ethertype), None) = (self.ethertype, self.src_ip) {
            add(format!(" ethertype {ethertype:#06x}"));
        }
        add(format!(" {} bytes", self.len));
        if self.skipped > 0 {
            add(format!(", {} not sampled before", self.skipped));
        }
        line
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into())
}

/// The time of day at `ns` of `CLOCK_MONOTONIC`.
fn at(ns: u64) -> SystemTime {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    let age = now.saturating_sub(Duration::from_nanos(ns));
    SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use etherparse::PacketBuilder;

    use super::*;

    fn event(reason: Reason, hook: Hook, bytes: &[u8]) -> Event {
        let mut event = Event { reason: reason as u32, hook: hook as u16, ifindex: 7, ..Event::zeroed() };
        let len = bytes.len().min(event.sample.len());
        event.sample[..len].copy_from_slice(&bytes[..len]);
        (event.len, event.sample_len) = (bytes.len() as u32, len as u32);
        event
    }

    fn frame() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0x42, 10, 0, 1, 6], [2, 0x42, 10, 0, 1, 2])
            .ipv4([10, 0, 1, 6], [10, 0, 1, 2], 64)
            .udp(1000, 2000);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[0; 100]).unwrap();
        bytes
    }

    fn vxlan(more: &[u8]) -> Vec<u8> {
        let builder =
            PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([192, 168, 1, 66], [192, 168, 1, 9], 64).udp(50730, 4789);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[&[8, 0, 0, 0, 0, 0x10, 1, 0], more].concat()).unwrap();
        bytes
    }

    #[test]
    fn container_frame_is_parsed() {
        let row = EventRow::new(&Event { vni: 4097, ..event(Reason::StrictIp, Hook::Port, &frame()) }).unwrap();
        assert_eq!((row.reason.as_str(), row.verdict.as_str(), row.hook.as_str()), ("strict_ip", "drop", "port"));
        assert_eq!((row.vni, row.outer_src, row.len), (Some(4097), None, 142));
        assert_eq!(row.src_mac.as_deref(), Some("02:42:0a:00:01:06"));
        assert_eq!(row.dst_ip, Some([10, 0, 1, 2].into()));
        assert_eq!(row.ethertype, Some(0x0800));
    }

    #[test]
    fn nic_packet_is_parsed_to_its_inner_frame() {
        let row = EventRow::new(&event(Reason::StrictPeer, Hook::Xdp, &vxlan(&frame()))).unwrap();
        assert_eq!((row.vni, row.outer_src), (Some(4097), Some([192, 168, 1, 66].into())));
        assert_eq!(row.src_ip, Some([10, 0, 1, 6].into()));
        let line = row.line();
        let words = "drop strict_peer xdp interface 7 vni 4097 192.168.1.66 > 192.168.1.9 \
                     02:42:0a:00:01:06 (10.0.1.6) > 02:42:0a:00:01:02 (10.0.1.2) 192 bytes";
        assert!(line.ends_with(words), "{line}");
    }

    #[test]
    fn truncated_and_malformed_packets_are_reported() {
        let packet = vxlan(&frame());
        for hook in [Hook::Port, Hook::Nic] {
            for end in 0..packet.len() {
                let row = EventRow::new(&event(Reason::UnknownPeer, hook, &packet[..end])).unwrap();
                assert!(row.line().contains("unknown_peer"));
            }
            for byte in 0..packet.len() {
                let mut odd = packet.clone();
                odd[byte] ^= 0xff;
                assert!(EventRow::new(&event(Reason::UnknownPeer, hook, &odd)).is_some());
            }
        }
        let unknown = Event { reason: 63, ..event(Reason::StrictIp, Hook::Port, &packet) };
        assert_eq!(EventRow::new(&unknown), None);
    }
}
