//! The route of outer packets: what the programs send equals what the kernel's VXLAN device sends, on the same NIC.
//!
//! In each world gindemo1 sends two frames: an IPv4 packet, which the fast path may take, and a frame of another
//! EtherType, which always takes the kernel path. Their outer headers are compared at the other ends of both NICs.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use overlay_common::Reason;
use overlay_tests::{
    check::{links, until},
    frame,
    lab::{Daemon, Flavour, Host, Lab, NIC, NetNs, PacketSocket, kernel_vxlan, private_directory},
    program::from_node2,
    testbed::Testbed,
};
use overlay_user::testing::apply::Maps;

/// The second NIC of node01. `192.168.2.1` is behind it.
pub(super) const NIC2: &str = "enp0s8";
/// EtherType for local experiments (IEEE 802): the programs pass it to the kernel.
pub(super) const OTHER: u16 = 0x88b5;
const IPV4: u16 = 0x0800;
pub(super) const GINDEMO1: [u8; 6] = [2, 0x42, 10, 0, 1, 2];
pub(super) const GINDEMO2: [u8; 6] = [2, 0x42, 10, 0, 1, 6];

/// Origin of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// From the cluster file.
    Managed,
    /// The kernel's devices, made by hand and discovered.
    Discovered,
}

/// node01 with a daemon and two NICs.
pub(super) struct World {
    pub(super) kind: Kind,
    pub(super) testbed: Testbed,
    pub(super) eth0: PacketSocket,
    pub(super) wires: [PacketSocket; 2],
    maps: Maps,
    /// Number of the last frames.
    sent: Cell<u16>,
    _other: NetNs,
}

/// An outer packet: the number of the NIC and the fields that do not depend on the inner flow.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outer {
    nic: usize,
    next_hop: [u8; 6],
    tos: u8,
    fragment: [u8; 2],
    ttl: u8,
    addresses: [u8; 8],
    port: [u8; 2],
}

/// The expected path of the IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// The fast path, by this NIC with this TTL.
    Fast(usize, u8),
    /// The kernel path; `overlay status` has a finding with these words.
    Kernel(&'static str),
}

pub(super) use Expected::{Fast, Kernel};

impl Outer {
    /// The inner EtherType, the number of the frame, and the outer fields of a VXLAN packet.
    fn read(nic: usize, packet: &[u8]) -> Option<(u16, u16, Self)> {
        const VXLAN: [u8; 2] = 4789_u16.to_be_bytes();
        let field = |at: usize, length: usize| packet.get(at..at + length);
        if field(12, 2)? != [8, 0] || *packet.get(23)? != 17 || field(36, 2)? != VXLAN {
            return None;
        }
        let number = |at| Some(u16::from_be_bytes(field(at, 2)?.try_into().ok()?));
        let (inner, id) = (number(62)?, number(68)?);
        let outer = Self {
            nic,
            next_hop: field(0, 6)?.try_into().ok()?,
            tos: *packet.get(15)?,
            fragment: field(20, 2)?.try_into().ok()?,
            ttl: *packet.get(22)?,
            addresses: field(26, 8)?.try_into().ok()?,
            port: field(36, 2)?.try_into().ok()?,
        };
        Some((inner, id, outer))
    }
}

/// An IPv4 UDP packet from gindemo1 to gindemo2 with this identification.
fn ipv4(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let header = [0x45, 0, 0, 32, high, low, 0, 0, 64, 17, 0, 0, 10, 0, 1, 2, 10, 0, 1, 6];
    // With a valid checksum, of which the programs calculate the outer one.
    let udp = [0x30, 0x39, 0, 9, 0, 12, 0xb5, 0x86, 1, 2, 3, 4];
    let mut packet = [&GINDEMO2[..], &GINDEMO1, &IPV4.to_be_bytes(), &header, &udp].concat();
    frame::fix_ipv4_checksum(&mut packet, 14);
    packet
}

fn other(id: u16) -> Vec<u8> {
    [&GINDEMO2[..], &GINDEMO1, &OTHER.to_be_bytes(), &[0; 4], &id.to_be_bytes(), &[0; 40]].concat()
}

/// node01 with the second NIC; table 100 has a route by it.
fn two_nics() -> (Testbed, NetNs) {
    let testbed = Testbed::new(Lab::two_hosts());
    let (host, other) = (testbed.lab.host(1), NetNs::anonymous("other").unwrap());
    let path = other.path().display();
    host.try_script(&format!(
        "ip link add {NIC2} mtu 1500 type veth peer name wire mtu 1500 netns {path}
        ip addr add 192.168.2.9/24 dev {NIC2}
        ip link set {NIC2} up"
    ))
    .unwrap();
    other.try_script("ip addr add 192.168.2.1/24 dev wire\nip link set wire up").unwrap();
    host.wait_for_devices().unwrap();
    other.wait_for_devices().unwrap();
    host.try_script("ip route add 192.168.1.10 via 192.168.2.1 table 100").unwrap();
    (testbed, other)
}

impl World {
    pub(super) fn new(kind: Kind) -> Self {
        let (mut testbed, other) = two_nics();
        match kind {
            Kind::Managed => testbed.start(1).unwrap(),
            Kind::Discovered => {
                let network = testbed.cluster.networks[0].name.clone();
                kernel_vxlan(testbed.lab.host(1), &testbed.cluster, &network, Flavour::Static).unwrap();
                let empty = private_directory().unwrap();
                let empty = empty.to_str().unwrap();
                testbed
                    .start_with(1, &["--discover", "--docker-socket", "/nowhere.sock", "--netns-dir", empty])
                    .unwrap();
            }
        }
        let eth0 = PacketSocket::open(testbed.first(1), "eth0").unwrap();
        Self::with(kind, testbed, eth0, other)
    }

    /// With a strict managed network.
    pub(super) fn strict() -> Self {
        let (mut testbed, other) = two_nics();
        testbed.cluster.networks[0].strict = true;
        testbed.start(1).unwrap();
        let eth0 = PacketSocket::open(testbed.first(1), "eth0").unwrap();
        Self::with(Kind::Managed, testbed, eth0, other)
    }

    fn with(kind: Kind, testbed: Testbed, eth0: PacketSocket, other: NetNs) -> Self {
        let wires =
            [PacketSocket::open(testbed.lab.host(2), NIC).unwrap(), PacketSocket::open(&other, "wire").unwrap()];
        let maps = Maps::open(&testbed.pin_root(1)).unwrap();
        let world = Self { kind, testbed, eth0, wires, maps, sent: Cell::new(0), _other: other };
        world.until("at the start", Fast(0, 64));
        world
    }

    pub(super) fn host(&self) -> &Host {
        self.testbed.lab.host(1)
    }

    pub(super) fn daemon(&self) -> &Daemon {
        self.testbed.daemon(1)
    }

    /// Sends both frames; the outer packets of the kernel's and of the programs' frame.
    fn send(&self) -> [Vec<Outer>; 2] {
        self.wires.iter().for_each(|wire| wire.drain().unwrap());
        // Packets of earlier frames can arrive late.
        let id = self.sent.get().wrapping_add(1);
        self.sent.set(id);
        self.eth0.send(&other(id)).unwrap();
        self.eth0.send(&ipv4(id)).unwrap();
        let (mut found, deadline) = ([Vec::new(), Vec::new()], Instant::now() + Duration::from_millis(50));
        for (nic, wire) in self.wires.iter().enumerate() {
            while let Some(packet) = wire.receive(deadline).unwrap() {
                match Outer::read(nic, &packet) {
                    Some((OTHER, found_id, outer)) if found_id == id => found[0].push(outer),
                    Some((IPV4, found_id, outer)) if found_id == id => found[1].push(outer),
                    _ => {}
                }
                if found.iter().all(|packets| packets.len() == 1) {
                    break;
                }
            }
        }
        found
    }

    /// Whether both frames leave as expected: `Ok(false)` if packets are missing.
    fn is(&self, expected: Expected) -> Result<bool, String> {
        let before = self.counted(Reason::Encap);
        let [kernel, programs] = self.send();
        let fast = self.counted(Reason::Encap) - before;
        let is_expected = |outer: &Outer| match expected {
            Fast(nic, ttl) => (outer.nic, outer.ttl) == (nic, ttl),
            Kernel(_) => true,
        };
        let is_path = match expected {
            Fast(..) => fast == 1,
            Kernel(words) => fast == 0 && self.problems().contains(words),
        };
        let is_right = kernel.iter().chain(&programs).all(is_expected)
            && kernel.iter().zip(&programs).all(|(kernel, programs)| kernel == programs)
            && kernel.len().max(programs.len()) <= 1;
        if is_path && is_right {
            let is_complete = matches!(expected, Kernel(_)) || !kernel.is_empty();
            return Ok(kernel.len() == programs.len() && is_complete);
        }
        Err(format!("kernel {kernel:?}, programs {programs:?}, {fast} on the fast path; {}", self.problems()))
    }

    pub(super) fn counted(&self, reason: Reason) -> u64 {
        self.maps.counters([], []).unwrap().reasons[reason as usize].1.packets
    }

    pub(super) fn problems(&self) -> String {
        let output = self.daemon().output(&["status", "--problems"]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until frames leave as expected, and checks that they go on to.
    #[track_caller]
    pub(super) fn until(&self, case: &str, expected: Expected) {
        let (start, mut right, mut last) = (Instant::now(), 0, Ok(false));
        while right < 3 && start.elapsed() < Duration::from_secs(20) && (right == 0 || last.is_ok()) {
            last = self.is(expected);
            right += usize::from(last == Ok(true));
            if last != Ok(true) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        assert!(
            right == 3,
            "{:?}, {case}: expected {expected:?}, {right} times; {last:?}\n{}",
            self.kind,
            self.daemon().log()
        );
    }

    /// Runs `ip` commands, checks the packets, and undoes the commands.
    #[track_caller]
    fn case(&self, commands: &[&str], undo: &[&str], expected: Expected) {
        commands.iter().for_each(|command| self.ip(command));
        self.until(&commands.join("; "), expected);
        undo.iter().for_each(|command| self.ip(command));
        self.until(&format!("after {}", commands.join("; ")), Fast(0, 64));
    }

    /// Runs `ip` commands, each of which moves the packets to a NIC. The fastest change takes less than the interval
    /// between two periodic reads, 5 s: by an event.
    #[track_caller]
    fn follows_by_event(&self, commands: [(&str, usize); 3]) {
        let changes = commands.map(|(command, nic)| {
            let start = Instant::now();
            self.ip(command);
            self.until(command, Fast(nic, 64));
            start.elapsed()
        });
        assert!(changes.iter().any(|change| *change < Duration::from_millis(2500)), "{commands:?}: {changes:?}");
    }

    fn ip(&self, command: &str) {
        let words: Vec<_> = ["ip"].into_iter().chain(command.split_whitespace()).collect();
        self.host().run(&words);
    }
}

pub(super) fn for_both(test: impl Fn(&World)) {
    for kind in [Kind::Managed, Kind::Discovered] {
        test(&World::new(kind));
    }
}

#[test]
fn routing_rules_are_evaluated_as_the_kernel_does() {
    for_both(|world| {
        for (rule, expected) in [
            ("from 192.168.1.9 lookup 100", Fast(1, 64)),
            ("from 192.168.2.9 lookup 100", Fast(0, 64)),
            ("ipproto udp dport 4789 lookup 100", Fast(1, 64)),
            ("dport 4790 lookup 100", Fast(0, 64)),
            ("uidrange 0-0 lookup 100", Fast(1, 64)),
            ("uidrange 1-65535 lookup 100", Fast(0, 64)),
            ("not fwmark 1 lookup 100", Fast(1, 64)),
            ("fwmark 1 lookup 100", Fast(0, 64)),
            ("iif lo lookup 100", Fast(1, 64)),
            // The device is bound to it, and does not ask with it.
            ("oif enp0s3 lookup 100", Fast(0, 64)),
            ("tos 0x10 lookup 100", Fast(0, 64)),
            ("sport 40000-50000 lookup 100", Kernel("the routing rule 99 selects by the source ports 40000 to 50000")),
            ("sport 1-1000 lookup 100", Fast(0, 64)),
            ("from 192.168.1.9 prohibit", Kernel("VTEP 192.168.1.10: its route or rule is \"prohibit\"")),
            ("from 192.168.1.9 blackhole", Kernel("its route or rule is \"blackhole\"")),
            ("from 192.168.1.9 unreachable", Kernel("there is no route to it")),
        ] {
            world.case(&[&format!("rule add {rule} pref 99")], &["rule del pref 99"], expected);
        }
        world.case(
            &["rule add from 192.168.1.9 goto 99 pref 98", "rule add lookup 100 pref 99"],
            &["rule del pref 98", "rule del pref 99"],
            Fast(1, 64),
        );
        world.case(
            &[
                "rule add lookup 100 suppress_prefixlength 31 pref 98",
                "rule add lookup 100 suppress_prefixlength 32 pref 99",
            ],
            &["rule del pref 98", "rule del pref 99"],
            Fast(1, 64),
        );
        let add = ("rule add from 192.168.1.9 lookup 100 pref 99", 1);
        world.follows_by_event([add, ("rule del pref 99", 0), add]);
    });
}

#[test]
fn routes_are_read_whole() {
    for_both(|world| {
        // The VXLAN device of a managed network has a TTL.
        let ttl = |hop_limit| if world.kind == Kind::Managed { 64 } else { hop_limit };
        world.ip("-6 neigh replace fe80::1 lladdr 02:00:00:00:00:01 dev enp0s8 nud permanent");
        for (route, expected) in [
            // Another device than the one that the VXLAN device is bound to.
            ("192.168.1.10 via 192.168.2.1", Fast(1, 64)),
            ("192.168.1.10 via 192.168.2.1 hoplimit 33 mtu lock 1400 rtt 3", Fast(1, ttl(33))),
            ("192.168.1.10 dev enp0s3 hoplimit 255", Fast(0, ttl(255))),
            ("192.168.1.10 via inet6 fe80::1 dev enp0s8", Kernel("its gateway is an IPv6 address")),
            ("192.168.1.10 via 192.168.2.1 realm 5", Kernel("its route has a realm")),
            (
                "192.168.1.10 via 192.168.7.1 dev enp0s8 onlink",
                Kernel("its next hop 192.168.7.1 on enp0s8 does not answer ARP"),
            ),
            ("blackhole 192.168.1.10", Kernel("its route or rule is \"blackhole\"")),
            ("unreachable 192.168.1.10", Kernel("VTEP 192.168.1.10")),
            ("prohibit 192.168.1.10", Kernel("its route or rule is \"prohibit\"")),
            ("192.168.1.10 dev ovltest", Kernel("its route uses ovltest, a device of the kind vxlan")),
        ] {
            world.ip("link add ovltest type vxlan id 9 dstport 8472 local 192.168.1.9");
            world.ip("link set ovltest up");
            world.case(&[&format!("route replace {route}")], &["route del 192.168.1.10"], expected);
            world.ip("link del ovltest");
        }
    });
}

#[test]
fn multipath_route_and_nexthop_objects_are_followed() {
    for_both(|world| {
        let host = world.host();
        let both = "route replace 192.168.1.10 nexthop dev enp0s3 weight 1 nexthop via 192.168.2.1 weight 200";
        let del = "route del 192.168.1.10";
        // The kernel selects by the addresses, which are the same for all packets to a VTEP.
        world.ip(both);
        let [kernel, _] = world.send();
        let nic = kernel[0].nic;
        world.until(both, Fast(nic, 64));
        let sysctl = match world.kind {
            Kind::Managed => "fib_multipath_hash_policy",
            Kind::Discovered => "fib_multipath_use_neigh",
        };
        host.sysctl(&format!("net.ipv4.{sysctl}"), "1").unwrap();
        // A sysctl has no event; the daemon reads it at least every 5 s.
        world.until(sysctl, Kernel(sysctl));
        host.sysctl(&format!("net.ipv4.{sysctl}"), "0").unwrap();
        world.until(both, Fast(nic, 64));
        world.ip(del);
        for mode in ["1", "0"] {
            host.sysctl("net.ipv4.nexthop_compat_mode", mode).unwrap();
            world.ip("nexthop replace id 1 dev enp0s3");
            world.ip("nexthop replace id 2 via 192.168.2.1 dev enp0s8");
            world.ip("nexthop replace id 10 group 1/2");
            world.ip("route replace 192.168.1.10 nhid 1");
            world.until("nhid 1", Fast(0, 64));
            let second = ("nexthop replace id 1 via 192.168.2.1 dev enp0s8", 1);
            world.follows_by_event([second, ("nexthop replace id 1 dev enp0s3", 0), second]);
            world.ip("route replace 192.168.1.10 nhid 10");
            world.until("nhid 10", Kernel("its route uses the nexthop group 10"));
            world.ip("nexthop replace id 3 blackhole");
            world.ip("route replace 192.168.1.10 nhid 3");
            world.until("nhid 3", Kernel("VTEP 192.168.1.10"));
            world.ip("route del 192.168.1.10");
            world.until("without a nexthop object", Fast(0, 64));
            world.ip("nexthop flush");
        }
    });
}

/// The second network's device has no `local`, so that a rule by source address does not apply to it. One entry of
/// `OVL_VTEPS` cannot have both routes.
#[test]
fn network_with_another_route_to_a_vtep_takes_the_kernel_path() {
    let mut world = World::new(Kind::Discovered);
    let second = NetNs::anonymous("second").unwrap();
    let path = second.path().display();
    world
        .host()
        .try_script(&format!(
            "ip link add br-2 mtu 1450 type bridge
            ip link add vx-2 mtu 1450 type vxlan id 4098 dstport 4789 nolearning
            ip link set vx-2 master br-2 up
            ip link set br-2 up
            bridge fdb add 02:42:0a:00:01:06 dev vx-2 dst 192.168.1.10 self permanent
            ip link add p-2 mtu 1450 type veth peer name eth0 mtu 1450 address 02:42:0a:00:01:02 netns {path}
            ip link set p-2 master br-2 up"
        ))
        .unwrap();
    second.try_script("ip link set eth0 up").unwrap();
    second.wait_for_devices().unwrap();
    let first = std::mem::replace(&mut world.eth0, PacketSocket::open(&second, "eth0").unwrap());
    world.until("the second network", Fast(0, 64));
    world.ip("rule add from 192.168.1.9 lookup 100 pref 99");
    world.until(
        "the second network with a rule",
        Kernel("VNI 4098 VTEP 192.168.1.10: its packets do not take the route"),
    );
    let [kernel, _] = world.send();
    assert_eq!(kernel[0].nic, 0);
    world.eth0 = first;
    world.until("the first network with a rule", Fast(1, 64));
    world.ip("rule del pref 99");
    world.until("the first network", Fast(0, 64));
}

/// A packet that keeps its mark: the port's other end is in the same namespace.
#[test]
fn marked_packet_is_routed_by_the_kernel() {
    let (mut testbed, other) = two_nics();
    let host = testbed.lab.host(1);
    host.plug("port", host, "10.9.9.9/32", "02:42:0a:00:01:02", 1450).unwrap();
    host.try_script("ip rule add fwmark 7 lookup 100").unwrap();
    for endpoint in testbed.cluster.endpoints.iter_mut().filter(|endpoint| endpoint.host == "node01") {
        (endpoint.netns, endpoint.port) = (None, Some("port".to_owned()));
    }
    testbed.start(1).unwrap();
    let eth0 = PacketSocket::open(testbed.lab.host(1), "eth0").unwrap();
    let world = World::with(Kind::Managed, testbed, eth0, other);
    world.eth0.set_mark(7).unwrap();
    let before = world.counted(Reason::Mark);
    for _ in 0..5 {
        let [kernel, programs] = world.send();
        assert_eq!((kernel.len(), kernel[0].nic, &programs), (1, 1, &kernel));
    }
    assert_eq!(world.counted(Reason::Mark) - before, 5);
    world.eth0.set_mark(0).unwrap();
    world.until("without a mark", Fast(0, 64));
}

/// The number of the five VXLAN packets from node02 with this inner frame that reach gindemo1.
pub(super) fn received_of(world: &World, inner: &[u8]) -> usize {
    let mac = |host: &NetNs| {
        let nic = links(host).into_iter().find(|link| link["ifname"] == NIC).expect("a NIC");
        nic["address"].as_str().unwrap().parse().unwrap()
    };
    let (eth_dst, eth_src) = (mac(world.host()), mac(world.testbed.lab.host(2)));
    let packet = frame::Outer { eth_dst, eth_src, ..from_node2() }.encapsulate(inner);
    world.eth0.drain().unwrap();
    for _ in 0..5 {
        world.wires[0].send(&packet).unwrap();
    }
    let mut count = 0;
    let is_last = |frame: Vec<u8>| {
        count += usize::from(frame == inner);
        count == 5
    };
    world.eth0.receive_until(Duration::from_millis(100), is_last).unwrap();
    count
}

/// [`received_of`] with an IPv4 packet, which the fast path may take.
pub(super) fn received(world: &World) -> usize {
    let mut inner = ipv4(1);
    inner[..12].copy_from_slice(&[GINDEMO1, GINDEMO2].concat());
    inner[26..34].copy_from_slice(&[10, 0, 1, 6, 10, 0, 1, 2]);
    frame::fix_ipv4_checksum(&mut inner, 14);
    received_of(world, &inner)
}

/// As with a failover: the kernel no longer receives packets to the address, nor sends from it.
#[test]
fn nothing_is_sent_or_received_while_the_address_is_missing() {
    for_both(|world| {
        assert_eq!(received(world), 5);
        // Without the address, the kernel receives nothing. On another device it receives from any NIC, and sends.
        for (device, received_by_kernel, sent_by_programs) in
            [(None, 0, false), (Some("enp0s8"), 5, true), (Some("lo"), 5, false)]
        {
            world.ip("addr del 192.168.1.9/24 dev enp0s3");
            world.ip("addr add 192.168.1.77/24 dev enp0s3");
            if let Some(device) = device {
                world.ip(&format!("addr add 192.168.1.9/32 dev {device}"));
            }
            let fast = || [Reason::Encap, Reason::Decap].map(|reason| world.counted(reason));
            until(&format!("{:?}: the kernel's path with the address on {device:?}", world.kind), || {
                let before = fast();
                let [kernel, programs] = world.send();
                let is_received = received(world) == received_by_kernel;
                let after = fast();
                let is_fast = [0, 1].map(|index| after[index] > before[index]);
                kernel == programs && is_received && is_fast == [sent_by_programs, false]
            });
            if let Some(device) = device {
                world.ip(&format!("addr del 192.168.1.9/32 dev {device}"));
            }
            world.ip("addr del 192.168.1.77/24 dev enp0s3");
            world.ip("addr add 192.168.1.9/24 dev enp0s3");
            world.until("the address is back", Fast(0, 64));
            let before = world.counted(Reason::Decap);
            assert_eq!(received(world), 5);
            assert_eq!(world.counted(Reason::Decap), before + 5);
        }
    });
}

/// The bridge receives the packets of its ports: while it is down, the kernel drops them.
#[test]
fn nothing_is_received_while_the_underlay_device_is_in_a_bridge() {
    for_both(|world| {
        world.ip("link add br-uplink type bridge");
        for (state, received_by_kernel) in [("down", 0), ("up", 5)] {
            world.ip(&format!("link set br-uplink {state}"));
            world.ip("link set enp0s3 master br-uplink");
            until(&format!("{:?}: the kernel's path with a bridge that is {state}", world.kind), || {
                let before = world.counted(Reason::Decap);
                received(world) == received_by_kernel
                    && world.counted(Reason::Decap) == before
                    && world.problems().contains("is on enp0s3, a port of br-uplink, which receives its packets")
            });
            world.ip("link set enp0s3 nomaster");
            world.until("the device has no master", Fast(0, 64));
        }
    });
}
