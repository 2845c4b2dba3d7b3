//! Two hosts with a daemon each, and a third host that is a VTEP of one network and under control of the attacker.
//!
//! ```text
//!  node01: gindemo1, neighbour (red); blue1 (blue)    node02: gindemo2 (red); blue2 (blue)    node03: red3 (red)
//! ```

use std::{
    ops::{Deref, DerefMut},
    time::{Duration, Instant},
};

use overlay_common::MacAddr;
use overlay_tests::{
    check::until,
    frame::{Inner, L4, Outer, Station, Version},
    lab::{Lab, NIC, Network, PacketSocket},
    program::to_node2,
    testbed::{Testbed, prepare_xdp},
};
use serde_json::Value;

pub(crate) const RED: u32 = 4097;
pub(crate) const BLUE: u32 = 4098;
pub(crate) const RED_PORT: u16 = 4789;
pub(crate) const BLUE_PORT: u16 = 8472;

pub(crate) const GINDEMO1: Station = Station::container([10, 0, 1, 2]);
pub(crate) const NEIGHBOUR: Station = Station::container([10, 0, 1, 3]);
pub(crate) const GINDEMO2: Station = Station::container([10, 0, 1, 6]);
pub(crate) const RED3: Station = Station::container([10, 0, 1, 10]);
pub(crate) const BLUE1: Station = Station::container([10, 0, 2, 2]);
pub(crate) const BLUE2: Station = Station::container([10, 0, 2, 6]);

/// Payload of attack packets.
const MARK: &[u8] = b"this does not belong here";
/// Payload of the datagram that ends a [`Watch`].
const END: &[u8] = b"the victim's interface is watched";
/// Packets of one attack.
pub(crate) const SENT: u64 = 5;
/// Longer than the sampling interval.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(150);

pub(crate) struct Setup(Testbed);

impl Deref for Setup {
    type Target = Testbed;

    fn deref(&self) -> &Testbed {
        &self.0
    }
}

impl DerefMut for Setup {
    fn deref_mut(&mut self) -> &mut Testbed {
        &mut self.0
    }
}

impl Setup {
    /// Starts the hosts with both networks strict or not, receiving by `tc` or `xdp`.
    pub(crate) fn start(strict: bool, rx: &str) -> Self {
        Self::with(strict, strict, rx)
    }

    /// Starts the hosts with the red and the blue network strict or not.
    pub(crate) fn with(red: bool, blue: bool, rx: &str) -> Self {
        let lab = Lab::builder(3)
            .container(1, "neighbour", NEIGHBOUR.ipv4.into())
            .container(1, "blue1", BLUE1.ipv4.into())
            .container(2, "blue2", BLUE2.ipv4.into())
            .build()
            .unwrap();
        for (host, number) in lab.hosts().iter().zip(1..) {
            host.run(&["ip", "link", "set", NIC, "address", &mac(number).to_string()]);
        }
        // The same NIC settings for both hooks.
        lab.hosts().iter().for_each(|host| prepare_xdp(host).unwrap());
        let mut testbed = Testbed::new(lab);
        testbed.receive_by(rx).unwrap();
        testbed.cluster.networks = networks(red, blue);
        for endpoint in &mut testbed.cluster.endpoints {
            endpoint.network = if endpoint.name.starts_with("blue") { "blue" } else { "my-overlay-network" }.to_owned();
        }
        for host in [1, 2] {
            testbed.start(host).unwrap();
        }
        testbed.wait_until_resolved().unwrap();
        Self(testbed)
    }

    /// Opens a container's eth0, or the host's NIC with the name `NIC`.
    pub(crate) fn socket(&self, host: usize, name: &str) -> PacketSocket {
        let host = self.lab.host(host);
        if name == NIC { PacketSocket::open(host, NIC) } else { PacketSocket::open(host.container(name), "eth0") }
            .unwrap()
    }

    /// Watches the interface of a container from now on: call it before packets are sent.
    pub(crate) fn watch<'a>(&'a self, (host, name): (usize, &'a str)) -> Watch<'a> {
        Watch { setup: self, socket: self.socket(host, name), name }
    }

    /// Packets that the programs of a host have dropped, and sampled events.
    pub(crate) fn dropped(&self, host: usize) -> (u64, usize) {
        let report = self.daemon(host).overlay(&["counters", "--json"]).unwrap();
        let dropped = report["reasons"].as_array().unwrap().iter().filter(|row| row["verdict"] == "drop");
        let packets = dropped.map(|row| row["packets"].as_u64().unwrap()).sum();
        (packets, self.events(host)["events"].as_array().unwrap().len())
    }

    /// The entry of an address in the neighbour table of a container.
    pub(crate) fn neighbours(&self, (host, name): (usize, &str), address: &str) -> String {
        self.lab.host(host).container(name).run(&["ip", "neighbour", "show", address])
    }

    /// Lets the red network's bridge on node01 learn from its VXLAN device, until the daemon disables it again.
    pub(crate) fn enable_learning(&self) {
        self.lab.host(1).run(&["bridge", "link", "set", "dev", "ovlvx4097", "learning", "on"]);
    }

    /// Whether the red network's bridge on node01 has an entry for a MAC address on its VXLAN device.
    pub(crate) fn has_learned(&self, mac: MacAddr) -> bool {
        let entries = self.lab.host(1).run(&["bridge", "fdb", "show", "dev", "ovlvx4097"]);
        entries.lines().any(|line| line.starts_with(&mac.to_string().to_lowercase()))
    }

    fn events(&self, host: usize) -> Value {
        self.daemon(host).overlay(&["events", "--json"]).unwrap()
    }

    /// Sends every frame through `from`. They are refused on `host` at `hook`: the reason counts exactly these frames,
    /// an event reports it, and the victim receives none. Returns the event.
    #[track_caller]
    pub(crate) fn assert_refused(&self, attack: &Attack<'_>) -> Value {
        let (event, seen) = self.attack(attack);
        assert_eq!(seen, Vec::<Vec<u8>>::new(), "{}: the victim received", attack.reason);
        event
    }

    /// Sends every frame; returns the event and the frames that the victim received.
    #[track_caller]
    pub(crate) fn attack(&self, attack: &Attack<'_>) -> (Value, Vec<Vec<u8>>) {
        let Attack { from, frames, host, hook, reason, victim } = attack;
        std::thread::sleep(SAMPLE_INTERVAL);
        let watch = self.watch(*victim);
        let before = self.counts(*host);
        let last = self.events(*host)["last"].as_u64().unwrap();
        for frame in frames {
            from.send(frame).unwrap();
        }
        let sent = frames.len() as u64;
        let counted = || self.counts(*host).since(&before).of(reason);
        until(&format!("{reason} is counted {sent} times"), || counted() >= sent);
        let seen = watch.seen();
        let moved = self.counts(*host).since(&before);
        assert_eq!(moved.of(reason), sent, "{moved:?}");
        assert_eq!(moved.of("unfinished"), 0, "{moved:?}");
        let event = self.event_after(*host, last, reason, hook);
        // The kernel removes a VLAN tag or trailing bytes before the hook.
        let (len, frame) = (event["len"].as_u64().unwrap(), frames[0].len() as u64);
        assert!((frame - 4..=frame).contains(&len), "{event}");
        (event, seen)
    }

    fn event_after(&self, host: usize, last: u64, reason: &str, hook: &str) -> Value {
        let fits = |event: &&Value| {
            event["number"].as_u64() > Some(last) && event["reason"] == reason && event["hook"] == hook
        };
        let mut found = Value::Null;
        until(&format!("an event shows {reason} at {hook}"), || {
            let report = self.events(host);
            let event = report["events"].as_array().unwrap().iter().find(fits).cloned();
            event.is_some_and(|event| {
                found = event;
                true
            })
        });
        found
    }
}

/// One attack.
pub(crate) struct Attack<'a> {
    /// Socket of the attacker.
    pub(crate) from: &'a PacketSocket,
    /// Frames to send.
    pub(crate) frames: Vec<Vec<u8>>,
    /// Host whose hook refuses the frames.
    pub(crate) host: usize,
    pub(crate) hook: &'a str,
    pub(crate) reason: &'a str,
    /// Host and container of the victim.
    pub(crate) victim: (usize, &'a str),
}

/// The interface of a victim, watched since before the attack.
pub(crate) struct Watch<'a> {
    setup: &'a Setup,
    socket: PacketSocket,
    name: &'a str,
}

impl Watch<'_> {
    /// The frames with the mark that the victim has received since the start, and in 200 ms more. The victim's peer
    /// on the other host sends a valid datagram, which has to arrive.
    #[track_caller]
    pub(crate) fn seen(&self) -> Vec<Vec<u8>> {
        let (host, peer, from, to) = match self.name {
            "gindemo1" => (2, "gindemo2", GINDEMO2, GINDEMO1),
            "neighbour" => (2, "gindemo2", GINDEMO2, NEIGHBOUR),
            "gindemo2" => (1, "gindemo1", GINDEMO1, GINDEMO2),
            "blue1" => (2, "blue2", BLUE2, BLUE1),
            "blue2" => (1, "blue1", BLUE1, BLUE2),
            name => panic!("{name} has no peer"),
        };
        let end = datagram(from, to, END).bytes();
        self.setup.socket(host, peer).send(&end).unwrap();
        let mut deadline = Instant::now() + Duration::from_secs(20);
        let (mut seen, mut has_ended) = (Vec::new(), false);
        while let Some(frame) = self.socket.receive(deadline).unwrap() {
            if frame == end {
                has_ended = true;
                deadline = Instant::now() + Duration::from_millis(200);
            } else if frame.windows(MARK.len()).any(|part| part == MARK) {
                seen.push(frame);
            }
        }
        assert!(has_ended, "{} does not receive a valid datagram", self.name);
        seen
    }
}

/// MAC address of a host's NIC.
pub(crate) fn mac(host: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, host])
}

/// VTEP address of a host.
pub(crate) fn vtep(host: u8) -> [u8; 4] {
    [192, 168, 1, 8 + host]
}

/// The gateway's MAC with another IP address.
pub(crate) fn gateway(ip: [u8; 4]) -> Station {
    Station { ipv4: ip, ..Station::container([10, 0, 1, 1]) }
}

/// A datagram with the mark.
pub(crate) fn frame(from: Station, to: Station) -> Inner {
    datagram(from, to, MARK)
}

fn datagram(from: Station, to: Station, payload: &[u8]) -> Inner {
    Inner::new(from, to, Version::V4, L4::Udp(5000, 53)).payload(payload)
}

/// Outer header from one host's VTEP to another's, in the red network.
pub(crate) fn outer(from: u8, to: u8) -> Outer {
    Outer {
        eth_dst: mac(to),
        eth_src: mac(3),
        src: vtep(from),
        dst: vtep(to),
        udp_dst: RED_PORT,
        vni: RED,
        ..to_node2()
    }
}

/// The same frame `SENT` times.
pub(crate) fn repeated(frame: &[u8]) -> Vec<Vec<u8>> {
    (0..SENT).map(|_| frame.to_vec()).collect()
}

fn networks(red_strict: bool, blue_strict: bool) -> Vec<Network> {
    let red = Network { strict: red_strict, ..Network::example() };
    let blue = Network {
        name: "blue".to_owned(),
        vni: BLUE,
        subnet: "10.0.2.0/24".to_owned(),
        gateway: Some([10, 0, 2, 1].into()),
        port: Some(BLUE_PORT),
        strict: blue_strict,
        ..Network::example()
    };
    vec![red, blue]
}
