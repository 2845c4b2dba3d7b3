//! `overlay audit` finds and repairs exactly the entry that a test changed.

use std::{fs, net::Ipv4Addr};

use aya::{
    EbpfLoader,
    programs::{
        SchedClassifier,
        links::{FdLink, PinnedLink},
        tc::SchedClassifierLink,
    },
};
use overlay_common::{
    MacAddr,
    maps::{self, FdbEntry, FdbKey, Network, Peer, PeerKey, Port, PortKey, Underlay, Vtep},
    names,
};
use overlay_tests::lab::{Lab, NIC};
use overlay_tests::maps::WritableMaps;
use overlay_user::testing::{
    apply::object,
    observe::{AuditReport, Difference, Kind, Owner},
    plan::{Changes, Fdb, Networks, Peers, Ports, Tables, TxPorts, Underlays, Vteps},
};

use overlay_tests::check::{interfaces, links, until};
use overlay_tests::testbed::Testbed;

const VNI: u32 = 4097;
const NODE2: [u8; 4] = [192, 168, 1, 10];
const MAC2: MacAddr = MacAddr([0x02, 0x42, 10, 0, 1, 6]);
const UNKNOWN: MacAddr = MacAddr([0x02, 0x42, 10, 0, 1, 99]);
const VXLAN: &str = "ovlvx4097";
const BRIDGE: &str = "ovlbr4097";

/// Two hosts that receive by XDP: every map and every kind of hook is in use.
struct Audited {
    setup: Testbed,
    /// The name of gindemo1's host-side interface, and its index.
    port: (String, u32),
    nic: u32,
}

/// Expected differences: table, object, kind.
type Expected<'a> = [(&'a str, String, Kind)];

impl Audited {
    fn start() -> Self {
        let mut setup = Testbed::new(Lab::two_hosts());
        setup.receive_by("xdp").unwrap();
        let setup = setup.run();
        let host = setup.lab.host(1);
        let port = interfaces(host).into_iter().find(|name| name.starts_with("ovl") && name.len() == 13).unwrap();
        let index = |name: &str| {
            let links = links(host);
            let link = links.iter().find(|link| link["ifname"] == name).unwrap();
            u32::try_from(link["ifindex"].as_u64().unwrap()).unwrap()
        };
        let (index_of_port, nic) = (index(&port), index(NIC));
        let audited = Self { port: (port, index_of_port), nic, setup };
        audited.assert_clean();
        audited
    }

    /// Runs `overlay audit` on node01; returns exit code and report.
    fn audit(&self, arguments: &[&str]) -> (Option<i32>, AuditReport) {
        let output = self.setup.daemon(1).output(&[&["audit", "--json"], arguments].concat()).unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"));
        (output.status.code(), report)
    }

    #[track_caller]
    fn assert_clean(&self) {
        let (code, report) = self.audit(&[]);
        assert!(report.clean && report.differences.is_empty(), "{report:#?}");
        assert_eq!(code, Some(0));
    }

    /// Two audits find exactly `expected`; a repair leaves no difference.
    #[track_caller]
    fn assert_repairs(&self, what: &str, expected: &Expected<'_>) {
        for _ in 0..2 {
            let (code, report) = self.audit(&[]);
            assert_eq!(found(&report), expected, "{what}: {report:#?}");
            assert!(
                !report.clean && report.differences.iter().all(|difference| difference.repaired.is_none()),
                "{what}"
            );
            assert_eq!(code, Some(1), "{what}");
        }
        let (code, report) = self.audit(&["--repair"]);
        assert_eq!(found(&report), expected, "{what}: {report:#?}");
        let repaired =
            |difference: &Difference| difference.repaired == Some(true) && difference.owner == Owner::Overlay;
        assert!(report.clean && report.differences.iter().all(repaired), "{what}: {report:#?}");
        assert_eq!(code, Some(0), "{what}");
        self.assert_clean();
    }

    fn maps(&self) -> WritableMaps {
        WritableMaps::open(&self.setup.pin_root(1)).unwrap()
    }

    /// Changes a map directly, without notice to the daemon.
    #[track_caller]
    fn change(&self, map: &str, object: &str, kind: Kind, change: &Changes) {
        // Interface indices are resolved in the netns of the writer.
        self.setup.lab.host(1).enter(|| self.maps().write(change)).unwrap();
        self.assert_repairs(&format!("{change:?}"), &[(map, object.to_owned(), kind)]);
    }

    /// Removes an entry, changes it, and adds a stray one.
    #[track_caller]
    fn break_map(&self, map: &str, [own, stray]: [&str; 2], [remove, change, add]: [Changes; 3]) {
        let before = self.tables();
        self.change(map, own, Kind::Missing, &remove);
        self.change(map, own, Kind::Differs, &change);
        self.change(map, stray, Kind::Stray, &add);
        assert_eq!(self.tables(), before, "{map}");
        self.setup.ping_both_ways();
    }

    fn tables(&self) -> Tables {
        self.maps().read().unwrap()
    }

    /// Runs a command on node01 and audits the change.
    #[track_caller]
    fn run(&self, command: &str, expected: &Expected<'_>) {
        self.setup.lab.host(1).run(&command.split(' ').collect::<Vec<_>>());
        self.assert_repairs(command, expected);
    }
}

fn found(report: &AuditReport) -> Vec<(&str, String, Kind)> {
    let of = |difference: &'_ Difference| {
        assert!(!difference.finding.problem.is_empty(), "{difference:?}");
        (difference.finding.object.clone(), difference.kind)
    };
    let rows = report.differences.iter().map(|difference| (difference.table.as_str(), of(difference)));
    rows.map(|(table, (object, kind))| (table, object, kind)).collect()
}

#[test]
fn audit_repairs_every_map() {
    let audited = Audited::start();
    let Tables { underlay, vteps, networks, peers, txports, fdb, ports, retired: _ } = audited.tables();
    assert_eq!((vteps.len(), networks.len(), peers.len(), txports.len(), fdb.len(), ports.len()), (1, 1, 1, 1, 2, 1));
    let (device, port) = (audited.port.0.as_str(), PortKey::host(audited.port.1));
    let stray = PortKey::host(99_999);
    audited.break_map(
        maps::PORTS.name,
        [device, "interface 99999"],
        [
            Changes::remove::<Ports>(port),
            Changes::set::<Ports>(port, Port { mac: UNKNOWN.0, ..ports[&port] }),
            Changes::set::<Ports>(stray, ports[&port]),
        ],
    );
    let (key, other) = (FdbKey::new(VNI, MAC2), FdbKey::new(VNI, UNKNOWN));
    audited.break_map(
        maps::FDB.name,
        ["VNI 4097 02:42:0a:00:01:06", "VNI 4097 02:42:0a:00:01:63"],
        [
            Changes::remove::<Fdb>(key),
            Changes::set::<Fdb>(key, FdbEntry::local(FdbEntry::LOCAL_PEER, port.ifindex)),
            Changes::set::<Fdb>(other, fdb[&key]),
        ],
    );
    let (index, vtep) = vteps.first_key_value().map(|(index, vtep)| (*index, *vtep)).unwrap();
    audited.break_map(
        maps::VTEPS.name,
        [&format!("index {index}"), "index 77"],
        [
            Changes::remove::<Vteps>(index),
            Changes::set::<Vteps>(index, Vtep { mtu: 1000, ..vtep }),
            Changes::set::<Vteps>(77, vtep),
        ],
    );
    let (key, other) = (PeerKey { vni: VNI, addr: NODE2 }, PeerKey { vni: VNI, addr: [192, 168, 1, 77] });
    audited.break_map(
        maps::PEERS.name,
        ["VNI 4097 192.168.1.10", "VNI 4097 192.168.1.77"],
        [
            Changes::remove::<Peers>(key),
            Changes::set::<Peers>(key, Peer { port: 1, ..peers[&key] }),
            Changes::set::<Peers>(other, peers[&key]),
        ],
    );
    audited.break_map(
        maps::NETWORKS.name,
        ["VNI 4097", "VNI 9"],
        [
            Changes::remove::<Networks>(VNI),
            Changes::set::<Networks>(VNI, Network { mtu: 1000, ..networks[&VNI] }),
            Changes::set::<Networks>(9, networks[&VNI]),
        ],
    );
    let key = *txports.first_key_value().unwrap().0;
    audited.break_map(
        maps::TXPORTS.name,
        [&format!("key {key}"), "key 77"],
        [
            Changes::remove::<TxPorts>(key),
            Changes::set::<TxPorts>(key, PortKey::host(audited.nic)),
            Changes::set::<TxPorts>(77, PortKey::host(audited.nic)),
        ],
    );
    // An array of one entry can only differ.
    let mut changed = underlay[&0];
    changed.mac = UNKNOWN.0;
    for broken in [Underlay::default(), changed] {
        audited.change(maps::UNDERLAY.name, "index 0", Kind::Differs, &Changes::set::<Underlays>(0, broken));
    }
    audited.setup.ping_both_ways();
}

#[test]
fn audit_repairs_kernel_tables() {
    use Kind::{Differs, Missing, Stray};
    let audited = Audited::start();
    let port = audited.port.0.clone();
    let (at_vxlan, at_bridge) = (format!("{VXLAN} {MAC2}"), format!("{BRIDGE} {MAC2}"));
    let (stray_at_vxlan, stray_at_bridge) = (format!("{VXLAN} {UNKNOWN}"), format!("{BRIDGE} {UNKNOWN}"));
    let flood = |last: u8| format!("{VXLAN} 192.168.1.{last}");
    let neighbour = |last: u8| format!("{BRIDGE} {}", Ipv4Addr::new(10, 0, 1, last));
    let zero = MacAddr::default();
    for (command, expected) in [
        (format!("bridge fdb del {MAC2} dev {VXLAN} dst 192.168.1.10 self"), vec![("fdb", at_vxlan.clone(), Missing)]),
        (
            format!("bridge fdb replace {MAC2} dev {VXLAN} dst 192.168.1.77 self permanent"),
            vec![("fdb", at_vxlan.clone(), Differs)],
        ),
        // Another UDP port.
        (
            format!("bridge fdb replace {MAC2} dev {VXLAN} dst 192.168.1.10 port 4790 self permanent"),
            vec![("fdb", at_vxlan.clone(), Differs)],
        ),
        (
            format!("bridge fdb add {UNKNOWN} dev {VXLAN} dst 192.168.1.10 self permanent"),
            vec![("fdb", stray_at_vxlan, Stray)],
        ),
        // The flood list is a set of VTEPs: its entries cannot differ.
        (format!("bridge fdb del {zero} dev {VXLAN} dst 192.168.1.10 self"), vec![("flood", flood(10), Missing)]),
        (
            format!("bridge fdb append {zero} dev {VXLAN} dst 192.168.1.77 self permanent"),
            vec![("flood", flood(77), Stray)],
        ),
        (format!("bridge fdb del {MAC2} dev {VXLAN} master"), vec![("bridge_fdb", at_bridge.clone(), Missing)]),
        (
            format!("bridge fdb replace {MAC2} dev {port} master static sticky"),
            vec![("bridge_fdb", at_bridge.clone(), Differs)],
        ),
        // Not sticky: a received frame can move the entry.
        (
            format!("bridge fdb replace {MAC2} dev {VXLAN} master static"),
            vec![("bridge_fdb", at_bridge.clone(), Differs)],
        ),
        (format!("bridge fdb add {UNKNOWN} dev {VXLAN} master static"), vec![("bridge_fdb", stray_at_bridge, Stray)]),
        (format!("ip neigh del 10.0.1.6 dev {BRIDGE}"), vec![("neighbours", neighbour(6), Missing)]),
        (
            format!("ip neigh replace 10.0.1.6 lladdr {UNKNOWN} dev {BRIDGE} nud permanent"),
            vec![("neighbours", neighbour(6), Differs)],
        ),
        (
            format!("ip neigh add 10.0.1.99 lladdr {UNKNOWN} dev {BRIDGE} nud permanent"),
            vec![("neighbours", neighbour(99), Stray)],
        ),
    ] {
        audited.run(&command, &expected);
    }
    audited.setup.ping_both_ways();
    // The daemon receives no events of the container's netns.
    for command in
        ["ip addr del 10.0.1.2/24 dev eth0", "ip link set eth0 mtu 1000", "ip link set eth0 address 02:0:0:0:0:1"]
    {
        audited.setup.first(1).run(&command.split(' ').collect::<Vec<_>>());
        audited.assert_repairs(command, &[("devices", port.clone(), Differs)]);
        audited.setup.ping_both_ways();
    }
}

#[test]
fn audit_repairs_hooks_and_pins() {
    let audited = Audited::start();
    let (device, index) = &audited.port;
    let links = audited.setup.pin_root(1).join("links");
    // Another program in the pinned link.
    let mut other = EbpfLoader::new().load(object()).unwrap();
    let program: &mut SchedClassifier = other.program_mut(names::PORT_IN).unwrap().try_into().unwrap();
    program.load().unwrap();
    let link = FdLink::from(PinnedLink::from_pin(links.join(format!("port-{index}"))).unwrap());
    let id = program.attach_to_link(SchedClassifierLink::try_from(link).unwrap()).unwrap();
    drop(program.take_link(id).unwrap());
    audited.assert_repairs("another program", &[("hooks", format!("{} on {device}", names::PORT_IN), Kind::Differs)]);

    for map in maps::MAPS.map(|map| map.name) {
        fs::remove_file(audited.setup.pin_root(1).join(map)).unwrap();
        audited.assert_repairs(&format!("without the pin {map}"), &[("pins", map.to_owned(), Kind::Missing)]);
    }
    audited.setup.ping_both_ways();
}

#[test]
fn audit_exits_with_3_without_daemon() {
    let mut setup = Testbed::two_hosts();
    setup.daemon_mut(1).kill9().unwrap();
    let output = setup.daemon(1).output(&["audit"]).unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("no daemon answers") && text.contains("overlay run"), "{text}");
}

/// Without an underlay there is no desired state.
#[test]
fn audit_exits_with_2_without_underlay() {
    let setup = Testbed::two_hosts();
    setup.lab.host(1).run(&["ip", "addr", "del", "192.168.1.9/24", "dev", NIC]);
    until("the daemon has noticed", || setup.daemon(1).log().contains("no interface has the address"));
    let output = setup.daemon(1).output(&["audit"]).unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("cannot be compared") && text.contains("192.168.1.9"), "{text}");
}

/// Text output of a difference and its repair.
#[test]
fn audit_text_names_remedy() {
    let setup = Testbed::two_hosts();
    WritableMaps::open(&setup.pin_root(1)).unwrap().write(&Changes::remove::<Fdb>(FdbKey::new(VNI, MAC2))).unwrap();
    let output = setup.daemon(1).output(&["audit"]).unwrap();
    let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    for part in [
        "missing OVL_FDB VNI 4097 02:42:0a:00:01:06",
        "wanted  VTEP 192.168.1.10",
        "found   none",
        "bpftool",
        "1 difference",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(error.contains("; repair with `overlay audit --repair`"), "{error}");
    let output = setup.daemon(1).output(&["audit", "--repair"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("(repaired)"), "{text}");
}

/// Whatever the cause, a network or port that takes the kernel path is in the audit if it is in the status.
#[test]
fn audit_lists_what_status_lists_on_the_kernel_path() {
    let setup = Testbed::new(Lab::two_hosts()).run();
    let host = setup.lab.host(1);
    let of_status = || -> Vec<String> {
        let status = setup.daemon(1).overlay(&["status", "--json"]).unwrap();
        let networks = status["networks"].as_array().unwrap().iter();
        let listed = networks.flat_map(|network| {
            // Packets of all ports of a refused network take the kernel path.
            let ports = network["ports"].as_array().into_iter().flatten();
            let ports = ports.filter(|_| network["state"] == "accelerated");
            ports.chain([network]).filter_map(|listed| listed["finding"]["problem"].as_str())
        });
        listed.map(str::to_owned).collect()
    };
    let of_audit = || -> Vec<String> {
        let output = setup.daemon(1).output(&["audit", "--json"]).unwrap();
        let report: AuditReport = serde_json::from_slice(&output.stdout).unwrap();
        report.refused.into_iter().map(|finding| finding.problem).collect()
    };
    let port = interfaces(host).into_iter().find(|name| name.starts_with("ovl") && name.len() == 13).unwrap();
    let shape = |verb| format!("tc qdisc {verb} dev {port} root pfifo");
    for (set, undo, words) in [
        ("ethtool -K ovlvx4097 tx off", "ethtool -K ovlvx4097 tx on tso on", "tx-checksum-ip-generic"),
        ("ip link set ovlbr4097 type bridge ageing_time 0", "ip link set ovlbr4097 type bridge ageing_time 30000", "0"),
        ("tc qdisc add dev ovlbr4097 root pfifo", "tc qdisc del dev ovlbr4097 root", "pfifo"),
        ("ebtables-nft -P FORWARD DROP", "nft flush ruleset", "nft table bridge filter"),
        ("ip xfrm policy add src 10.9.0.1 dst 10.9.0.2 dir out", "ip xfrm policy flush", "XFRM"),
        (&shape("add"), &shape("del"), "pfifo"),
    ] {
        host.try_script(set).unwrap();
        until(set, || of_status().iter().any(|problem| problem.contains(words)));
        until("both list the same", || of_audit() == of_status());
        host.try_script(undo).unwrap();
        until(undo, || of_status().is_empty());
        until("the audit lists nothing", || of_audit().is_empty());
    }
}
