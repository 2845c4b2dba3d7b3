//! Packets take the kernel path until it is seen that the kernel sends them as the programs would.

use std::time::Duration;

use overlay_tests::{
    lab::{
        NIC, PacketSocket,
        traffic::{Datagrams, Ping, UdpFlow, ping, tcp_transfer},
    },
    testbed::GINDEMO2,
};

use super::setup::{VALIDITY, VXLAN, World};

/// Each CPU asks for itself.
fn cpus() -> u64 {
    std::thread::available_parallelism().unwrap().get() as u64
}

#[test]
fn first_packet_proves_the_pair_and_the_next_take_the_fast_path() {
    let world = World::new();
    let (received, counts) = world.counted_pings(10);
    assert_eq!(received, 10);
    assert!((1..=cpus()).contains(&counts.unproven) && counts.encap == 10 - counts.unproven, "{counts:?}");
    assert!(counts.asked == counts.unproven && counts.proven >= 1, "{counts:?}");
    assert_eq!((counts.refuted(), counts.forged), (0, 0), "{counts:?}");
}

/// The first request takes the kernel path, the others the fast path: node02 receives the same outer headers.
#[test]
fn packets_on_both_paths_are_equal_on_the_wire() {
    let world = World::new();
    let wire = PacketSocket::open(world.testbed.lab.host(2), NIC).unwrap();
    let (received, counts) = world.counted_pings(6);
    assert!(received == 6 && counts.unproven >= 1 && counts.encap >= 6 - cpus(), "{counts:?}");
    let mut outer = Vec::new();
    wire.receive_until(Duration::from_millis(200), |mut frame| {
        // UDP to port 4789, inner ICMP echo request.
        if frame.len() > 90 && frame[23] == 17 && frame[36..38] == [0x12, 0xb5] && frame[73] == 1 && frame[84] == 8 {
            frame.truncate(50);
            // Identification, IPv4 checksum.
            frame[18..20].fill(0);
            frame[24..26].fill(0);
            outer.push(frame);
        }
        false
    })
    .unwrap();
    assert_eq!(outer.len(), 6);
    assert!(outer.iter().all(|headers| *headers == outer[0]), "{outer:x?}");
}

/// TCP has super-packets and single packets, IPv6 and DSCP are classes of their own: each is proven by a packet.
#[test]
fn classes_are_proven_one_by_one() {
    let world = World::new();
    world.testbed.add_ipv6();
    world.wait_until_proven();
    let before = world.counts();
    tcp_transfer(world.container("gindemo1"), world.testbed.first(2), GINDEMO2.into(), 20 << 20).unwrap();
    let tcp = world.counts().since(before);
    // Two classes, each on every CPU, and a renewal.
    assert!((1..=6 * cpus()).contains(&tcp.asked) && tcp.proven >= 1 && tcp.refuted() == 0, "{tcp:?}");
    assert!(tcp.encap > 10_000 && tcp.unproven < tcp.encap / 20, "{tcp:?}");
    let before = world.counts();
    let replies = ping(world.container("gindemo1"), "fd00::6".parse().unwrap(), Ping { count: 10, ..Ping::default() });
    assert!(replies.unwrap().all());
    let ipv6 = world.counts().since(before);
    assert!(ipv6.proven >= 1 && ipv6.encap >= 10 - cpus() && ipv6.refuted() == 0, "{ipv6:?}");
}

/// A steady flow: proofs are renewed with packets of the flow that take the kernel path, and no packet is lost or
/// overtakes another.
#[test]
fn proofs_are_renewed_under_traffic() {
    let world = World::new();
    world.wait_until_proven();
    let before = world.counts();
    let plan = Datagrams { count: u64::MAX, ..Datagrams::steady(2_000) };
    let (from, to) = (world.container("gindemo1"), world.testbed.first(2));
    let flow = UdpFlow::one_way(from, to, GINDEMO2.into(), plan).unwrap();
    std::thread::sleep(VALIDITY * 4);
    let report = flow.stop();
    let counts = world.counts().since(before);
    assert_eq!((report.lost(), report.reordered(), report.corrupt), (0, 0, 0), "{report:?} {counts:?}");
    assert!(counts.proven >= 4 && counts.refuted() == 0, "{counts:?}");
    assert!(counts.unproven <= 16 * cpus() && counts.encap > 1_000, "{counts:?}");
}

/// Without the exit at the NIC the programs do not ask, and packets return to the kernel path when the proof ends.
#[test]
fn proofs_end_without_a_window_and_return_with_it() {
    let mut world = World::new();
    world.wait_until_proven();
    world.close_window();
    let (received, counts) = world.counted_pings(10);
    assert_eq!((received, counts.encap, counts.asked), (10, 10, 0), "{counts:?}");
    world.outlive_proofs();
    let (received, counts) = world.counted_pings(10);
    assert_eq!((received, counts.encap, counts.asked, counts.unproven), (10, 0, 0, 10), "{counts:?}");
    world.open_window();
    world.wait_until_proven();
}

/// Filters of the clsact qdisc return "unspecified", which keeps `tc_index` too.
#[test]
fn clsact_filters_prove_like_tcx_links() {
    let mut world = World::clsact();
    let (received, counts) = world.counted_pings(10);
    assert!(received == 10 && counts.encap >= 10 - cpus() && counts.proven >= 1, "{counts:?}");
    assert_eq!((counts.refuted(), counts.forged), (0, 0), "{counts:?}");
    world.run(&format!("ip link set {VXLAN} type vxlan ttl 17"));
    world.outlive_proofs();
    let (_, counts) = world.counted_pings(8);
    assert_eq!((counts.encap, counts.unproven), (0, 8), "{counts:?}");
    world.close_window();
}
