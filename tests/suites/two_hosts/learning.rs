//! Source MAC addresses of frames from the underlay: the VXLAN device and the bridge drop some, and learn from the others.

use std::time::Duration;

use overlay_common::MacAddr;
use overlay_tests::{
    check::{links, until},
    frame::{Inner, L4, Outer, Station, Version},
    lab::{Flavour, Lab, NIC, PacketSocket, kernel_vxlan, private_directory},
    program::from_node2,
    testbed::Testbed,
};

const VXLAN: &str = "vx-4097";
const TO: Station = Station::container([10, 0, 1, 2]);
const KNOWN: Station = Station::container([10, 0, 1, 6]);
const UNKNOWN: MacAddr = MacAddr([0x02, 0x42, 10, 0, 1, 99]);
/// Behind a third VTEP.
const ELSEWHERE: MacAddr = MacAddr([0x02, 0x42, 10, 0, 1, 77]);

/// gindemo1 on node01, whose VXLAN device the kernel or a daemon serves; node02 only sends frames.
struct World {
    testbed: Testbed,
    nic: PacketSocket,
    eth0: PacketSocket,
}

impl World {
    fn new(flavour: Flavour) -> Self {
        let testbed = Testbed::new(Lab::two_hosts());
        let network = testbed.cluster.networks[0].name.clone();
        let host = testbed.lab.host(1);
        kernel_vxlan(host, &testbed.cluster, &network, flavour).unwrap();
        host.try_script(&format!("bridge fdb add {ELSEWHERE} dev {VXLAN} dst 192.168.1.77 self permanent")).unwrap();
        let nic = PacketSocket::open(testbed.lab.host(2), NIC).unwrap();
        let eth0 = PacketSocket::open(testbed.first(1), "eth0").unwrap();
        Self { testbed, nic, eth0 }
    }

    fn mac(&self, host: usize, device: &str) -> MacAddr {
        let link = links(self.testbed.lab.host(host)).into_iter().find(|link| link["ifname"] == device).unwrap();
        link["address"].as_str().unwrap().parse().unwrap()
    }

    /// How many of three frames from `source` reach gindemo1.
    fn received(&self, source: MacAddr) -> usize {
        let inner = Inner::new(Station { mac: source, ..KNOWN }, TO, Version::V4, L4::Udp(5000, 5001)).bytes();
        let outer = Outer { eth_dst: self.mac(1, NIC), eth_src: self.mac(2, NIC), ..from_node2() };
        let packet = outer.encapsulate(&inner);
        self.eth0.drain().unwrap();
        (0..3).for_each(|_| self.nic.send(&packet).unwrap());
        let mut count = 0;
        let is_last = |frame: Vec<u8>| {
            count += usize::from(frame == inner);
            count == 3
        };
        self.eth0.receive_until(Duration::from_millis(200), is_last).unwrap();
        count
    }

    /// Where the VXLAN device has a MAC.
    fn location(&self, mac: MacAddr) -> Option<String> {
        let entries = self.testbed.lab.host(1).run(&["bridge", "fdb", "show", "dev", VXLAN]);
        let line = entries.lines().find(|line| line.starts_with(&mac.to_string()) && line.contains("dst"))?;
        line.split(' ').skip_while(|word| *word != "dst").nth(1).map(str::to_owned)
    }

    fn forget(&self, mac: MacAddr) {
        self.testbed.lab.host(1).try_script(&format!("bridge fdb del {mac} dev {VXLAN} self")).unwrap();
        assert_eq!(self.location(mac), None);
    }

    /// The frames received from each source, and where the device has the unknown MAC afterwards.
    fn compare(&self) -> (Vec<usize>, Option<String>) {
        let invalid = [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [3, 0x42, 10, 0, 1, 6]].map(MacAddr);
        let valid = [KNOWN.mac, UNKNOWN, ELSEWHERE, self.mac(1, VXLAN), KNOWN.mac];
        let received = valid.into_iter().chain(invalid).map(|source| self.received(source)).collect();
        let location = self.location(UNKNOWN);
        if location.is_some() {
            self.forget(UNKNOWN);
        }
        (received, location)
    }
}

fn sources_are_treated_as_by_the_kernel(flavour: Flavour, expected: (&[usize], Option<&str>)) {
    let mut world = World::new(flavour);
    // The first frames can meet a port that has just been set up.
    until("the kernel delivers frames", || world.received(KNOWN.mac) == 3);
    let alone = world.compare();
    assert_eq!((&alone.0[..], alone.1.as_deref()), expected, "the kernel alone");
    let empty = private_directory().unwrap();
    let arguments = ["--discover", "--docker-socket", "/nowhere.sock", "--netns-dir", empty.to_str().unwrap()];
    world.testbed.start_with(1, &arguments).unwrap();
    let decap = || world.testbed.counts(1).of("decap");
    until("frames take the fast path", || {
        let before = decap();
        world.received(KNOWN.mac) == 3 && decap() - before == 3
    });
    assert_eq!(world.compare(), alone);
    // The device lost an entry: it learns it again from what arrives (or, without learning, delivers all the same).
    world.forget(KNOWN.mac);
    until("the kernel learns the address", || world.received(KNOWN.mac) == 3 && (world.location(KNOWN.mac) == alone.1));
}

#[test]
fn learning_device_learns_and_drops_as_without_overlay() {
    let expected: &[usize] = &[3, 3, 0, 0, 3, 0, 0, 0, 0];
    sources_are_treated_as_by_the_kernel(Flavour::Docker, (expected, Some("192.168.1.10")));
}

#[test]
fn device_without_learning_drops_only_invalid_sources() {
    let expected: &[usize] = &[3, 3, 3, 0, 3, 0, 0, 0, 0];
    sources_are_treated_as_by_the_kernel(Flavour::Static, (expected, None));
}
