//! node01 as sender, and the underlay socket that captures its packets.

use std::time::Duration;

use overlay_common::{
    Reason,
    maps::{FdbEntry, FdbKey},
};
use overlay_tests::maps::WritableMaps;
use overlay_tests::{
    frame::OUTER_LEN,
    lab::{Lab, NIC, PacketSocket, traffic::pin_here},
    program::{GINDEMO2, NODE1_MAC, NODE2_MAC, VNI},
    testbed::Testbed,
};
use overlay_user::testing::{
    apply::Counters,
    plan::{Changes, Fdb},
};

use crate::arrivals::Arrivals;

/// Path that encapsulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// `ovl_port_in`.
    Fast,
    /// The VXLAN device, because gindemo2's MAC is missing in `OVL_FDB`.
    Kernel,
}

/// node01 with a daemon; node02 only provides the other end of the wire.
pub(crate) struct Sender {
    maps: WritableMaps,
    remote: FdbEntry,
    eth0: PacketSocket,
    wire: PacketSocket,
    _world: Testbed,
}

/// FDB key of gindemo2, the destination of all frames.
pub(crate) fn gindemo2() -> FdbKey {
    FdbKey::new(VNI, GINDEMO2.mac)
}

/// Two hosts, see [`with_fixed_macs`].
pub(crate) fn two_hosts() -> Lab {
    with_fixed_macs(Lab::two_hosts())
}

/// Gives the NICs of two hosts the same MAC addresses in every lab, so that packets of one lab can be sent in another.
pub(crate) fn with_fixed_macs(lab: Lab) -> Lab {
    for (number, mac) in [(1, NODE1_MAC), (2, NODE2_MAC)] {
        lab.host(number).run(&["ip", "link", "set", NIC, "address", &mac.to_string()]);
    }
    lab
}

/// Packets of a reason between two reads.
pub(crate) fn counted(before: &Counters, after: &Counters, reason: Reason) -> u64 {
    let of = |counters: &Counters| counters.reasons[reason as usize].1.packets;
    of(after) - of(before)
}

impl Sender {
    pub(crate) fn start() -> Self {
        Self::start_in(two_hosts())
    }

    pub(crate) fn start_in(lab: Lab) -> Self {
        let mut testbed = Testbed::new(lab);
        testbed.start(1).unwrap();
        let maps = WritableMaps::open(&testbed.pin_root(1)).unwrap();
        let remote = maps.read().unwrap().fdb[&gindemo2()];
        let eth0 = PacketSocket::open(testbed.first(1), "eth0").unwrap();
        let wire = PacketSocket::open(testbed.lab.host(2), NIC).unwrap();
        let sender = Self { maps, remote, eth0, wire, _world: testbed };
        sender.wait_for_next_hop();
        // Frames of one flow keep their order.
        pin_here();
        sender
    }

    fn wait_for_next_hop(&self) {
        for _ in 0..500 {
            if self.maps.read().unwrap().vteps.values().all(|vtep| vtep.resolved != 0) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the next hop to node02 is not resolved after 5 s");
    }

    /// Sends numbered frames from gindemo1 by this path; returns the packets on the wire, which arrive once and in
    /// order.
    pub(crate) fn send(&mut self, path: Path, frames: &[Vec<u8>]) -> Arrivals {
        let arrived = self.collect(path, frames);
        assert_eq!(arrived.irregularities(), [], "{path:?}");
        arrived
    }

    /// Like [`Self::send`], without the check.
    pub(crate) fn collect(&mut self, path: Path, frames: &[Vec<u8>]) -> Arrivals {
        let change = match path {
            Path::Fast => Changes::set::<Fdb>(gindemo2(), self.remote),
            Path::Kernel => Changes::remove::<Fdb>(gindemo2()),
        };
        self.maps.write(&change).unwrap();
        self.wire.drain().unwrap();
        let before = self.maps.counters([], []).unwrap();
        for frame in frames {
            self.eth0.send(frame).unwrap();
        }
        let mut arrived = Arrivals::default();
        let collect = |packet: Vec<u8>| {
            arrived.push(packet, OUTER_LEN);
            arrived.packets().len() == frames.len()
        };
        self.wire.receive_until(Duration::from_secs(1), collect).unwrap();
        let after = self.maps.counters([], []).unwrap();
        let counts = [Reason::Encap, Reason::UnknownMac].map(|reason| counted(&before, &after, reason));
        let all = frames.len() as u64;
        let expected = if path == Path::Fast { [all, 0] } else { [0, all] };
        assert_eq!(counts, expected, "{path:?}: packets encapsulated and packets passed to the kernel");
        arrived
    }
}
