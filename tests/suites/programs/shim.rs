//! Ports in another netns: the programs of a sandbox, and both ends of the shim.

use overlay_common::{
    Reason,
    maps::{FdbEntry, Underlay, Vtep},
};
use overlay_tests::{
    frame::{Inner, L4, Outer, Version, arp_request},
    program::{
        GINDEMO1, GINDEMO2, Hook, NEIGHBOUR, NODE1, NODE1_MAC, OTHER_UDP_PORT, Programs, SANDBOX, TC_REDIRECT,
        UDP_PORT, VNI, VTEP, assert_bytes, from_node2, inbound, outbound, to_node2,
    },
};

const TCP: L4 = L4::Tcp(35126, 80);

/// A frame as `ovl_port_in` sends it.
fn encapsulated() -> Vec<u8> {
    to_node2().encapsulate(&outbound(Version::V4, TCP).bytes())
}

/// The frame is forwarded unmodified and not counted a second time.
#[track_caller]
fn assert_forwarded_uncounted(programs: &Programs, hook: Hook, frame: &[u8]) {
    let outcome = programs.run(hook, frame);
    assert_eq!((outcome.action, outcome.counted), (TC_REDIRECT, vec![]));
    assert_bytes(&outcome.packet, frame);
}

#[test]
fn container_in_sandbox_sends_same_bytes() {
    for version in [Version::V4, Version::V6] {
        let programs = Programs::sandbox();
        let frame = outbound(version, TCP).bytes();
        let outcome = programs.run(Hook::PortIn, &frame);
        let udp_src = u16::from_be_bytes([outcome.packet[34], outcome.packet[35]]);
        outcome.assert_forwarded(Reason::Encap, frame.len(), &Outer { udp_src, ..to_node2() }.encapsulate(&frame));
    }
}

#[test]
fn same_ifindex_in_another_netns_is_another_port() {
    let frame = outbound(Version::V4, TCP).bytes();
    let other_netns = Programs::cluster_with_globals(&[("OVL_NETNS_ID", 4)]);
    other_netns.run(Hook::PortIn, &frame).assert_kernel(Reason::NotAPort, &frame);
}

#[test]
fn mac_behind_port_of_another_netns_is_unknown() {
    let mut programs = Programs::sandbox();
    let frame = Inner::new(GINDEMO1, NEIGHBOUR, Version::V4, TCP).bytes();
    programs.run(Hook::PortIn, &frame).assert_kernel(Reason::UnknownMac, &frame);
    let local = FdbEntry::local(FdbEntry::LOCAL_PEER, programs.neighbour_port);
    programs.fdb(VNI, NEIGHBOUR.mac, FdbEntry { netns_id: SANDBOX, ..local });
    programs.run(Hook::PortIn, &frame).assert_forwarded(Reason::Local, frame.len(), &frame);
}

#[test]
fn only_sandbox_program_checks_underlay_device() {
    let frame = outbound(Version::V4, TCP).bytes();
    for (mut programs, takes) in [(Programs::cluster(), true), (Programs::sandbox(), false)] {
        programs.vtep(VTEP, Vtep { ifindex: programs.other_interface, ..programs.node2() });
        let outcome = programs.run(Hook::PortIn, &frame);
        assert_eq!(outcome.action == TC_REDIRECT, takes, "{outcome:?}");
    }
}

#[test]
fn frame_for_container_in_sandbox_is_decapsulated() {
    let programs = Programs::sandbox();
    for version in [Version::V4, Version::V6] {
        let packet = from_node2().encapsulate(&inbound(version, TCP).bytes());
        programs.run(Hook::NicIn, &packet).assert_forwarded(Reason::Decap, packet.len(), &packet[50..]);
    }
}

#[test]
fn xdp_passes_port_without_devmap_key_to_tc() {
    let packet = from_node2().encapsulate(&inbound(Version::V4, L4::Udp(5000, 53)).bytes());
    Programs::sandbox().run(Hook::NicXdp, &packet).assert_kernel(Reason::XdpPort, &packet);
}

#[test]
fn encapsulated_packet_leaves_shim() {
    let programs = Programs::sandbox();
    assert_forwarded_uncounted(&programs, Hook::ShimOut, &encapsulated());
    let other_port = Outer { udp_dst: OTHER_UDP_PORT, ..to_node2() };
    assert_forwarded_uncounted(&programs, Hook::ShimOut, &other_port.encapsulate(&outbound(Version::V6, TCP).bytes()));
}

#[test]
fn only_encapsulated_packets_leave_shim() {
    let programs = Programs::sandbox();
    let changed = |at: usize, to: u8| {
        let mut frame = encapsulated();
        frame[at] = to;
        frame
    };
    for (what, frame) in [
        ("another source MAC", changed(11, 0xee)),
        ("another ethertype", changed(13, 0x06)),
        ("IP options", changed(14, 0x46)),
        ("another protocol", changed(23, 6)),
        ("another source address", changed(29, 200)),
        ("another UDP port", changed(37, 53)),
        ("ARP", arp_request(GINDEMO1, GINDEMO2)),
        ("a cut header", encapsulated()[..41].to_vec()),
    ] {
        let outcome = programs.run(Hook::ShimOut, &frame);
        assert_eq!(outcome.action, Hook::ShimOut.drop(), "{what}: {outcome:?}");
        outcome.assert_dropped(Reason::ShimOut, frame.len());
    }
    let mut other_address = Programs::sandbox();
    other_address.underlay(Underlay::new([192, 168, 1, 8], NODE1_MAC, other_address.nic, &[UDP_PORT]).unwrap());
    other_address.run(Hook::ShimOut, &encapsulated()).assert_dropped(Reason::ShimOut, encapsulated().len());
    other_address.underlay(Underlay::new(NODE1, NODE1_MAC, other_address.nic, &[UDP_PORT]).unwrap());
    assert_forwarded_uncounted(&other_address, Hook::ShimOut, &encapsulated());
}

#[test]
fn decapsulated_frame_is_delivered_behind_shim() {
    let programs = Programs::sandbox();
    for version in [Version::V4, Version::V6] {
        assert_forwarded_uncounted(&programs, Hook::ShimIn, &inbound(version, TCP).bytes());
    }
}

#[test]
fn frame_for_mac_not_behind_shim_is_dropped() {
    let mut programs = Programs::sandbox();
    let frame = inbound(Version::V4, TCP).bytes();
    let local = programs.behind_shim();
    for (what, entry) in [
        ("missing", None),
        ("behind another VTEP", Some(FdbEntry::remote(VTEP))),
        ("in another namespace", Some(FdbEntry { netns_id: SANDBOX + 1, ..local })),
        ("in the NIC's namespace", Some(FdbEntry::local(FdbEntry::LOCAL_PEER, programs.port))),
    ] {
        match entry {
            Some(entry) => programs.fdb(VNI, GINDEMO1.mac, entry),
            None => programs.remove_fdb(VNI, GINDEMO1.mac),
        }
        let outcome = programs.run(Hook::ShimIn, &frame);
        assert_eq!(outcome.action, Hook::ShimIn.drop(), "{what}: {outcome:?}");
        outcome.assert_dropped(Reason::ShimIn, frame.len());
    }
    programs.fdb(VNI, GINDEMO1.mac, local);
    assert_forwarded_uncounted(&programs, Hook::ShimIn, &frame);
}
