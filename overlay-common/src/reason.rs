//! Why a packet went the way it went: one list for programs, counters, command line and metrics.

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The programs forwarded it.
    Fast,
    /// Left unchanged to the kernel's own path.
    Kernel,
    /// Dropped.
    Drop,
}

impl Verdict {
    /// As printed: `fast`, `kernel`, `drop`.
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
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal => $verdict:ident,)+) => {
        /// Why a packet went the way it went. The discriminant is the index in `OVL_REASONS`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of `OVL_REASONS`.
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// As printed by the command line and used as a metric label.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One line for the operator.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// What becomes of the packet.
            #[inline(always)]
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict,)+ }
            }

            /// The reasons to drop a packet, as bits.
            const DROPS: u64 = $((if let Verdict::$verdict = Verdict::Drop { 1 << Self::$variant as u32 } else { 0 }))|+;
        }
    };
}

impl Reason {
    /// Whether packets that are dropped or left to the kernel for this reason are sampled into `OVL_EVENTS`: all that are
    /// dropped, and those left to the kernel whose source address is spoofed or unknown.
    #[inline(always)]
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        const LEFT: u64 = 1 << Reason::SourceMac as u32
            | 1 << Reason::UnknownPeer as u32
            | 1 << Reason::UnknownVni as u32
            | 1 << Reason::WrongPort as u32
            | 1 << Reason::VxlanNoVni as u32
            | 1 << Reason::VxlanReserved as u32;
        (LEFT | Self::DROPS) >> self as u32 & 1 != 0
    }

    /// Whether the verdict is [`Verdict::Drop`]: a shift, where the reason is not known before the packet is.
    #[inline(always)]
    #[must_use]
    pub const fn is_drop(self) -> bool {
        Self::DROPS >> self as u32 & 1 != 0
    }
}

reasons! {
    /// Encapsulated and sent to the VTEP behind which the destination is.
    Encap = "encap" => Fast,
    /// Handed to another container of this host.
    Local = "local" => Fast,
    /// Decapsulated by TC and delivered to a container.
    Decap = "decap" => Fast,
    /// Decapsulated by XDP and delivered to a container.
    DecapXdp = "decap_xdp" => Fast,

    /// The interface is not a port of any network.
    NotAPort = "not_a_port" => Kernel,
    /// Not a VXLAN packet for one of our UDP ports.
    NotVxlan = "not_vxlan" => Kernel,
    /// The outer packet is not for this host's VTEP address and MAC.
    NotOurAddress = "not_our_address" => Kernel,
    /// The outer IPv4 header has options.
    IpOptions = "ip_options" => Kernel,
    /// The outer packet is a fragment.
    Fragment = "fragment" => Kernel,
    /// Outer lengths disagree with each other or with the frame, or the IPv4 header checksum is wrong.
    Malformed = "malformed" => Kernel,
    /// The frame ends before its headers do.
    Truncated = "truncated" => Kernel,
    /// The VXLAN header's I flag is clear.
    VxlanNoVni = "vxlan_no_vni" => Kernel,
    /// Reserved bits of the VXLAN header are set.
    VxlanReserved = "vxlan_reserved" => Kernel,
    /// The VNI is not a network of this host.
    UnknownVni = "unknown_vni" => Kernel,
    /// The network uses another UDP port.
    WrongPort = "wrong_port" => Kernel,
    /// The outer source address is not a peer of this network.
    UnknownPeer = "unknown_peer" => Kernel,
    /// The inner frame carries a VLAN tag.
    Vlan = "vlan" => Kernel,
    /// The inner frame is neither IPv4 nor IPv6, for instance ARP.
    NotIp = "not_ip" => Kernel,
    /// The inner destination is broadcast or multicast.
    GroupAddress = "group_address" => Kernel,
    /// The source MAC is not the port's.
    SourceMac = "source_mac" => Kernel,
    /// The destination MAC is not in the FDB.
    UnknownMac = "unknown_mac" => Kernel,
    /// A packet from the underlay is for a MAC that is not behind a port of this host.
    NotLocal = "not_local" => Kernel,
    /// The destination is behind the port that the frame came from; the kernel's bridge drops it.
    Hairpin = "hairpin" => Kernel,
    /// The next hop of the VTEP is not resolved.
    NextHop = "next_hop" => Kernel,
    /// The way to the VTEP leaves by another device than the underlay's; a shim leads to that one alone.
    OtherDevice = "other_device" => Kernel,
    /// Larger than the network's or the route's MTU allows.
    Oversize = "oversize" => Kernel,
    /// A GSO super-packet of a kind that cannot be encapsulated or decapsulated here.
    Gso = "gso" => Kernel,
    /// Congestion was marked outside a packet that cannot carry the mark; the kernel drops it (RFC 6040).
    Ecn = "ecn" => Kernel,
    /// This kernel cannot decapsulate IPv6 in TC (needs Linux 6.3).
    InnerIpv6 = "inner_ipv6" => Kernel,
    /// The kernel refused to make or remove room for the headers.
    AdjustRoom = "adjust_room" => Kernel,
    /// XDP left a TCP packet to GRO and TC.
    XdpTcp = "xdp_tcp" => Kernel,
    /// XDP cannot deliver to this port and left the packet to TC.
    XdpPort = "xdp_port" => Kernel,
    /// No daemon has extended the deadline until which the tables are trusted.
    Stale = "stale" => Kernel,

    /// The source MAC is not the port's, in a strict network.
    StrictMac = "strict_mac" => Drop,
    /// The source IPv4 address is not the port's, in a strict network.
    StrictIp = "strict_ip" => Drop,
    /// The outer source address is not a peer, in a strict network.
    StrictPeer = "strict_peer" => Drop,
    /// A frame came through a shim that `ovl_port_in` did not send.
    ShimOut = "shim_out" => Drop,
    /// A decapsulated frame is for a MAC that is not behind a port of the shim's namespace any more.
    ShimIn = "shim_in" => Drop,
    /// A packet that was already changed could not be finished.
    Unfinished = "unfinished" => Drop,
    /// The frame carries a VLAN tag, in a strict network: nobody looks behind it.
    StrictVlan = "strict_vlan" => Drop,
    /// ARP whose sender address is not the port's or the remote endpoint's, in a strict network.
    StrictArp = "strict_arp" => Drop,
    /// A container of a strict network sends to a VXLAN port outside of its network.
    StrictVxlan = "strict_vxlan" => Drop,
    /// The inner source MAC is not behind the sending VTEP, in a strict network.
    StrictVtep = "strict_vtep" => Drop,
    /// The inner source IPv4 address is not that of the inner source MAC, in a strict network.
    StrictInnerIp = "strict_inner_ip" => Drop,
    /// The first fragment of a VXLAN packet does not show who sends, and there are strict networks here.
    StrictFragment = "strict_fragment" => Drop,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_discriminant_is_the_place_in_the_list() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn what_is_dropped_is_sampled_and_what_is_forwarded_is_not() {
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
    fn names_are_unique_labels_and_every_reason_is_explained() {
        let names: HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b)));
            assert!(reason.help().ends_with('.') || reason.help().ends_with(')'), "{}", reason.help());
        }
    }
}
