//! Verdict reasons: one list for programs, counters, command line and metrics.

/// The verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Forwarded by the programs.
    Fast,
    /// Passed to the kernel unmodified.
    Kernel,
    /// Dropped.
    Drop,
}

impl Verdict {
    /// The printed name: `fast`, `kernel`, `drop`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Kernel => "kernel",
            Self::Drop => "drop",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $(#[cfg($cfg:meta)])? $variant:ident = $name:literal => $verdict:ident,)+) => {
        /// The reason for a verdict. The discriminant is the index in `OVL_REASONS`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $(#[cfg($cfg)])? $variant,)+
        }

        impl Reason {
            /// All reasons, in the order of `OVL_REASONS`.
            pub const ALL: [Self; [$($(#[cfg($cfg)])? Self::$variant),+].len()] = [$($(#[cfg($cfg)])? Self::$variant),+];

            /// Name on the command line and in metric labels.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $($(#[cfg($cfg)])? Self::$variant => $name,)+ }
            }

            /// The meaning, in one line.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $($(#[cfg($cfg)])? Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The verdict.
            #[inline(always)]
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $($(#[cfg($cfg)])? Self::$variant => Verdict::$verdict,)+ }
            }

            /// The reasons with [`Verdict::Drop`], as bits.
            const DROPS: u64 = {
                let mut drops = 0;
                $($(#[cfg($cfg)])? {
                    if let Verdict::$verdict = Verdict::Drop { drops |= 1 << Self::$variant as u32 }
                })+
                drops
            };
        }
    };
}

impl Reason {
    /// Whether packets with this reason are sampled into `OVL_EVENTS`: dropped packets, and packets passed to the
    /// kernel whose source is spoofed or unknown.
    #[inline(always)]
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        const PASSED: u64 = 1 << Reason::SourceMac as u32
            | 1 << Reason::UnknownPeer as u32
            | 1 << Reason::UnknownVni as u32
            | 1 << Reason::WrongPort as u32
            | 1 << Reason::VxlanNoVni as u32
            | 1 << Reason::VxlanReserved as u32;
        (PASSED | Self::DROPS) >> self as u32 & 1 != 0
    }

    /// Whether the verdict is [`Verdict::Drop`], in one shift.
    #[inline(always)]
    #[must_use]
    pub const fn is_drop(self) -> bool {
        Self::DROPS >> self as u32 & 1 != 0
    }
}

reasons! {
    /// Encapsulated and sent to the VTEP of the destination.
    Encap = "encap" => Fast,
    /// Delivered to another container of this host.
    Local = "local" => Fast,
    /// Decapsulated by TC and delivered to a container.
    Decap = "decap" => Fast,
    /// Decapsulated by XDP and delivered to a container.
    DecapXdp = "decap_xdp" => Fast,

    /// The interface is not a port of any network.
    NotAPort = "not_a_port" => Kernel,
    /// Not a VXLAN packet for a UDP port of this host's networks.
    NotVxlan = "not_vxlan" => Kernel,
    /// The outer destination is not the VTEP address and MAC of this host.
    NotOurAddress = "not_our_address" => Kernel,
    /// The outer IPv4 header has options.
    IpOptions = "ip_options" => Kernel,
    /// The outer packet is a fragment.
    Fragment = "fragment" => Kernel,
    /// The outer lengths do not match each other or the frame, or the IPv4 header checksum is wrong.
    Malformed = "malformed" => Kernel,
    /// The frame is shorter than its headers.
    Truncated = "truncated" => Kernel,
    /// The VXLAN header's I flag is clear.
    VxlanNoVni = "vxlan_no_vni" => Kernel,
    /// Reserved bits of the VXLAN header are set.
    VxlanReserved = "vxlan_reserved" => Kernel,
    /// No network of this host has this VNI.
    UnknownVni = "unknown_vni" => Kernel,
    /// The network uses another UDP port, or the VTEP's packets take the kernel path.
    WrongPort = "wrong_port" => Kernel,
    /// The outer source address is not a peer of this network.
    UnknownPeer = "unknown_peer" => Kernel,
    /// The inner frame carries a VLAN tag.
    Vlan = "vlan" => Kernel,
    /// The inner frame is neither IPv4 nor IPv6, for instance ARP.
    NotIp = "not_ip" => Kernel,
    /// The inner destination is broadcast or multicast, or the inner source is not a unicast address.
    GroupAddress = "group_address" => Kernel,
    /// The source MAC is not the port's.
    SourceMac = "source_mac" => Kernel,
    /// The destination MAC is not in the FDB.
    UnknownMac = "unknown_mac" => Kernel,
    /// The destination MAC of a packet from the underlay is not behind a port of this host.
    NotLocal = "not_local" => Kernel,
    /// The destination is behind the ingress port; the kernel's bridge drops the frame.
    Hairpin = "hairpin" => Kernel,
    /// The next hop of the VTEP is not resolved.
    NextHop = "next_hop" => Kernel,
    /// The route to the VTEP does not use the underlay device, the only one that a shim reaches.
    OtherDevice = "other_device" => Kernel,
    /// The packet exceeds the MTU of the network or of the route.
    Oversize = "oversize" => Kernel,
    /// A GSO super-packet of a kind that the programs cannot encapsulate or decapsulate, or a packet behind one.
    Gso = "gso" => Kernel,
    /// The outer header marks congestion and the inner packet is not ECN-capable; the kernel drops it (RFC 6040).
    Ecn = "ecn" => Kernel,
    /// TC cannot decapsulate IPv6 on this kernel (needs Linux 6.3).
    InnerIpv6 = "inner_ipv6" => Kernel,
    /// The kernel could not add or remove room for the headers.
    AdjustRoom = "adjust_room" => Kernel,
    /// XDP passed a TCP packet to GRO and TC.
    XdpTcp = "xdp_tcp" => Kernel,
    /// XDP cannot deliver to this port and passed the packet to TC.
    XdpPort = "xdp_port" => Kernel,
    /// The heartbeat deadline has passed, so the programs do not trust the maps.
    Stale = "stale" => Kernel,

    /// The source MAC is not the port's, in a strict network.
    StrictMac = "strict_mac" => Drop,
    /// The source IPv4 address is not the port's, in a strict network.
    StrictIp = "strict_ip" => Drop,
    /// The outer source address is not a peer, in a strict network.
    StrictPeer = "strict_peer" => Drop,
    /// A shim received a frame that `ovl_port_in` did not send.
    ShimOut = "shim_out" => Drop,
    /// The destination MAC of a decapsulated frame is no longer behind a port of the shim's netns.
    ShimIn = "shim_in" => Drop,
    /// Forwarding failed after the packet had been modified.
    Unfinished = "unfinished" => Drop,
    /// The frame carries a VLAN tag, in a strict network.
    StrictVlan = "strict_vlan" => Drop,
    /// ARP whose sender address is not the port's or the remote endpoint's, in a strict network.
    StrictArp = "strict_arp" => Drop,
    /// A container sends VXLAN outside its network, and a strict network forbids it.
    StrictVxlan = "strict_vxlan" => Drop,
    /// The inner source MAC is not behind the source VTEP, in a strict network.
    StrictVtep = "strict_vtep" => Drop,
    /// The inner source IPv4 address does not belong to the inner source MAC, in a strict network.
    StrictInnerIp = "strict_inner_ip" => Drop,
    /// The first fragment of a VXLAN packet is too short to show its source, and this host has a strict network.
    StrictFragment = "strict_fragment" => Drop,

    /// The packet has a mark, by which the kernel may route it another way.
    Mark = "mark" => Kernel,

    /// Outer headers need a UDP checksum, and the packet's own checksum does not determine it.
    UdpChecksum = "udp_checksum" => Kernel,

    /// An IPv6 neighbour solicitation to one MAC address, which the bridge or the VXLAN device may answer.
    Solicitation = "solicitation" => Kernel,

    /// TCP in single segments, which the NIC does not merge (GRO); the VXLAN device does.
    Segments = "segments" => Kernel,

    /// The source MAC of a packet from the underlay is the VXLAN device's, or new to one that learns.
    Learning = "learning" => Kernel,

    /// The kernel has not yet sent a packet like this one, or is asked again.
    #[cfg(feature = "proof")]
    Unproven = "unproven" => Kernel,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn discriminants_are_positions_in_the_list() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn dropped_packets_are_sampled_and_forwarded_packets_are_not() {
        for reason in Reason::ALL {
            assert_eq!(reason.is_drop(), reason.verdict() == Verdict::Drop, "{reason:?}");
            match reason.verdict() {
                Verdict::Drop => assert!(reason.is_sampled(), "{reason:?}"),
                Verdict::Fast => assert!(!reason.is_sampled(), "{reason:?}"),
                Verdict::Kernel => {}
            }
        }
        assert!(Reason::UnknownPeer.is_sampled() && !Reason::NotVxlan.is_sampled());
    }

    #[test]
    fn reasons_have_unique_names_and_help() {
        let names: HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b)));
            assert!(reason.help().ends_with('.') || reason.help().ends_with(')'), "{}", reason.help());
        }
    }
}
