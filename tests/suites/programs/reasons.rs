//! One packet for every verdict reason.

use overlay_common::{
    MacAddr, Reason, Verdict,
    event::SAMPLE_LEN,
    maps::{Count, FdbEntry, Port, Traffic, Underlay, Vtep, flags},
};
use overlay_tests::{
    frame::{Inner, L4, Outer, Station, Version, arp_request, fix_ipv4_checksum, tagged},
    program::{
        GINDEMO1, GINDEMO2, Hook, MTU, NEIGHBOUR, NODE1, NODE1_MAC, OTHER_UDP_PORT, Programs, SLOT, STRICT_VNI, Skb,
        UDP_PORT, VNI, VTEP, VXLAN_MAC, assert_bytes, from_node2, inbound, outbound, port, to_node2,
    },
};

const TCP: L4 = L4::Tcp(35126, 80);
const UDP: L4 = L4::Udp(5000, 53);

/// A packet with its maps and skb.
struct Case {
    programs: Programs,
    hook: Hook,
    packet: Vec<u8>,
    skb: Skb,
}

fn at(hook: Hook, packet: Vec<u8>) -> Case {
    Case { programs: Programs::cluster(), hook, packet, skb: Skb::default() }
}

/// gindemo1 sends a TCP segment to gindemo2.
fn sent() -> Case {
    at(Hook::PortIn, outbound(Version::V4, TCP).bytes())
}

/// gindemo2 sends to gindemo1.
fn received(hook: Hook, l4: L4) -> Case {
    at(hook, from_node2().encapsulate(&inbound(Version::V4, l4).bytes()))
}

impl Case {
    fn with(mut self, change: impl FnOnce(&mut Programs)) -> Self {
        change(&mut self.programs);
        self
    }

    fn check(self, reason: Reason) {
        let Self { programs, hook, packet, skb } = self;
        let outcome = programs.run_skb(hook, &packet, skb);
        let packets = skb.gso_segs.max(1).into();
        assert_eq!(outcome.counted, [(reason, Count { packets, bytes: packet.len() as u64 })]);
        match (reason.verdict(), reason) {
            (Verdict::Kernel, _) => outcome.assert_passed_to_kernel(&packet),
            (Verdict::Drop, _) => {
                assert_eq!(outcome.action, hook.drop());
                assert_sampled(&programs, hook, reason, &packet);
            }
            (Verdict::Fast, Reason::Encap) => {
                let udp_src = u16::from_be_bytes([outcome.packet[34], outcome.packet[35]]);
                outcome.assert_forwarded(reason, packet.len(), &Outer { udp_src, ..to_node2() }.encapsulate(&packet));
            }
            (Verdict::Fast, Reason::Local) => outcome.assert_forwarded(reason, packet.len(), &packet),
            (Verdict::Fast, _) => outcome.assert_forwarded(reason, packet.len(), &packet[50..]),
        }
        // A second run counts exactly one more.
        assert_eq!(programs.run_skb(hook, &packet, skb).counted, outcome.counted);
        if reason.verdict() == Verdict::Kernel {
            assert_bytes(&outcome.packet, &packet);
        }
    }
}

/// The first packet of a reason is sampled, unmodified unless the program has already changed it.
#[track_caller]
fn assert_sampled(programs: &Programs, hook: Hook, reason: Reason, packet: &[u8]) {
    let events = programs.events();
    let [event] = events.as_slice() else { panic!("one event: {events:?}") };
    assert_eq!((event.reason, event.hook, event.skipped), (reason as u32, hook.number(), 0));
    assert!(event.time_ns > 0);
    if reason != Reason::Unfinished {
        assert_eq!(event.len as usize, packet.len());
        assert_bytes(event.bytes(), &packet[..packet.len().min(SAMPLE_LEN)]);
    }
}

macro_rules! every_reason {
    ($($name:ident: $reason:ident = $case:expr;)+) => {
        $(
            #[test]
            fn $name() {
                let case: Case = $case;
                case.check(Reason::$reason);
            }
        )+

        /// Does not compile when a reason has no test above.
        const fn has_a_test(reason: Reason) -> bool {
            match reason { $(Reason::$reason => true,)+ }
        }

        #[test]
        fn every_reason_has_one_test() {
            assert!(Reason::ALL.into_iter().all(has_a_test));
            assert_eq!([$(Reason::$reason),+].len(), Reason::ALL.len());
        }
    };
}

every_reason! {
    frame_for_remote_mac_is_encapsulated: Encap = sent();
    frame_for_local_mac_is_switched_locally: Local =
        at(Hook::PortIn, Inner::new(GINDEMO1, NEIGHBOUR, Version::V4, TCP).bytes());
    vxlan_packet_is_decapsulated: Decap = received(Hook::NicIn, TCP);
    xdp_decapsulates_vxlan_packet_that_is_not_tcp: DecapXdp = received(Hook::NicXdp, UDP);

    packet_of_interface_without_port_falls_back_to_kernel: NotAPort = {
        let mut case = sent();
        case.skb.ifindex = Some(case.programs.other_interface);
        case
    };
    packet_for_another_udp_port_falls_back_to_kernel: NotVxlan = {
        let outer = Outer { udp_dst: 53, ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    packet_for_another_address_falls_back_to_kernel: NotOurAddress = {
        let outer = Outer { dst: [192, 168, 1, 8], ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    outer_ip_options_fall_back_to_kernel: IpOptions = {
        let outer = Outer { options: vec![1; 4], ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    outer_fragment_falls_back_to_kernel: Fragment = {
        let outer = Outer { fragment: (0, true), ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    trailing_bytes_fall_back_to_kernel: Malformed = {
        let mut case = received(Hook::NicIn, TCP);
        case.packet.push(0);
        case
    };
    inner_frame_without_ip_header_falls_back_to_kernel: Truncated =
        at(Hook::NicIn, from_node2().encapsulate(&inbound(Version::V4, TCP).bytes()[..33]));
    clear_i_flag_falls_back_to_kernel: VxlanNoVni = {
        let outer = Outer { vxlan_flags: 0, ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    reserved_bits_fall_back_to_kernel: VxlanReserved = {
        let outer = Outer { vxlan_reserved2: 1, ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    unknown_vni_falls_back_to_kernel: UnknownVni = {
        let outer = Outer { vni: 77, ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    udp_port_of_another_network_falls_back_to_kernel: WrongPort = {
        let outer = Outer { udp_dst: OTHER_UDP_PORT, ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    unknown_peer_falls_back_to_kernel: UnknownPeer = {
        let outer = Outer { src: [192, 168, 1, 66], ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    vlan_tag_falls_back_to_kernel: Vlan = {
        let mut case = sent();
        case.packet = tagged(&case.packet, 0x8100);
        case
    };
    arp_falls_back_to_kernel: NotIp = at(Hook::PortIn, arp_request(GINDEMO1, GINDEMO2));
    neighbour_solicitation_falls_back_to_kernel: Solicitation =
        at(Hook::PortIn, Inner::solicitation(GINDEMO1, GINDEMO2).bytes());
    broadcast_falls_back_to_kernel: GroupAddress = {
        let mut case = sent();
        case.packet[..6].fill(0xff);
        case
    };
    spoofed_source_mac_falls_back_to_kernel: SourceMac = {
        let mut case = sent();
        case.packet[11] ^= 1;
        case
    };
    unknown_mac_falls_back_to_kernel: UnknownMac = sent().with(|p| p.remove_fdb(VNI, GINDEMO2.mac));
    packet_for_mac_behind_another_vtep_falls_back_to_kernel: NotLocal =
        at(Hook::NicIn, from_node2().encapsulate(&outbound(Version::V4, TCP).bytes()));
    hairpin_frame_falls_back_to_kernel: Hairpin =
        at(Hook::PortIn, Inner::new(GINDEMO1, GINDEMO1, Version::V4, UDP).bytes());
    unresolved_next_hop_falls_back_to_kernel: NextHop =
        sent().with(|p| p.vtep(VTEP, Vtep { resolved: 0, ..p.node2() }));
    marked_packet_falls_back_to_kernel: Mark = {
        let mut case = sent();
        case.skb.mark = 1;
        case
    };
    route_over_device_without_shim_falls_back_to_kernel: OtherDevice = {
        let mut case = sent();
        case.programs = Programs::sandbox();
        case.with(|p| p.vtep(VTEP, Vtep { ifindex: p.other_interface, ..p.node2() }))
    };
    packet_over_mtu_falls_back_to_kernel: Oversize =
        at(Hook::PortIn, outbound(Version::V4, TCP).l3_len(usize::from(MTU) + 1).bytes());
    super_packet_of_unknown_protocol_falls_back_to_kernel: Gso = {
        let mut case = at(Hook::PortIn, outbound(Version::V4, L4::Icmp).bytes());
        case.skb = Skb { gso_size: 16, gso_segs: 2, ..Skb::default() };
        case
    };
    packet_without_checksum_falls_back_to_kernel_where_outer_needs_one: UdpChecksum =
        at(Hook::PortIn, outbound(Version::V4, L4::Raw(47)).bytes())
            .with(|p| p.port(p.port, Port { flags: flags::UDP_CHECKSUM, ..port() }));
    outer_ce_mark_on_not_ect_packet_falls_back_to_kernel: Ecn = {
        let outer = Outer { tos: 3, ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    inner_ipv6_falls_back_to_kernel_without_kernel_support: InnerIpv6 = {
        let mut case = at(Hook::NicIn, from_node2().encapsulate(&inbound(Version::V6, TCP).bytes()));
        case.programs = Programs::cluster_with_globals(&[("OVL_DECAP_IPV6", 0)]);
        case
    };
    packet_without_room_for_outer_headers_falls_back_to_kernel: AdjustRoom = {
        let mut case = sent();
        // `BPF_PROG_TEST_RUN` cannot set gso_type, without which no helper resizes a super-packet.
        case.skb = Skb { gso_size: 16, gso_segs: 2, ..Skb::default() };
        case
    };
    xdp_passes_tcp_to_gro: XdpTcp = received(Hook::NicXdp, TCP);
    xdp_passes_port_without_redirect_target_to_tc: XdpPort =
        received(Hook::NicXdp, UDP).with(|p| p.no_txport(p.port));
    packet_after_deadline_falls_back_to_kernel: Stale = sent().with(|p| p.deadline(Some(-1)));

    spoofed_source_mac_is_dropped_in_strict_network: StrictMac = {
        let mut case = sent().with(|p| p.port(p.port, Port { flags: flags::STRICT, ..port() }));
        case.packet[6..12].copy_from_slice(&MacAddr::from_ipv4([10, 0, 1, 9]).0);
        case
    };
    spoofed_source_address_is_dropped_in_strict_network: StrictIp = {
        let mut spoofed = outbound(Version::V4, TCP);
        spoofed.from.ipv4 = [10, 0, 1, 9];
        at(Hook::PortIn, spoofed.bytes()).with(|p| p.port(p.port, Port { flags: flags::STRICT, ..port() }))
    };
    unknown_peer_is_dropped_in_strict_network: StrictPeer = {
        let outer = Outer { src: [192, 168, 1, 66], vni: STRICT_VNI, ..from_node2() };
        at(Hook::NicIn, outer.encapsulate(&inbound(Version::V4, TCP).bytes()))
    };
    packet_not_encapsulated_by_programs_is_dropped_at_shim: ShimOut = at(Hook::ShimOut, outbound(Version::V4, TCP).bytes());
    frame_for_unknown_mac_behind_shim_is_dropped: ShimIn = at(Hook::ShimIn, outbound(Version::V4, TCP).bytes());
    partially_modified_packet_is_dropped: Unfinished = {
        let mut case = sent();
        case.programs = Programs::cluster_with_globals(&[("OVL_FAULT", 1)]);
        case
    };
    vlan_tag_is_dropped_in_strict_network: StrictVlan =
        strict(Hook::PortIn, tagged(&outbound(Version::V4, TCP).bytes(), 0x8100));
    spoofed_arp_is_dropped_in_strict_network: StrictArp =
        strict(Hook::PortIn, arp_request(Station { ipv4: NEIGHBOUR.ipv4, ..GINDEMO1 }, GINDEMO2));
    vxlan_to_gateway_is_dropped_in_strict_network: StrictVxlan =
        strict(Hook::PortIn, Inner::new(GINDEMO1, gateway(), Version::V4, L4::Udp(5000, 4789)).bytes());
    mac_behind_another_vtep_is_dropped_in_strict_network: StrictVtep =
        strict(Hook::NicIn, from_node2().encapsulate(&Inner::new(NEIGHBOUR, GINDEMO1, Version::V4, TCP).bytes()));
    spoofed_inner_address_is_dropped_in_strict_network: StrictInnerIp = {
        let spoofed = Station { ipv4: NEIGHBOUR.ipv4, ..GINDEMO2 };
        strict(Hook::NicIn, from_node2().encapsulate(&Inner::new(spoofed, GINDEMO1, Version::V4, TCP).bytes()))
    };
    first_fragment_without_vni_is_dropped_with_strict_network: StrictFragment = {
        let outer = Outer { fragment: (0, true), ..from_node2() };
        let mut packet = outer.encapsulate(&inbound(Version::V4, TCP).bytes());
        // Eight bytes, the UDP header, is the smallest fragment payload.
        packet.truncate(42);
        packet[16..18].copy_from_slice(&28u16.to_be_bytes());
        fix_ipv4_checksum(&mut packet, 14);
        strict(Hook::NicIn, packet)
    };
    frame_with_mac_of_vxlan_device_is_passed_to_kernel: Learning = {
        let device = Station { mac: VXLAN_MAC, ..GINDEMO2 };
        at(Hook::NicIn, from_node2().encapsulate(&Inner::new(device, GINDEMO1, Version::V4, TCP).bytes()))
    };
    tcp_segments_are_passed_to_kernel_if_nic_does_not_merge: Segments =
        received(Hook::NicIn, TCP).with(|programs| {
            let underlay = Underlay::new(NODE1, NODE1_MAC, programs.nic, &[UDP_PORT]).unwrap();
            programs.underlay(Underlay { flags: flags::SEGMENTS as u16, ..underlay });
            programs.many_segments(from_node2().udp_src);
        });
}

/// gindemo1's network is strict.
fn strict(hook: Hook, packet: Vec<u8>) -> Case {
    Case { programs: Programs::strict(), hook, packet, skb: Skb::default() }
}

/// The gateway's MAC with an address outside the network.
fn gateway() -> Station {
    Station { mac: MacAddr::from_ipv4([10, 0, 1, 1]), ipv4: [192, 168, 1, 10], ..GINDEMO2 }
}

/// The packets would be forwarded with filled maps.
#[test]
fn programs_with_empty_maps_pass_everything_to_kernel() {
    let programs = Programs::empty();
    let frame = outbound(Version::V4, TCP).bytes();
    programs.run(Hook::PortIn, &frame).assert_kernel(Reason::NotAPort, &frame);
    let packet = from_node2().encapsulate(&inbound(Version::V4, UDP).bytes());
    programs.run(Hook::NicIn, &packet).assert_kernel(Reason::NotVxlan, &packet);
    programs.run(Hook::NicXdp, &packet).assert_passed_to_kernel(&packet);
}

#[test]
fn no_hook_passes_modified_packet_to_kernel() {
    let programs = Programs::cluster_with_globals(&[("OVL_FAULT", 1)]);
    for version in [Version::V4, Version::V6] {
        let frame = outbound(version, UDP).bytes();
        programs.run(Hook::PortIn, &frame).assert_dropped(Reason::Unfinished, frame.len());
        let packet = from_node2().encapsulate(&inbound(version, UDP).bytes());
        for hook in [Hook::NicIn, Hook::NicXdp] {
            programs.run(hook, &packet).assert_dropped(Reason::Unfinished, packet.len());
        }
    }
    assert_eq!(programs.vni_stats(SLOT), Traffic::default());
}

#[test]
fn deleted_mac_falls_back_to_kernel() {
    let mut programs = Programs::cluster();
    let packet = from_node2().encapsulate(&inbound(Version::V4, UDP).bytes());
    programs.run(Hook::NicIn, &packet).assert_forwarded(Reason::Decap, packet.len(), &packet[50..]);
    programs.remove_fdb(VNI, GINDEMO1.mac);
    programs.run(Hook::NicIn, &packet).assert_kernel(Reason::UnknownMac, &packet);
    programs.run(Hook::NicXdp, &packet).assert_kernel(Reason::UnknownMac, &packet);
    programs.fdb(VNI, GINDEMO1.mac, FdbEntry::local(FdbEntry::LOCAL, programs.port));
    programs.run(Hook::NicIn, &packet).assert_forwarded(Reason::Decap, packet.len(), &packet[50..]);
}
