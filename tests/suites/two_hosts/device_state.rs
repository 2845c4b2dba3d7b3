//! Device state: each option is set to another value, and the packets that arrive in the containers are compared with
//! those of the kernel alone. The daemon keeps the network accelerated, or refuses the network or the port by name.
//!
//! Needs root. gindemo1 and gindemo3 are on node01, which has the daemon; gindemo2 is on node02, which has none.

use std::{
    io::Read as _,
    time::{Duration, Instant},
};

use overlay_common::Reason;
use overlay_tests::{
    check::until,
    frame::{Inner, L4, Station, Version},
    lab::{Flavour, Host, Lab, NetNs, Offload, OffloadSocket, kernel_vxlan, private_directory},
    testbed::Testbed,
};
use overlay_user::testing::apply::Maps;

const STATIONS: [Station; 3] =
    [Station::container([10, 0, 1, 2]), Station::container([10, 0, 1, 6]), Station::container([10, 0, 1, 3])];
/// Ports of the bridge on node01: of gindemo1, and of the VXLAN device.
const PORT: &str = "p-4097-0";
const VXLAN: &str = "vx-4097";
/// Payload of a segment, in bytes.
const SEGMENT: usize = 1000;
/// Time in which packets arrive.
const ARRIVAL: Duration = Duration::from_millis(60);

/// The path of the packets of gindemo1, and of gindemo3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// All packets take the fast path.
    Fast,
    /// The network takes the kernel path: `overlay status` has a problem with these words.
    Network(&'static str),
    /// gindemo1's port takes the kernel path, gindemo3's does not.
    Port(&'static str),
    /// gindemo3's port takes the kernel path, gindemo1's does not.
    Other(&'static str),
    /// Both ports take the kernel path.
    Ports(&'static str),
}

use Expected::{Fast, Network, Other, Port, Ports};

/// One option with another value.
struct Case {
    /// Commands on node01; `c ` at the start: in gindemo1's container.
    set: Vec<String>,
    undo: Vec<String>,
    expected: Expected,
}

fn case(set: &str, undo: &str, expected: Expected) -> Case {
    let lines = |text: &str| -> Vec<String> {
        text.split(';').map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    };
    Case { set: lines(set), undo: lines(undo), expected }
}

/// What arrived: receiver, GSO type and size, and bytes of each frame.
type Arrived = Vec<(usize, u8, u16, Vec<u8>)>;

struct World {
    testbed: Testbed,
    eth0: [OffloadSocket; 3],
}

impl World {
    fn new() -> Self {
        let lab = Lab::builder(2).container(1, "gindemo3", [10, 0, 1, 3].into()).build().unwrap();
        let testbed = Testbed::new(lab);
        let network = testbed.cluster.networks[0].name.clone();
        for host in [1, 2] {
            let host = testbed.lab.host(host);
            kernel_vxlan(host, &testbed.cluster, &network, Flavour::Static).unwrap();
            // Otherwise the packets depend on what the bridge has learned before.
            host.try_script("sysctl -qw net.ipv6.conf.all.disable_ipv6=1").unwrap();
        }
        let [one, two, three] = STATIONS.map(|station| station.mac);
        let entry = |mac, port: &str| format!("bridge fdb replace {mac} dev {port} master static\n");
        let here = entry(one, PORT) + &entry(three, "p-4097-1") + &entry(two, VXLAN);
        testbed.lab.host(1).try_script(&here).unwrap();
        let there = entry(two, PORT) + &entry(one, VXLAN) + &entry(three, VXLAN);
        testbed.lab.host(2).try_script(&there).unwrap();
        Self::with(testbed)
    }

    fn with(testbed: Testbed) -> Self {
        let containers = testbed.lab.host(1).containers();
        let containers = [&containers[0], testbed.first(2), &containers[1]];
        for container in containers {
            // Its stack answers nothing.
            let address = container.ip().to_string();
            container.run(&["ip", "route", "del", "local", &address, "dev", "eth0", "table", "local"]);
        }
        let eth0 = containers.map(|container| OffloadSocket::open(container, "eth0").unwrap());
        Self { testbed, eth0 }
    }

    fn host(&self) -> &Host {
        self.testbed.lab.host(1)
    }

    fn run(&self, commands: &[String]) {
        for command in commands {
            let (netns, command): (&NetNs, _) = match command.strip_prefix("c ") {
                Some(command) => (&self.host().containers()[0], command),
                None => (self.host(), command.as_str()),
            };
            let words: Vec<_> = command.split_whitespace().collect();
            match words[..] {
                ["raw", device, nest, number, bytes] => raw(netns, (device, nest, number, bytes)),
                ["await", device, state] => {
                    let is_state = || netns.run(&["bridge", "link", "show", "dev", device]).contains(state);
                    until(command, is_state);
                }
                _ => _ = netns.run(&words),
            }
        }
    }

    /// Sends a packet and a super-packet between gindemo1 and each other container, and from gindemo3 to gindemo2.
    fn send(&self) -> Arrived {
        self.eth0.iter().for_each(|eth0| eth0.drain().unwrap());
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (2, 1)] {
            for (offload, frame) in frames(STATIONS[from], STATIONS[to]) {
                // A device that is down sends nothing.
                let _ = self.eth0[from].send(offload, &frame);
            }
        }
        let (mut arrived, deadline) = (Arrived::new(), Instant::now() + ARRIVAL);
        for (number, eth0) in self.eth0.iter().enumerate() {
            let timeout = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let take = |offload: Offload, mut frame: Vec<u8>| {
                let is_ours = STATIONS.iter().any(|station| frame.get(6..12) == Some(&station.mac.0[..]));
                if is_ours && frame[12..14] == [8, 0] {
                    if offload.flags & Offload::NEEDS_CHECKSUM != 0 {
                        // Left to the container, as the kernel does.
                        let at = usize::from(offload.csum_start + offload.csum_offset);
                        frame[at..at + 2].fill(0);
                    }
                    arrived.push((number, offload.gso_type, offload.gso_size, frame));
                }
                false
            };
            // A device that is down has an error.
            let _ = eth0.receive_until(timeout, take);
        }
        arrived.sort();
        arrived
    }

    /// What arrives with the kernel alone: the first result that is equal to the one before it, because a packet can
    /// arrive late on a busy machine.
    fn kernel(&self, case: &Case) -> Arrived {
        self.run(&case.set);
        std::thread::sleep(Duration::from_millis(20));
        let mut arrived = self.send();
        until("two equal results with the kernel alone", || {
            let next = self.send();
            let is_equal = next == arrived;
            arrived = next;
            is_equal
        });
        self.run(&case.undo);
        arrived
    }

    fn counters(&self) -> [u64; 3] {
        let maps = Maps::open(&self.testbed.pin_root(1)).unwrap();
        let reasons = maps.counters([], []).unwrap().reasons;
        [Reason::Encap, Reason::Decap, Reason::Local].map(|reason| reasons[reason as usize].1.packets)
    }

    fn problems(&self) -> String {
        let output = self.testbed.daemon(1).output(&["status", "--problems"]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether the packets take the expected path and arrive as with the kernel alone.
    fn is(&self, expected: Expected, alone: Option<&Arrived>) -> Result<(), String> {
        let before = self.counters();
        let arrived = self.send();
        let after = self.counters();
        let counts: Vec<u64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        let (packets, problems) = (1 + 3, self.problems());
        let is_harmless = |line: &str| line == "no problems" || line.starts_with("docker: ");
        let is_path = match expected {
            // There is no Docker.
            Fast => counts == [2 * packets, packets, 2 * packets] && problems.lines().all(is_harmless),
            Network(words) | Ports(words) => counts == [0; 3] && problems.contains(words),
            Port(words) => counts == [packets, 0, 0] && problems.contains(words),
            Other(words) => counts == [packets, packets, 0] && problems.contains(words),
        };
        if is_path && alone.is_none_or(|alone| arrived == *alone) {
            return Ok(());
        }
        let text = |arrived: &Arrived| {
            let lines = arrived.iter().map(|(to, kind, size, frame)| format!("{to}:{kind}:{size}:{}", frame.len()));
            lines.collect::<Vec<_>>().join(" ")
        };
        let alone = alone.map(text);
        Err(format!("counted {counts:?}\nkernel {alone:?}\nfound  {}\n{problems}", text(&arrived)))
    }

    #[track_caller]
    fn until(&self, what: &str, expected: Expected, alone: Option<&Arrived>) {
        let (start, mut last) = (Instant::now(), Err(String::new()));
        while last.is_err() && start.elapsed() < Duration::from_secs(30) {
            last = self.is(expected, alone);
            if last.is_err() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if let Err(error) = last {
            panic!("{what}: expected {expected:?}\n{error}\n{}", self.testbed.daemon(1).log());
        }
    }

    /// Runs the cases with the kernel alone, and again with the daemon.
    #[track_caller]
    fn compare(mut self, cases: &[Case]) {
        let unchanged = case("", "", Fast);
        // ARP of the containers' own stacks, and the first flood.
        self.send();
        let plain = self.kernel(&unchanged);
        assert_eq!(plain.len(), 10, "{plain:?}");
        let alone: Vec<Arrived> = cases.iter().map(|case| self.kernel(case)).collect();
        assert_eq!(self.kernel(&unchanged), plain, "an option was not undone");
        self.discover(&plain);
        for (case, alone) in cases.iter().zip(&alone) {
            self.with_daemon(case, alone);
        }
    }

    #[track_caller]
    fn discover(&mut self, plain: &Arrived) {
        let empty = private_directory().unwrap();
        let arguments = ["--discover", "--docker-socket", "/nowhere.sock", "--netns-dir", empty.to_str().unwrap()];
        self.testbed.start_with(1, &arguments).unwrap();
        self.until("at the start", Fast, Some(plain));
    }

    #[track_caller]
    fn with_daemon(&self, case: &Case, alone: &Arrived) {
        let what = case.set.join("; ");
        self.run(&case.set);
        self.until(&what, case.expected, Some(alone));
        self.run(&case.undo);
        self.until(&format!("after {what}"), Fast, None);
    }

    /// The devices of a managed network, with daemons on both hosts: `port` of gindemo1 is its owner's.
    fn managed() -> Self {
        let lab = Lab::builder(2).container(1, "gindemo3", [10, 0, 1, 3].into()).build().unwrap();
        let mut testbed = Testbed::new(lab);
        let entry = testbed.cluster.endpoints.iter_mut().find(|endpoint| endpoint.name == "gindemo1").unwrap();
        (entry.netns, entry.port) = (None, Some(PORT.to_owned()));
        let host = testbed.lab.host(1);
        host.plug(PORT, &host.containers()[0], "10.0.1.2/24", &STATIONS[0].mac.to_string(), 1450).unwrap();
        testbed.start(1).unwrap();
        testbed.start(2).unwrap();
        testbed.wait_until_resolved().unwrap();
        Self::with(testbed)
    }

    /// Runs the cases with the kernel alone, whose devices are overlay's without the programs, and again with the
    /// daemon.
    #[track_caller]
    fn compare_managed(mut self, cases: &[Case]) {
        self.until("at the start", Fast, None);
        self.testbed.daemon_mut(1).sigterm().unwrap();
        for link in std::fs::read_dir(self.testbed.pin_root(1).join("links")).unwrap() {
            std::fs::remove_file(link.unwrap().path()).unwrap();
        }
        // The kernel frees a link later.
        until("the programs are detached", || {
            let before = self.counters();
            self.send();
            self.counters() == before
        });
        let before = self.counters();
        let alone: Vec<Arrived> = cases.iter().map(|case| self.kernel(case)).collect();
        assert_eq!(self.counters(), before, "the programs are still attached");
        self.testbed.daemon_mut(1).restart().unwrap();
        self.until("after a restart", Fast, None);
        for (case, alone) in cases.iter().zip(&alone) {
            self.with_daemon(case, alone);
        }
    }
}

/// A UDP packet, and a TCP super-packet of three segments whose checksums are left to the devices.
fn frames(from: Station, to: Station) -> [(Offload, Vec<u8>); 2] {
    let udp = Inner::new(from, to, Version::V4, L4::Udp(5000, 5001)).bytes();
    let tcp = Inner::new(from, to, Version::V4, L4::Tcp(5000, 5001)).payload(&[7; 3 * SEGMENT]).bytes();
    let header = 14 + 20 + 20;
    let offload = Offload {
        flags: Offload::NEEDS_CHECKSUM,
        gso_type: Offload::TCP_V4,
        hdr_len: header,
        gso_size: SEGMENT as u16,
        csum_start: 14 + 20,
        csum_offset: 16,
    };
    let mut tcp = tcp;
    let length = (tcp.len() - 14 - 20) as u16;
    // The pseudo header's sum, not complemented.
    let words = tcp[26..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>() + 6 + u32::from(length);
    let sum = (sum & 0xffff) + (sum >> 16);
    tcp[14 + 20 + 16..14 + 20 + 18].copy_from_slice(&((sum & 0xffff) as u16 + (sum >> 16) as u16).to_be_bytes());
    [(Offload::default(), udp), (offload, tcp)]
}

/// Sets an attribute that the installed iproute2 does not have: device; nest, which is `port` or the kind of the device;
/// number; bytes in hexadecimal.
fn raw(netns: &NetNs, attribute: (&str, &str, &str, &str)) {
    let (device, nest, number, bytes) = attribute;
    let bytes: Vec<u8> =
        (0..bytes.len() / 2).map(|at| u8::from_str_radix(&bytes[2 * at..2 * at + 2], 16).unwrap()).collect();
    let nla = |kind: u16, value: &[u8]| {
        let mut nla = [&(4 + value.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        nla.resize(nla.len().next_multiple_of(4), 0);
        nla
    };
    let value = nla(number.parse().unwrap(), &bytes);
    let kind = format!("{}\0", if nest == "port" { "bridge" } else { nest });
    // IFLA_INFO_SLAVE_KIND and _DATA, or IFLA_INFO_KIND and _DATA.
    let (kind_number, data) = if nest == "port" { (4, 5) } else { (1, 2) };
    let info = [nla(kind_number, kind.as_bytes()), nla(data, &value)].concat();
    let listed = netns.run(&["ip", "-o", "link", "show", "dev", device]);
    let index: u32 = listed.split(':').next().unwrap().parse().unwrap();
    let body = [&[0; 4][..], &index.to_ne_bytes(), &[0; 8], &nla(18, &info)].concat();
    let length = 16 + body.len() as u32;
    // RTM_NEWLINK, NLM_F_REQUEST and NLM_F_ACK.
    let header = [&length.to_ne_bytes()[..], &16_u16.to_ne_bytes(), &5_u16.to_ne_bytes(), &[0; 8]].concat();
    netns.enter(|| {
        let protocol = socket2::Protocol::from(libc::NETLINK_ROUTE);
        let mut socket = socket2::Socket::new(libc::AF_NETLINK.into(), socket2::Type::RAW, Some(protocol)).unwrap();
        socket.send(&[header, body].concat()).unwrap();
        let mut answer = [0; 256];
        let length = socket.read(&mut answer).unwrap();
        assert!(length >= 20 && answer[16..20] == [0; 4], "{attribute:?}: error {:?}", &answer[16..20]);
    });
}

/// Options of the bridge port of gindemo1, of every kind of rule.
#[test]
fn options_of_container_port_give_what_the_kernel_gives() {
    let set = |option: &str, value: &str, before: &str, expected| {
        let command = |value: &str| format!("bridge link set dev {PORT} {option} {value}");
        case(&command(value), &command(before), expected)
    };
    let number = |number: u16, value: &str, before: &str, expected| {
        let command = |value: &str| format!("raw {PORT} port {number} {value}");
        case(&command(value), &command(before), expected)
    };
    let mac = STATIONS[0].mac;
    let without_entry = |options: &str, undo: &str, expected| {
        let set = format!("bridge fdb del {mac} dev {PORT} master; {options}");
        case(&set, &format!("{undo}; bridge fdb replace {mac} dev {PORT} master static"), expected)
    };
    World::new().compare(&[
        set("state", "0", "3", Port("disabled state")),
        set("priority", "5", "32", Fast),
        set("cost", "77", "2", Fast),
        set("hairpin", "on", "off", Fast),
        set("guard", "on", "off", Fast),
        set("root_block", "on", "off", Fast),
        set("fastleave", "on", "off", Fast),
        // The bridge has static entries.
        set("learning", "off", "on", Fast),
        set("flood", "off", "on", Fast),
        number(10, "01", "00", Fast),
        number(11, "01", "00", Fast),
        number(12, "01", "00", Fast),
        set("mcast_router", "2", "1", Fast),
        set("mcast_flood", "off", "on", Fast),
        set("mcast_to_unicast", "on", "off", Fast),
        set("bcast_flood", "off", "on", Fast),
        set("vlan_tunnel", "on", "off", Port("vlan_tunnel")),
        number(31, "0040", "0000", Fast),
        set("neigh_suppress", "on", "off", Fast),
        case(
            &format!("bridge link set dev {PORT} isolated on; bridge link set dev p-4097-1 isolated on"),
            &format!("bridge link set dev {PORT} isolated off; bridge link set dev p-4097-1 isolated off"),
            Ports("isolated"),
        ),
        case(
            &format!("bridge link set dev {PORT} backup_port {VXLAN}"),
            &format!("bridge link set dev {PORT} nobackup_port"),
            Port("backup port"),
        ),
        set("locked", "on", "off", Port("locked")),
        number(37, "0a000000", "00020000", Fast),
        number(42, "05000000", "00000000", Fast),
        number(43, "01", "00", Fast),
        without_entry("", "", Fast),
        without_entry(
            &format!("bridge link set dev {PORT} flood off learning off"),
            &format!("bridge link set dev {PORT} flood on learning on"),
            Port("no static entry"),
        ),
        without_entry(
            &format!("bridge link set dev {PORT} learning off"),
            &format!("bridge link set dev {PORT} learning on"),
            Port("no static entry"),
        ),
    ]);
}

/// Options of the VXLAN device as a bridge port.
#[test]
fn options_of_tunnel_port_give_what_the_kernel_gives() {
    let set = |option: &str, value: &str, before: &str, expected| {
        let command = |value: &str| format!("bridge link set dev {VXLAN} {option} {value}");
        case(&command(value), &command(before), expected)
    };
    World::new().compare(&[
        set("state", "0", "3", Network("disabled state")),
        set("cost", "77", "2", Fast),
        set("hairpin", "on", "off", Fast),
        set("guard", "on", "off", Fast),
        set("learning", "off", "on", Fast),
        set("flood", "off", "on", Fast),
        set("mcast_flood", "off", "on", Fast),
        set("bcast_flood", "off", "on", Fast),
        set("vlan_tunnel", "on", "off", Network("vlan_tunnel")),
        set("neigh_suppress", "on", "off", Fast),
        set("isolated", "on", "off", Network("isolated")),
        case(
            &format!("bridge link set dev {VXLAN} backup_port p-4097-1"),
            &format!("bridge link set dev {VXLAN} nobackup_port"),
            Network("backup port"),
        ),
        set("locked", "on", "off", Network("locked")),
        case(&format!("raw {VXLAN} port 10 01"), &format!("raw {VXLAN} port 10 00"), Fast),
    ]);
}

/// Options of the bridge. The kernel of the lab has no VLAN filtering.
#[test]
fn options_of_bridge_give_what_the_kernel_gives() {
    let set = |option: &str, value: &str, before: &str, expected| {
        let command = |value: &str| format!("ip link set br-4097 type bridge {option} {value}");
        case(&command(value), &command(before), expected)
    };
    let number = |number: u16, value: &str, before: &str, expected| {
        let command = |value: &str| format!("raw br-4097 bridge {number} {value}");
        case(&command(value), &command(before), expected)
    };
    World::new().compare(&[
        set("forward_delay", "400", "1500", Fast),
        set("hello_time", "300", "200", Fast),
        set("max_age", "3000", "2000", Fast),
        set("ageing_time", "100", "30000", Fast),
        set("ageing_time", "0", "30000", Network("ageing_time 0")),
        set("priority", "100", "32768", Fast),
        set("group_fwd_mask", "8", "0", Fast),
        set("group_address", "01:80:c2:00:00:04", "01:80:c2:00:00:00", Fast),
        set("mcast_router", "2", "1", Fast),
        set("mcast_snooping", "0", "1", Fast),
        set("mcast_querier", "1", "0", Fast),
        set("mcast_hash_max", "512", "4096", Fast),
        set("nf_call_arptables", "1", "0", Fast),
        set("mcast_stats_enabled", "1", "0", Fast),
        set("no_linklocal_learn", "1", "0", Fast),
        number(49, "05000000", "00000000", Network("learns at most 5 addresses")),
        case("ip link set br-4097 mtu 1280", "ip link set br-4097 mtu 1450", Fast),
        case("ip link set br-4097 down", "ip link set br-4097 up", Network("br-4097 is down")),
        case(
            "ip link add other type vxlan id 9 dstport 8472 local 192.168.1.9; ip link set other master br-4097 up",
            "ip link del other",
            Network("two tunnels"),
        ),
        case("ip link set br-4097 promisc on", "ip link set br-4097 promisc off", Fast),
    ]);
}

/// Options of the VXLAN device that can change while it exists, and of the links.
#[test]
fn options_of_links_give_what_the_kernel_gives() {
    let vxlan = |option: &str, before: &str, expected| {
        let command = |option: &str| format!("ip link set {VXLAN} type vxlan {option}");
        case(&command(option), &command(before), expected)
    };
    let link = |device: &str, option: &str, before: &str, expected| {
        let command = |option: &str| format!("ip link set {device} {option}");
        case(&command(option), &command(before), expected)
    };
    World::new().compare(&[
        vxlan("ttl 8", "ttl 0", Fast),
        vxlan("tos 4", "tos 0", Network("traffic class 4")),
        vxlan("tos inherit", "tos 0", Network("of the inner packet")),
        vxlan("df set", "df unset", Network("sets DF")),
        vxlan("ageing 60", "ageing 300", Fast),
        link(VXLAN, "gso_max_size 2000", "gso_max_size 65536", Network("gso_max_size 2000")),
        link(VXLAN, "gso_max_segs 2", "gso_max_segs 65535", Network("gso_max_segs 2")),
        // The kernel tells the bridge later (`linkwatch`).
        case(
            &format!("ip link set {VXLAN} protodown on; await {VXLAN} disabled"),
            &format!("ip link set {VXLAN} protodown off; await {VXLAN} forwarding"),
            Network("protodown"),
        ),
        link(VXLAN, "txqueuelen 10", "txqueuelen 1000", Fast),
        link(VXLAN, "group 7", "group 0", Fast),
        link(VXLAN, "allmulticast on", "allmulticast off", Fast),
        link(PORT, "mtu 1300", "mtu 1450", Port("p-4097-0 has the MTU 1300")),
        // The kernel segments what it sends to the port.
        link(PORT, "gso_max_size 2000", "gso_max_size 65536", Fast),
        link(PORT, "gso_max_segs 2", "gso_max_segs 65535", Port("p-4097-0 has gso_max_segs 2")),
        link(PORT, "promisc on", "promisc off", Fast),
        link(PORT, "down", "up", Port("p-4097-0 is down")),
        link("p-4097-1", "gso_max_size 2000", "gso_max_size 65536", Fast),
        case(
            "c ip link set eth0 mtu 1300",
            "c ip link set eth0 mtu 1450",
            Port("container's interface has the MTU 1300"),
        ),
        case("c ip link set eth0 gso_max_size 2000", "c ip link set eth0 gso_max_size 65536", Fast),
        case("sysctl -qw net.ipv4.ip_default_ttl=99", "sysctl -qw net.ipv4.ip_default_ttl=64", Fast),
    ]);
}

/// Features of the VXLAN device, of both ends of the veth, and of the NIC.
#[test]
fn features_give_what_the_kernel_gives() {
    let feature = |device: &str, features: &str, expected| {
        let (netns, device) = device.strip_prefix("c ").map_or(("", device), |device| ("c ", device));
        let command = |value: &str| {
            let features: Vec<_> = features.split(' ').map(|feature| format!("{feature} {value}")).collect();
            format!("{netns}ethtool -K {device} {}", features.join(" "))
        };
        case(&command("off"), &command("on"), expected)
    };
    World::new().compare(&[
        feature(VXLAN, "tx", Network("tx-checksum-ip-generic")),
        feature(VXLAN, "tso", Network("tx-tcp-segmentation")),
        feature(VXLAN, "gso", Network("tx-generic-segmentation")),
        feature(VXLAN, "sg", Network("tx-scatter-gather")),
        feature(VXLAN, "tx tso gso", Network("is off")),
        feature(VXLAN, "gro", Fast),
        feature(VXLAN, "rx", Fast),
        feature(PORT, "tso", Fast),
        feature(PORT, "tx", Fast),
        feature(PORT, "sg", Fast),
        feature(PORT, "tx tso gso", Fast),
        feature(PORT, "tx-udp-segmentation", Fast),
        feature(PORT, "rx", Fast),
        feature(PORT, "rxvlan txvlan", Fast),
        feature("p-4097-1", "tx tso", Fast),
        feature("c eth0", "tx tso gso", Fast),
        feature("c eth0", "rx", Fast),
        feature("enp0s3", "tx-udp_tnl-segmentation", Fast),
        feature("enp0s3", "tso", Fast),
    ]);
}

/// Options with which a VXLAN device is created.
#[test]
fn options_of_new_vxlan_device_give_what_the_kernel_gives() {
    let mac = STATIONS[1].mac;
    let with = |options: &str| {
        format!(
            "ip link del {VXLAN}; ip link add {VXLAN} mtu 1450 type vxlan id 4097 local 192.168.1.9 dev enp0s3 dstport \
             4789 {options}; ip link set {VXLAN} master br-4097 up; bridge fdb add {mac} dev {VXLAN} dst 192.168.1.10 \
             self permanent; bridge fdb replace {mac} dev {VXLAN} master static"
        )
    };
    let cases = [
        ("learning", Fast),
        ("nolearning proxy", Fast),
        ("nolearning l2miss l3miss", Fast),
        ("nolearning maxaddress 9", Fast),
        ("nolearning srcport 40000 41000", Fast),
        ("nolearning udpcsum", Fast),
        ("nolearning ttl inherit", Network("ttl inherit")),
        ("nolearning rsc", Network("rsc")),
        ("nolearning gbp", Network("gbp")),
        ("nolearning remcsumrx", Network("remcsumrx")),
        ("nolearning remcsumtx", Network("remcsumtx")),
    ];
    let cases: Vec<_> =
        cases.into_iter().map(|(options, expected)| case(&with(options), &with("nolearning"), expected)).collect();
    World::new().compare(&cases);
}

/// The bridge moves an address back to the VXLAN device when it sees the next frame from there. The fast path hides no
/// such frame.
#[test]
fn spoofed_address_of_another_host_is_corrected_by_its_next_frame() {
    let mut world = World::new();
    world.send();
    let plain = world.kernel(&case("", "", Fast));
    world.discover(&plain);
    for _ in 0..2 {
        let claimed = Station { mac: STATIONS[1].mac, ..STATIONS[2] };
        let spoofed = Inner::new(claimed, STATIONS[0], Version::V4, L4::Udp(5000, 5001)).bytes();
        world.eth0[2].send(Offload::default(), &spoofed).unwrap();
        let entries = || world.host().run(&["bridge", "fdb", "show", "dev", "p-4097-1"]);
        until("the bridge has moved the address", || entries().contains(&STATIONS[1].mac.to_string()));
        world.until("after a spoofed frame", Fast, Some(&plain));
    }
}

/// The devices of managed networks: those that overlay has made, and a port of another owner.
#[test]
fn options_of_managed_devices_give_what_the_kernel_gives() {
    let world = World::managed();
    let host_end = {
        let eth0 = world.host().containers()[1].run(&["ip", "-o", "link", "show", "dev", "eth0"]);
        let index = eth0.split("@if").nth(1).unwrap().split(':').next().unwrap().to_owned();
        let links = world.host().run(&["ip", "-o", "link"]);
        let link = links.lines().find(|line| line.starts_with(&format!("{index}: "))).unwrap();
        link.split([' ', '@']).nth(1).unwrap().to_owned()
    };
    let bridge = |option: &str, value: &str, before: &str, expected| {
        let command = |value: &str| format!("ip link set ovlbr4097 type bridge {option} {value}");
        case(&command(value), &command(before), expected)
    };
    let port = |option: &str, value: &str, before: &str, expected| {
        let command = |value: &str| format!("bridge link set dev {PORT} {option} {value}");
        case(&command(value), &command(before), expected)
    };
    // The filter sends every packet to another device.
    let steal_on_egress = |device: &str, expected| {
        let add = format!("tc filter add dev {device} egress u32 match u32 0 0 action mirred egress redirect dev mon0");
        let set = format!("ip link add mon0 up type bridge; tc qdisc add dev {device} clsact; {add}");
        case(&set, &format!("tc qdisc del dev {device} clsact; ip link del mon0"), expected)
    };
    let shape = |device: &str, expected| {
        let change = |verb: &str| format!("tc qdisc {verb} dev {device} root pfifo");
        case(&change("add"), &change("del"), expected)
    };
    world.compare_managed(&[
        case(
            &format!("bridge link set dev {PORT} isolated on; bridge link set dev {host_end} isolated on"),
            &format!("bridge link set dev {PORT} isolated off; bridge link set dev {host_end} isolated off"),
            Ports("isolated"),
        ),
        port("state", "0", "3", Port("disabled state")),
        port("locked", "on", "off", Port("locked")),
        port("hairpin", "on", "off", Fast),
        port("flood", "off", "on", Fast),
        case(&format!("ip link set {PORT} down"), &format!("ip link set {PORT} up"), Port("p-4097-0 is down")),
        // The host end of a veth that the daemon has made: it stays down.
        case(&format!("ip link set {host_end} down"), &format!("ip link set {host_end} up"), Other("is down")),
        case("c ip link set eth0 mtu 1300", "c ip link set eth0 mtu 1450", Port("has the MTU 1300")),
        case(
            "c ip link set eth0 address 02:42:0a:00:01:77",
            &format!("c ip link set eth0 address {}", STATIONS[0].mac),
            Port("has the MAC address 02:42:0a:00:01:77"),
        ),
        case(&format!("ethtool -K {PORT} tx off tso off"), &format!("ethtool -K {PORT} tx on tso on"), Fast),
        case("ethtool -K ovlvx4097 tx off", "ethtool -K ovlvx4097 tx on tso on", Network("tx-checksum-ip-generic")),
        steal_on_egress(PORT, Port("traffic control filters on egress")),
        steal_on_egress("ovlvx4097", Network("ovlvx4097 has traffic control filters")),
        shape(PORT, Port("pfifo queueing discipline")),
        shape("ovlvx4097", Network("pfifo queueing discipline")),
        bridge("ageing_time", "0", "30000", Network("ageing_time 0")),
        case(
            "ip link add other type vxlan id 9 dstport 8472 local 192.168.1.9; ip link set other master ovlbr4097 up",
            "ip link del other",
            Network("two tunnels"),
        ),
    ]);
}

/// Rules for frames of a bridge with this VXLAN device and port.
fn rules(bridge: &str, vxlan: &str, port: &str) -> Vec<Case> {
    let mac = STATIONS[0].mac;
    let lines = |lines: &[&str]| -> Vec<String> { lines.iter().map(|line| (*line).to_owned()).collect() };
    let with = |set: &[&str], expected| {
        let undo = match set.iter().find_map(|command| command.split_once("-legacy -A ")) {
            Some((tool, rule)) => vec![format!("{tool}-legacy -D {rule}")],
            None => lines(&["nft flush ruleset"]),
        };
        Case { set: lines(set), undo, expected }
    };
    // A chain at a hook, with one rule.
    let chain = |family: &str, hook: &str, rule: &str, expected| {
        let chain = format!("nft add chain {family} f c {{ type filter hook {hook} priority 0 ; }}");
        with(&[&format!("nft add table {family} f"), &chain, &format!("nft add rule {family} f c {rule}")], expected)
    };
    let accepted = |chain: &str| format!("iptables-nft -I {chain} -i {bridge} -o {bridge} -j ACCEPT");
    let bridge_family = Network("nft table bridge f has rules that apply to frames of");
    let netdev = Network("nft table netdev f has rules that apply to frames of");
    vec![
        // The bridge family, and what ebtables-nft makes of it.
        chain("bridge", "forward", &format!("ether saddr {mac} drop"), bridge_family),
        chain("bridge", "prerouting", &format!("iifname {port} drop"), bridge_family),
        chain("bridge", "postrouting", "ip protocol udp drop", bridge_family),
        with(
            &[&format!("ebtables-nft -A FORWARD -d {mac} -j DROP")],
            Network("nft table bridge filter has rules that apply to frames of"),
        ),
        with(&["ebtables-nft -P FORWARD DROP"], Network("nft table bridge filter has rules that apply to frames of")),
        // The hooks of devices.
        chain("netdev", &format!("ingress device {vxlan}"), "ip protocol udp drop", netdev),
        chain("netdev", &format!("egress device {port}"), "ip protocol udp drop", netdev),
        chain("netdev", "ingress device enp0s3", "udp dport 9 drop", Fast),
        // br_netfilter.
        with(
            &["iptables-nft -P FORWARD DROP"],
            Network("chain FORWARD of iptables table filter drops its packets; run `iptables -I FORWARD"),
        ),
        with(
            &["iptables-nft -A FORWARD -s 10.0.1.2 -p udp -j DROP"],
            Network("chain FORWARD of iptables table filter can drop its packets"),
        ),
        with(
            &[&format!("iptables-nft -t raw -A PREROUTING -m physdev --physdev-in {port} -j DROP")],
            Network("chain PREROUTING of iptables table raw can drop its packets"),
        ),
        with(
            &[&format!("iptables-nft -t mangle -A POSTROUTING -o {bridge} -p udp -j TOS --set-tos 0x10")],
            Network("chain POSTROUTING of iptables table mangle can change its packets"),
        ),
        with(
            &["iptables-legacy -A FORWARD -p udp -j DROP"],
            Network("chain FORWARD of iptables-legacy table filter can drop its packets"),
        ),
        chain(
            "inet",
            "forward",
            &format!("iifname {bridge} ip protocol udp drop"),
            Network("chain c of nft table inet f can drop its packets"),
        ),
        // The packets are plainly accepted.
        with(&["iptables-nft -P FORWARD DROP", &accepted("FORWARD")], Fast),
        with(
            &["iptables-nft -A FORWARD -i docker0 -j DROP", "iptables-nft -A INPUT -p udp --dport 5001 -j DROP"],
            Fast,
        ),
        chain("inet", "forward", "iifname != enp0s3 counter accept", Fast),
    ]
}

#[test]
fn rules_for_frames_of_external_networks_give_what_the_kernel_gives() {
    World::new().compare(&rules("br-4097", VXLAN, PORT));
}

#[test]
fn rules_for_frames_of_managed_networks_give_what_the_kernel_gives() {
    World::managed().compare_managed(&rules("ovlbr4097", "ovlvx4097", PORT));
}
