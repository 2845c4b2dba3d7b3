//! Two hosts with daemons; packets from gindemo1 to gindemo2 take either path on either host.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path as FilePath,
    time::{Duration, SystemTime},
};

use overlay_common::{
    Reason,
    maps::{FdbEntry, Flow, Underlay, flags},
};
use overlay_tests::{
    check::until,
    lab::{Container, Host, NIC, NetNs, Offload, OffloadSocket, docker_mac, private_directory},
    maps::WritableMaps,
    program::VNI,
    testbed::{Testbed, prepare_xdp},
};
use overlay_user::testing::{
    apply::Counters,
    plan::{Changes, Fdb, Underlays},
    sys::ticks,
};

use crate::{
    compare::{Case, Fields, Value, number as value},
    frames::number,
    offload::{count, index, segments},
    probe::{Probe, Seen},
    sender::{Path, counted, gindemo2, two_hosts},
};

/// Length of the outer headers.
pub(crate) const OUTER: usize = 50;

/// Location of bridge, VXLAN device and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A managed network: the host's namespace.
    Host,
    /// A discovered network as Docker creates it: a sandbox, with a cross-netns veth (shim).
    Sandbox,
}

/// What arrives at node02's NIC, and its receive hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Super-packets with incomplete checksums: both ends of the wire have all offloads. TC.
    Whole,
    /// Segments. TC.
    Segments,
    /// Segments, which GRO merges. TC.
    Gro,
    /// Segments. XDP, which passes TCP to GRO and TC.
    Xdp,
}

/// node01 and node02. A program at node02's NIC sets mark and priority.
pub(crate) struct Pair {
    case: Case,
    ends: [End; 2],
    eth0: [OffloadSocket; 2],
    nic: OffloadSocket,
    at_eth0: Probe,
    at_nic: Probe,
    changes: Vec<Probe>,
    testbed: Testbed,
    _sandboxes: Vec<NetNs>,
}

/// One host's maps.
struct End {
    maps: WritableMaps,
    /// gindemo2's entry in `OVL_FDB`.
    entry: FdbEntry,
}

/// A packet, and what is left to a device.
pub(crate) type Packet = (Offload, Vec<u8>);

/// A packet that gindemo2's `eth0` received.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    pub(crate) packet: Packet,
    /// What a program in the container can read of it.
    pub(crate) fields: Fields,
    /// What `ovl_nic_in` could see of it; `None` if XDP delivered it.
    pub(crate) at_nic: Option<Fields>,
    /// A part of the same packet of the sender is a super-packet that the programs refuse.
    pub(crate) follows: bool,
}

impl Delivered {
    /// Whether a program delivers the packet. `ovl_nic_in` refuses super-packets whose next header is not TCP, and what is
    /// behind one.
    pub(crate) fn is_fast(&self) -> bool {
        !(self.is_refused() || self.follows)
    }

    /// A single packet beside a refused super-packet of the same flow: its path depends on their order.
    pub(crate) fn is_beside(&self) -> bool {
        self.follows && !self.is_refused()
    }

    fn is_refused(&self) -> bool {
        let (offload, frame) = &self.packet;
        let protocol = if frame[12] == 8 { frame[23] } else { frame[20] };
        offload.gso_type != 0 && protocol != 6
    }

    /// Number of [`Self::segments`].
    pub(crate) fn count(&self) -> usize {
        count(self.packet.0, &self.packet.1)
    }

    /// The packet after segmentation.
    pub(crate) fn segments(&self) -> Vec<Vec<u8>> {
        segments(self.packet.0, &self.packet.1)
    }
}

/// Packets that the programs of one host handled, and packets of an unknown MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) by_program: u64,
    pub(crate) unknown: u64,
}

impl Pair {
    pub(crate) fn start(place: Place, wire: Wire) -> Self {
        let mut testbed = Testbed::new(two_hosts());
        if wire != Wire::Whole {
            for host in testbed.lab.hosts() {
                prepare_xdp(host).unwrap();
                // GRO also because of the sender's offloads: with them a veth skips it for received packets
                // (`veth_skb_is_eligible_for_gro` in `drivers/net/veth.c`).
                let gro = if wire == Wire::Segments { "off" } else { "on" };
                host.run(&["ethtool", "-K", NIC, "tx", "off", "tso", "off", "gso", "off", "sg", "off", "gro", gro]);
            }
        }
        let rx = if wire == Wire::Xdp { "xdp" } else { "tc" };
        let sandboxes = match place {
            Place::Host => managed(&mut testbed, rx),
            Place::Sandbox => discovered(&mut testbed, rx),
        };
        let ends = [1, 2].map(|host| End::open(&testbed.pin_root(host)));
        let eth0 = [1, 2].map(|host| OffloadSocket::open(testbed.first(host), "eth0").unwrap());
        let nic = OffloadSocket::open(testbed.lab.host(2), NIC).unwrap();
        let at_eth0 = Probe::observe(testbed.first(2), "eth0", 0);
        let at_nic = Probe::observe(testbed.lab.host(2), NIC, OUTER as u32);
        let changes = vec![Probe::change(testbed.lab.host(2), NIC)];
        Self { case: Case { place, wire }, ends, eth0, nic, at_eth0, at_nic, changes, testbed, _sandboxes: sandboxes }
    }

    pub(crate) fn case(&self) -> Case {
        self.case
    }

    /// Sets the congestion mark of some packets on the wire.
    pub(crate) fn congest(&mut self) {
        self.changes.push(Probe::congest(self.testbed.lab.host(1), NIC));
    }

    /// The container of a host.
    pub(crate) fn container(&self, host: usize) -> &Container {
        self.testbed.first(host)
    }

    /// Selects the path of packets to gindemo2 on node01 and on node02.
    pub(crate) fn select(&mut self, paths: [Path; 2]) {
        for (end, path) in self.ends.iter_mut().zip(paths) {
            let change = match path {
                Path::Fast => Changes::set::<Fdb>(gindemo2(), end.entry),
                Path::Kernel => Changes::remove::<Fdb>(gindemo2()),
            };
            end.maps.write(&change).unwrap();
        }
    }

    /// Sends packets from gindemo1's `eth0`; returns those on the wire, and the counts of node01.
    pub(crate) fn send(&mut self, from: Path, packets: &[Packet]) -> (BTreeMap<usize, Vec<Packet>>, Counts) {
        self.select([from, Path::Fast]);
        self.nic.drain().unwrap();
        let before = self.counters(0);
        self.inject(packets);
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for (number, packet) in receive(&self.nic, expected(packets), OUTER) {
            found.entry(index(number)).or_default().push(packet);
        }
        (found, self.counts(0, &before, &[Reason::Encap]))
    }

    /// Sends packets from gindemo1's `eth0` by these paths; returns what gindemo2 received of each, ordered by number
    /// and length, and the counts of node02.
    pub(crate) fn deliver(
        &mut self,
        from: Path,
        to: Path,
        packets: &[Packet],
    ) -> (BTreeMap<usize, Vec<Delivered>>, Counts) {
        self.select([from, to]);
        // Packets of earlier runs have the same flow labels: their flows return to the fast path after a pause.
        let per_second = ticks(Duration::from_secs(1)) as u32;
        std::thread::sleep(Duration::from_secs(u64::from(Flow::PAUSE + 2)) / per_second);
        self.eth0[1].drain().unwrap();
        for probe in [&mut self.at_eth0, &mut self.at_nic] {
            probe.records(|_| true);
        }
        let before = self.counters(1);
        self.inject(packets);
        let mut packets = receive(&self.eth0[1], expected(packets), 0);
        // The capture precedes the program.
        let mut seen = self.at_eth0.records(|found| found >= packets.len());
        let mut at_nic = self.at_nic.records(|_| true);
        let counts = self.counts(1, &before, &[Reason::Decap, Reason::DecapXdp]);
        // CPUs that receive at the same time may write records in another order than the socket has packets.
        packets.sort_by_key(|(number, (_, frame))| (*number, frame.len()));
        let key = |seen: &Seen, outer: usize| (seen.number, value(&seen.fields, "len") as usize - outer);
        seen.sort_by_key(|seen| key(seen, 0));
        let mut found = BTreeMap::<_, Vec<_>>::new();
        assert_eq!(packets.len(), seen.len(), "packets at eth0, and records of the program there");
        for ((number, packet), seen) in packets.into_iter().zip(seen) {
            let wanted = (number, packet.1.len());
            assert_eq!(key(&seen, 0), wanted, "record of a packet");
            let position = at_nic.iter().position(|seen| key(seen, OUTER) == wanted);
            let at_nic = position.map(|position| at_nic.swap_remove(position).fields);
            let delivered = Delivered { packet, fields: seen.fields, at_nic, follows: false };
            found.entry(index(number)).or_default().push(delivered);
        }
        // GRO leaves the last segment out, if it is shorter.
        for packets in found.values_mut().filter(|packets| packets.iter().any(Delivered::is_refused)) {
            packets.iter_mut().for_each(|packet| packet.follows = true);
        }
        (found, counts)
    }

    fn inject(&self, packets: &[Packet]) {
        for (offload, frame) in packets {
            self.eth0[0].send(*offload, frame).unwrap();
        }
    }

    fn counters(&self, end: usize) -> Counters {
        self.ends[end].maps.counters([], []).unwrap()
    }

    fn counts(&self, end: usize, before: &Counters, by_program: &[Reason]) -> Counts {
        let after = self.counters(end);
        let of = |reason| counted(before, &after, reason);
        Counts { by_program: by_program.iter().copied().map(of).sum(), unknown: of(Reason::UnknownMac) }
    }
}

impl End {
    fn open(pins: &FilePath) -> Self {
        let mut maps = WritableMaps::open(pins).unwrap();
        let tables = maps.read().unwrap();
        // The programs deliver also what they would leave to the kernel, because the NIC does not merge it.
        let underlay = tables.underlay();
        let flags = underlay.flags & !flags::SEGMENTS as u16;
        maps.write(&Changes::set::<Underlays>(0, Underlay { flags, ..underlay })).unwrap();
        Self { maps, entry: tables.fdb[&gindemo2()] }
    }
}

/// Number of packets after segmentation.
fn expected(packets: &[Packet]) -> usize {
    packets.iter().map(|(offload, frame)| count(*offload, frame)).sum()
}

/// Packets with numbers until they have as many segments as expected, or for 3 s; the numbers are in the frames at
/// offset `inner`.
fn receive(socket: &OffloadSocket, expected: usize, inner: usize) -> Vec<(u16, Packet)> {
    let mut packets = Vec::new();
    let mut found = 0;
    let collect = |offload: Offload, frame: Vec<u8>| {
        if let Some(number) = frame.get(inner..).and_then(number) {
            found += count(offload, &frame);
            packets.push((number, (offload, frame)));
        }
        found >= expected
    };
    socket.receive_until(Duration::from_secs(3), collect).unwrap();
    packets
}

/// What is left to a device, as properties.
pub(crate) fn offload_fields(offload: Offload) -> Fields {
    let needs_checksum = offload.flags & Offload::NEEDS_CHECKSUM;
    // Not `Offload::IS_VALID`, which `csum_level` shows, nor the length of the linear part.
    let fields = [
        ("gso_type", offload.gso_type.into()),
        ("gso_size", offload.gso_size.into()),
        ("needs_checksum", needs_checksum.into()),
        ("csum_start", offload.csum_start.into()),
        ("csum_offset", offload.csum_offset.into()),
    ];
    fields.into_iter().map(|(name, number)| (name, Value::Number(number))).collect()
}

/// Starts the daemons of a managed network.
fn managed(testbed: &mut Testbed, rx: &str) -> Vec<NetNs> {
    testbed.receive_by(rx).unwrap();
    for host in [1, 2] {
        testbed.start(host).unwrap();
    }
    testbed.wait_until_resolved().unwrap();
    Vec::new()
}

/// Creates the sandboxes, and starts daemons that discover them.
fn discovered(testbed: &mut Testbed, rx: &str) -> Vec<NetNs> {
    let files = private_directory().unwrap();
    let hosts = testbed.lab.hosts().to_vec();
    let start = |(number, (host, other)): (usize, (&Host, &Host))| {
        let sandbox = sandbox(host, &host.containers()[0], other);
        let netns_dir = files.join(host.name());
        fs::create_dir(&netns_dir).unwrap();
        symlink(sandbox.path(), netns_dir.join("1-sandbox000")).unwrap();
        // The sandbox is older than the daemon.
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        File::open(&netns_dir).unwrap().set_modified(hour_ago).unwrap();
        let netns_dir = netns_dir.to_str().unwrap();
        testbed.start_with(number, &["--discover", "--netns-dir", netns_dir, "--rx", rx]).unwrap();
        let pins = testbed.pin_root(number);
        until("the network is accelerated", || {
            let tables = WritableMaps::open(&pins).and_then(|maps| maps.read());
            tables.is_ok_and(|tables| {
                tables.fdb.contains_key(&gindemo2())
                    && !tables.vteps.is_empty()
                    && tables.vteps.values().all(|vtep| vtep.resolved != 0)
            })
        });
        sandbox
    };
    (1..).zip(hosts.iter().zip(hosts.iter().rev())).map(start).collect()
}

/// Creates a network as Docker does: the VXLAN device is created on the host and moved.
fn sandbox(host: &Host, container: &Container, other: &Host) -> NetNs {
    let sandbox = NetNs::anonymous("sandbox").unwrap();
    let (path, inside) = (sandbox.path().display(), container.path().display());
    let (ip, mac) = (container.ip(), docker_mac(container.ip()));
    let (other_ip, vtep) = (other.containers()[0].ip(), other.address());
    let other_mac = docker_mac(other_ip);
    host.try_script(&format!(
        "ip link add vx mtu 1450 type vxlan id {VNI} dstport 4789 learning proxy l2miss l3miss udpcsum
        ip link set vx netns {path} name vxlan0"
    ))
    .unwrap();
    sandbox
        .try_script(&format!(
            "ip link add br0 mtu 1450 type bridge
            ip link set vxlan0 master br0 up
            ip link set br0 up
            ip link add veth0 mtu 1450 type veth peer name eth0 mtu 1450 address {mac} netns {inside}
            ip link set veth0 master br0 up
            bridge fdb replace {other_mac} dev vxlan0 dst {vtep} self permanent
            ip neigh replace {other_ip} lladdr {other_mac} dev vxlan0 nud permanent"
        ))
        .unwrap();
    container.try_script(&format!("ip addr add {ip}/24 dev eth0\nip link set eth0 up")).unwrap();
    // Otherwise XDP cannot redirect into the veth.
    container.run(&["ethtool", "-K", "eth0", "gro", "on"]);
    for ns in [&sandbox, &**container] {
        ns.wait_for_devices().unwrap();
    }
    sandbox
}
