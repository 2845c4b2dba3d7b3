//! Attempts to have a claim proven that the kernel does not carry out: cookies of a container, of two containers
//! together, and floods of questions.
//!
//! In all of them the kernel drops gindemo1's frames: its port and the VXLAN device are isolated.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use overlay_common::proof::Cookie;
use overlay_tests::{
    check::until,
    frame::{Inner, L4, Station, Version},
    lab::{
        NetNs, PacketSocket,
        traffic::{Cpus, pin},
    },
    testbed::{GINDEMO1, GINDEMO2},
};

use super::setup::{BRIDGE, VALIDITY, VXLAN, World};

/// Isolates gindemo1's port, and waits until no proof is left.
fn cut_off(world: &World) {
    world.run(&format!(
        "bridge link set dev {} isolated on\nbridge link set dev {VXLAN} isolated on",
        world.port("gindemo1")
    ));
    world.outlive_proofs();
    assert_eq!(world.counted_pings(2).1.encap, 0);
}

/// Gives all IPv4 packets that a device sends this `tc_index`: a clsact filter's class, as any process with
/// `CAP_NET_ADMIN` in a container can.
fn set_tc_index(ns: &NetNs, device: &str, value: u32) {
    ns.run(&["tc", "qdisc", "replace", "dev", device, "clsact"]);
    ns.run(&["tc", "filter", "del", "dev", device, "egress"]);
    let class = format!("1:{value:x}");
    let words = ["tc", "filter", "add", "dev", device, "egress", "protocol", "ip", "u32", "match", "u32", "0", "0"];
    ns.run(&[words.as_slice(), &["classid", &class]].concat());
}

/// A control: the container's cookie arrives at the exit where the program at the port does not overwrite it.
#[test]
fn cookie_of_a_container_passes_the_ordinary_program() {
    let world = World::ordinary();
    let before = world.counts();
    set_tc_index(world.container("gindemo1"), "eth0", Cookie::new(0, 1).get());
    send_unknown(&world);
    assert!(world.counts().since(before).forged >= 1, "{:?}", world.counts());
}

/// The same with the program under test: it overwrites the cookie of every packet that it passes on.
#[test]
fn cookie_of_a_container_is_overwritten() {
    let world = World::new();
    let before = world.counts();
    for cookie in [Cookie::new(0, 1), Cookie::new(0, 1).bridged()] {
        set_tc_index(world.container("gindemo1"), "eth0", cookie.get());
        send_unknown(&world);
    }
    assert_eq!(world.counts().since(before).forged, 0);
}

/// Sends an IPv4 frame to a MAC address that the maps do not have: the bridge floods it, to the VXLAN device too.
fn send_unknown(world: &World) {
    let to = Station { mac: overlay_common::MacAddr([2, 2, 2, 2, 2, 2]), ..Station::container(GINDEMO2.octets()) };
    let frame = Inner::new(Station::container(GINDEMO1.octets()), to, Version::V4, L4::Udp(40_000, 9)).bytes();
    let socket = PacketSocket::open(world.container("gindemo1"), "eth0").unwrap();
    (0..4).for_each(|_| socket.send(&frame).unwrap());
}

/// The container's packets have the cookie of its own open question, in both stages.
#[test]
fn container_with_the_cookie_of_its_question_proves_nothing() {
    let world = World::new();
    cut_off(&world);
    let before = world.counts();
    for bridged in [false, true, false, true] {
        std::thread::sleep(VALIDITY / 8);
        world.pings("gindemo1", 1);
        for cookie in world.open_cookies().into_iter().filter_map(Cookie::read) {
            let cookie = if bridged { cookie.bridged() } else { cookie };
            set_tc_index(world.container("gindemo1"), "eth0", cookie.get());
            world.pings("gindemo1", 2);
        }
    }
    let counts = world.counts().since(before);
    assert_eq!((counts.proven, counts.encap, counts.forged), (0, 0, 0), "{counts:?}");
    assert!(counts.asked >= 1, "{counts:?}");
}

/// A datagram from gindemo1 to gindemo2.
fn frame() -> Vec<u8> {
    let [from, to] = [GINDEMO1, GINDEMO2].map(|address| Station::container(address.octets()));
    Inner::new(from, to, Version::V4, L4::Udp(40_000, 9)).payload(b"the same").bytes()
}

/// An accomplice on the same bridge, at a port that overlay does not know, sends the same frame with the cookie of
/// gindemo1's open question. The kernel sends it to node02: only the ingress device differs.
#[test]
fn accomplice_on_the_bridge_proves_nothing() {
    let world = World::new();
    cut_off(&world);
    let accomplice = NetNs::anonymous("accomplice").unwrap();
    world.host().plug("accomplice", &accomplice, "10.0.1.99/24", "02:42:0a:00:01:63", 1450).unwrap();
    world.run(&format!("ip link set accomplice master {BRIDGE}"));
    let frame = frame();
    let asks = PacketSocket::open(world.container("gindemo1"), "eth0").unwrap();
    let answers = PacketSocket::open(&accomplice, "eth0").unwrap();
    let before = world.counts();
    pin(Cpus::two().client);
    for _ in 0..8 {
        let question = world.counts().asked;
        until("gindemo1 asks", || {
            asks.send(&frame).unwrap();
            world.counts().asked > question
        });
        let cookies = world.open_cookies();
        assert!(!cookies.is_empty());
        for cookie in cookies.into_iter().flat_map(|cookie| [cookie, Cookie::read(cookie).unwrap().bridged().get()]) {
            set_tc_index(&accomplice, "eth0", cookie);
            answers.send(&frame).unwrap();
        }
        // The judgement.
        asks.send(&frame).unwrap();
    }
    let counts = world.counts().since(before);
    assert_eq!((counts.proven, counts.encap), (0, 0), "{counts:?}");
    assert!(counts.unanswered >= 8 && counts.forged >= 16, "{counts:?}");
}

/// An accomplice in another tunnel of the host, which overlay does not know: encapsulation clears the ingress interface,
/// and the accomplice has set the bit of the exit at the VXLAN device itself. Its packets are no answers: they neither
/// prove a claim nor end a proof.
#[test]
fn accomplice_in_another_tunnel_is_not_heard() {
    let world = World::new();
    let accomplice = NetNs::anonymous("accomplice").unwrap();
    world.host().plug("accomplice", &accomplice, "10.0.1.99/24", "02:42:0a:00:01:63", 1450).unwrap();
    world.run(
        "ip link add other0 type vxlan id 5000 dstport 4789 local 192.168.1.9 remote 192.168.1.10
        ip link add otherbr type bridge
        ip link set accomplice master otherbr
        ip link set other0 master otherbr
        ip link set otherbr up
        ip link set other0 up",
    );
    let frame = frame();
    let asks = PacketSocket::open(world.container("gindemo1"), "eth0").unwrap();
    let answers = PacketSocket::open(&accomplice, "eth0").unwrap();
    pin(Cpus::two().client);
    let before = world.counts();
    asks.send(&frame).unwrap();
    let cookies = world.open_cookies();
    assert!(!cookies.is_empty());
    for cookie in cookies {
        set_tc_index(&accomplice, "eth0", Cookie::read(cookie).unwrap().bridged().get());
        (0..3).for_each(|_| answers.send(&frame).unwrap());
    }
    asks.send(&frame).unwrap();
    let counts = world.counts().since(before);
    assert_eq!((counts.proven, counts.refuted(), counts.encap), (1, 0, 1), "{counts:?}");
    assert!(counts.forged >= 3, "{counts:?}");
}

/// Questions of one container do not keep another one from being proven: each question judges the one before.
#[test]
fn flood_of_questions_does_not_keep_others_unproven() {
    let world = World::new();
    cut_off(&world);
    let flooder = world.container("gindemo1").clone();
    let before = world.counts();
    let end = Instant::now() + VALIDITY * 2;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            flooder.enter(|| {
                pin(Cpus::two().client);
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                while Instant::now() < end {
                    _ = socket.send_to(b"flood", SocketAddr::from((GINDEMO2, 9)));
                }
            });
        });
        until("the other container is proven", || {
            let before = world.counts().encap;
            world.pings("gindemo3", 10) == 10 && world.counts().encap - before >= 9
        });
        assert!(Instant::now() < end + Duration::from_secs(10));
    });
    let counts = world.counts().since(before);
    println!("{counts:?}");
    assert!(counts.unproven > 1_000 && counts.unanswered >= 1 && counts.proven >= 1, "{counts:?}");
}
