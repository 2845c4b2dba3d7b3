//! node02 as receiver, and the underlay socket that sends to it.

use std::time::Duration;

use overlay_common::{Reason, maps::FdbEntry};
use overlay_tests::maps::WritableMaps;
use overlay_tests::{
    lab::{Lab, NIC, NetNs, PacketSocket, traffic::pin_here},
    testbed::Testbed,
};
use overlay_user::testing::plan::{Changes, Fdb};

use crate::{
    arrivals::Arrivals,
    sender::{counted, gindemo2, two_hosts},
};

/// Receive mode of node02.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rx {
    /// `ovl_nic_in`.
    Tc,
    /// `ovl_nic_in` after GRO, which verifies outer checksums and marks the skb.
    Gro,
    /// `ovl_nic_xdp` for all but TCP.
    Xdp,
}

/// Path that decapsulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// The programs.
    Fast,
    /// The VXLAN device, because gindemo2's MAC is missing in `OVL_FDB`.
    Kernel,
}

/// node02 with a daemon; node01 only provides the other end of the wire.
pub(crate) struct Receiver {
    rx: Rx,
    maps: WritableMaps,
    local: FdbEntry,
    eth0: PacketSocket,
    wire: PacketSocket,
    testbed: Testbed,
}

/// Packets of a batch by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) tc: u64,
    pub(crate) xdp: u64,
    /// Passed to the kernel because of the ECN mark.
    pub(crate) ecn: u64,
    /// Passed to the kernel because the MAC is unknown.
    pub(crate) unknown: u64,
}

impl Receiver {
    pub(crate) fn start(rx: Rx) -> Self {
        Self::start_in(two_hosts(), rx)
    }

    pub(crate) fn start_in(lab: Lab, rx: Rx) -> Self {
        let mut testbed = Testbed::new(lab);
        testbed.receive_by(if rx == Rx::Xdp { "xdp" } else { "tc" }).unwrap();
        if rx == Rx::Gro {
            testbed.lab.host(2).run(&["ethtool", "-K", NIC, "gro", "on"]);
            // With TX offloads a veth skips GRO for received packets (`veth_skb_is_eligible_for_gro`).
            testbed.lab.host(1).run(&["ethtool", "-K", NIC, "tx", "off", "tso", "off"]);
        }
        testbed.start(2).unwrap();
        let maps = WritableMaps::open(&testbed.pin_root(2)).unwrap();
        let local = maps.read().unwrap().fdb[&gindemo2()];
        assert_eq!(local.kind, FdbEntry::LOCAL_PEER);
        let eth0 = PacketSocket::open(testbed.first(2), "eth0").unwrap();
        let wire = PacketSocket::open(testbed.lab.host(1), NIC).unwrap();
        // Packets of one flow keep their order.
        pin_here();
        Self { rx, maps, local, eth0, wire, testbed }
    }

    pub(crate) fn container(&self) -> &NetNs {
        self.testbed.lab.host(2).container("gindemo2")
    }

    pub(crate) fn host(&self) -> &NetNs {
        self.testbed.lab.host(2)
    }

    pub(crate) fn rx(&self) -> Rx {
        self.rx
    }

    /// Selects the path for the following packets.
    pub(crate) fn select(&mut self, path: Path) {
        let change = match path {
            Path::Fast => Changes::set::<Fdb>(gindemo2(), self.local),
            Path::Kernel => Changes::remove::<Fdb>(gindemo2()),
        };
        self.maps.write(&change).unwrap();
    }

    /// Sends packets on the wire; returns the numbered frames that gindemo2's eth0 receives, once and in order, and the
    /// counts. Waits at most 500 ms for `expected` frames.
    pub(crate) fn receive(&mut self, path: Path, packets: &[Vec<u8>], expected: usize) -> (Arrivals, Counts) {
        let (arrived, counts) = self.collect(path, packets, expected);
        assert_eq!(arrived.irregularities(), [], "{path:?}");
        (arrived, counts)
    }

    /// Like [`Self::receive`], without the check.
    pub(crate) fn collect(&mut self, path: Path, packets: &[Vec<u8>], expected: usize) -> (Arrivals, Counts) {
        self.select(path);
        self.eth0.drain().unwrap();
        let before = self.maps.counters([], []).unwrap();
        for packet in packets {
            self.wire.send(packet).unwrap();
        }
        let mut arrived = Arrivals::default();
        let collect = |frame: Vec<u8>| {
            arrived.push(frame, 0);
            arrived.packets().len() >= expected
        };
        self.eth0.receive_until(Duration::from_millis(500), collect).unwrap();
        let after = self.maps.counters([], []).unwrap();
        let of = |reason| counted(&before, &after, reason);
        let counts = Counts {
            tc: of(Reason::Decap),
            xdp: of(Reason::DecapXdp),
            ecn: of(Reason::Ecn),
            unknown: of(Reason::UnknownMac),
        };
        (arrived, counts)
    }
}
