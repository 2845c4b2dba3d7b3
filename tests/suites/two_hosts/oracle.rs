//! The oracle `overlay_tests::tables` names every field of a map and every property of a kernel object that a test
//! changes. The daemon of node01 does not run meanwhile, so nothing repairs them.

use std::time::Duration;

use aya::{
    EbpfLoader,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use overlay_common::{maps, names};
use overlay_tests::{
    check::{interfaces, links},
    lab::{Lab, NIC, NetNs},
    tables::{TABLES, Table},
    testbed::Testbed,
};
use overlay_user::testing::apply::object;

/// Two hosts with a strict network that receive by XDP, so that every map and hook is in use. The deadline is so long
/// that it does not pass without a daemon.
fn stopped() -> Testbed {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.receive_by("xdp").unwrap();
    setup.cluster.networks[0].strict = true;
    setup.deadline = Some(86_400);
    let mut setup = setup.run();
    setup.wait_until_converged();
    setup.daemon_mut(1).kill9().unwrap();
    setup
}

/// Differences of node01, without its name.
fn differences(setup: &Testbed) -> Vec<String> {
    let lines = setup.expected(1).differences().unwrap();
    lines.iter().map(|line| line.strip_prefix("node01: ").unwrap().to_owned()).collect()
}

/// Asserts that there is one difference for each of `expected`, which are its beginnings.
#[track_caller]
fn assert_differs(setup: &Testbed, what: &str, expected: &[String]) {
    let found = differences(setup);
    let is_named = |beginning: &String| found.iter().filter(|line| line.starts_with(beginning)).count() == 1;
    assert!(found.len() == expected.len() && expected.iter().all(is_named), "{what}: {expected:#?}, found {found:#?}");
}

/// Changes entries of a map without notice to anybody.
struct Entries<'a>(&'a Testbed, Table);

impl Entries<'_> {
    fn set(&self, key: &[u8], value: Option<&[u8]>) {
        // The kernel resolves devices in the namespace of the writer.
        self.0.lab.host(1).enter(|| self.1.write(&self.0.pin_root(1), key, value)).unwrap();
    }

    /// A change of one entry leads to one difference.
    #[track_caller]
    fn assert_named(&self, key: &[u8], value: Option<&[u8]>, problem: &str) {
        self.set(key, value);
        let object = self.1.object(key);
        assert_differs(self.0, &object, &[format!("{object}: {problem}")]);
    }
}

#[test]
fn oracle_names_every_changed_field_of_every_map() {
    let setup = stopped();
    for table in TABLES {
        let (entries, rows) = (Entries(&setup, table), table.read(&setup.pin_root(1)).unwrap());
        assert!(!rows.is_empty(), "{} has no entry", table.map.name);
        for (key, value) in &rows {
            for field in (table.value)(value) {
                let (mut changed, name) = (value.clone(), field.name);
                // Of a number the most significant byte: the heartbeat deadline has a range.
                changed[field.bytes.end - 1] ^= 1;
                if table.map == maps::TXPORTS {
                    match name.as_str() {
                        // The device must exist.
                        "ifindex" => changed[field.bytes].copy_from_slice(&index_of(&setup, NIC).to_ne_bytes()),
                        // The kernel accepts only programs of a kind that overlay does not have.
                        _ => continue,
                    }
                }
                entries.assert_named(key, Some(&changed), &format!("{name}: expected"));
                entries.set(key, Some(value));
            }
            entries.assert_named(key, None, "missing");
            entries.set(key, Some(value));
            for field in (table.key)(key).into_iter().filter(|_| table.map.entries > 1) {
                let mut stray = key.clone();
                stray[field.bytes.start] ^= 1;
                entries.assert_named(&stray, Some(value), "unexpected");
                entries.set(&stray, None);
            }
        }
        assert_eq!(differences(&setup), [""; 0], "{} is restored", table.map.name);
    }
    setup.ping_both_ways();
}

fn index_of(setup: &Testbed, device: &str) -> u32 {
    let links = links(setup.lab.host(1));
    let link = links.iter().find(|link| link["ifname"] == device).unwrap();
    link["ifindex"].as_u64().unwrap().try_into().unwrap()
}

/// Changes on node01: commands, the beginnings of the differences, and commands that restore the state. `$B` is the
/// bridge, `$V` the VXLAN device, `$P` gindemo1's port, `$E` the name of the endpoint, `$M` gindemo2's MAC address, `$X`
/// an unknown one.
const ON_HOST: &[(&str, &[&str], &str)] = &[
    ("ip link set $B mtu 1400", &["device $B: mtu: expected 1450, found 1400"], "ip link set $B mtu 1450"),
    ("ip link set $V mtu 1400", &["device $V: mtu"], "ip link set $V mtu 1450"),
    ("ip link set $P mtu 1400", &["device $E: mtu"], "ip link set $P mtu 1450"),
    ("ip link set $V down", &["device $V: up", "bridge port $V: state"], "ip link set $V up"),
    ("ip link set $P down", &["device $E: up", "bridge port $E: state"], "ip link set $P up"),
    ("ip link set $V alias 'overlay x'", &["device $V: mark"], "ip link set $V alias 'overlay my-overlay-network'"),
    ("ip link add s type bridge; ip link set s alias 'overlay s'", &["device s: unexpected"], "ip link del s"),
    ("ip link set $V type vxlan learning", &["device $V: options"], "ip link set $V type vxlan nolearning"),
    (
        "ip link set $V type vxlan ttl 5",
        &["device $V: options", "OVL_VTEPS key 0: outer.ttl: expected 5", "OVL_VTEPS key 0: ip_sum"],
        "ip link set $V type vxlan ttl 64",
    ),
    (
        "ip link set $B type bridge mcast_snooping 1 group_fwd_mask 8",
        &["device $B: mcast_snooping", "device $B: group_fwd_mask"],
        "ip link set $B type bridge mcast_snooping 0 group_fwd_mask 0",
    ),
    ("ip link set $B type bridge stp_state 1", &["device $B: stp_state"], "ip link set $B type bridge stp_state 0"),
    ("ip addr add 10.0.1.77/24 dev $B", &["device $B: addresses"], "ip addr del 10.0.1.77/24 dev $B"),
    ("ip addr add fe80::7/64 dev $V", &["device $V: addresses"], "ip addr del fe80::7/64 dev $V"),
    // The kernel flushes the neighbours of a bridge with another MAC address.
    (
        "ip link set $B address $X",
        &["device $B: address:", "neighbour $B 10.0.1.6: missing"],
        "ip link set $B address 02:42:0a:00:01:01; ip neigh add 10.0.1.6 lladdr $M dev $B nud permanent",
    ),
    (
        "bridge link set dev $V learning on neigh_suppress off flood off mcast_flood off bcast_flood off hairpin on \
         guard on isolated on vlan_tunnel on",
        &[
            "bridge port $V: learning",
            "bridge port $V: neigh_suppress",
            "bridge port $V: flood",
            "bridge port $V: mcast_flood",
            "bridge port $V: bcast_flood",
            "bridge port $V: hairpin",
            "bridge port $V: guard",
            "bridge port $V: isolated",
            "bridge port $V: vlan_tunnel",
        ],
        "bridge link set dev $V learning off neigh_suppress on flood on mcast_flood on bcast_flood on hairpin off \
         guard off isolated off vlan_tunnel off",
    ),
    ("bridge link set dev $P locked on", &["bridge port $E: locked"], "bridge link set dev $P locked off"),
    (
        "ip link set $P nomaster",
        &["bridge port $E: missing", "bridge FDB 4097 02:42:0a:00:01:02: missing"],
        "ip link set $P master $B; bridge fdb add 02:42:0a:00:01:02 dev $P master static sticky",
    ),
    (
        "bridge fdb del $M dev $V dst 192.168.1.10 self",
        &["VXLAN FDB 4097 $M: missing"],
        "bridge fdb add $M dev $V dst 192.168.1.10 self permanent",
    ),
    (
        "bridge fdb replace $M dev $V dst 192.168.1.77 self permanent",
        &["VXLAN FDB 4097 $M: entry"],
        "bridge fdb replace $M dev $V dst 192.168.1.10 self permanent",
    ),
    (
        "bridge fdb replace $M dev $V dst 192.168.1.10 port 4790 self permanent",
        &["VXLAN FDB 4097 $M: entry"],
        "bridge fdb replace $M dev $V dst 192.168.1.10 self permanent",
    ),
    (
        "bridge fdb add $X dev $V dst 192.168.1.10 self permanent",
        &["VXLAN FDB 4097 $X: unexpected"],
        "bridge fdb del $X dev $V dst 192.168.1.10 self",
    ),
    (
        "bridge fdb append 00:00:00:00:00:00 dev $V dst 192.168.1.77 self permanent",
        &["VXLAN FDB 4097 00:00:00:00:00:00: entry"],
        "bridge fdb del 00:00:00:00:00:00 dev $V dst 192.168.1.77 self",
    ),
    (
        "bridge fdb del $M dev $V master",
        &["bridge FDB 4097 $M: missing"],
        "bridge fdb add $M dev $V master static sticky",
    ),
    (
        "bridge fdb replace $M dev $P master static sticky",
        &["bridge FDB 4097 $M: $V: expected", "bridge FDB 4097 $M: $E: expected none"],
        "bridge fdb replace $M dev $V master static sticky",
    ),
    // A frame from another port moves an entry that is not sticky.
    (
        "bridge fdb replace $M dev $V master static",
        &["bridge FDB 4097 $M: $V: expected"],
        "bridge fdb replace $M dev $V master static sticky",
    ),
    (
        "ip neigh del 10.0.1.6 dev $B",
        &["neighbour $B 10.0.1.6: missing"],
        "ip neigh add 10.0.1.6 lladdr $M dev $B nud permanent",
    ),
    (
        "ip neigh replace 10.0.1.6 lladdr $X dev $B nud permanent",
        &["neighbour $B 10.0.1.6: entry"],
        "ip neigh replace 10.0.1.6 lladdr $M dev $B nud permanent",
    ),
    (
        "ip neigh add 10.0.1.99 lladdr $X dev $B nud permanent",
        &["neighbour $B 10.0.1.99: unexpected"],
        "ip neigh del 10.0.1.99 dev $B",
    ),
];

/// The same in gindemo1. `$I` is its end of the veth.
const IN_CONTAINER: &[(&str, &[&str], &str)] = &[
    ("ip link set eth0 mtu 1400", &["$I: mtu"], "ip link set eth0 mtu 1450"),
    ("ip link set eth0 address $X", &["$I: address:"], "ip link set eth0 address 02:42:0a:00:01:02"),
    ("ip addr add 10.0.9.9/24 dev eth0", &["$I: addresses"], "ip addr del 10.0.9.9/24 dev eth0"),
    ("ip route del default", &["$I: default route"], "ip route add default via 10.0.1.1"),
    ("ethtool -K eth0 gro off", &["$I: GRO"], "ethtool -K eth0 gro on"),
    (
        "ip link set eth0 down",
        &["$I: up", "$I: default route", "bridge port $E: state"],
        "ip link set eth0 up; ip route add default via 10.0.1.1",
    ),
];

/// Attaches a program with other maps and another sample interval to a port of node01 while `check` runs.
fn with_other_program(setup: &Testbed, port: &str, hook: TcAttachType, check: impl FnOnce() + Send) {
    setup.lab.host(1).enter(|| {
        let mut other = EbpfLoader::new().override_global("OVL_INTERVAL", &1_u32, true).load(object()).unwrap();
        let program: &mut SchedClassifier = other.program_mut(names::PORT_IN).unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach_with_options(port, hook, TcAttachOptions::TcxOrder(LinkOrder::last())).unwrap();
        check();
    });
}

#[test]
fn oracle_names_every_changed_kernel_object() {
    let setup = stopped();
    let (host, container) = (setup.lab.host(1), setup.first(1));
    let port = interfaces(host).into_iter().find(|name| name.len() == 13).unwrap();
    let fill = |text: &str| {
        let (endpoint, inside) = ("my-overlay-network/gindemo1", "container end of my-overlay-network/gindemo1");
        let names = [("$B", "ovlbr4097"), ("$V", "ovlvx4097"), ("$P", &port), ("$E", endpoint), ("$I", inside)];
        let macs = [("$M", "02:42:0a:00:01:06"), ("$X", "02:42:0a:00:01:63")];
        names.into_iter().chain(macs).fold(text.to_owned(), |text, (variable, value)| text.replace(variable, value))
    };
    let expect = |what: &str, expected: &[&str]| {
        assert_differs(&setup, what, &expected.iter().map(|line| fill(line)).collect::<Vec<_>>());
    };
    let script = |ns: &NetNs, text: &str| drop(ns.run(&["sh", "-ec", &fill(text)]));
    for (ns, changes) in [(&**host, ON_HOST), (container, IN_CONTAINER)] {
        for (change, expected, restore) in changes {
            script(ns, change);
            expect(change, expected);
            script(ns, restore);
            setup.expected(1).wait(Duration::from_secs(20)).unwrap();
        }
    }

    with_other_program(&setup, &port, TcAttachType::Egress, || {
        expect("egress", &["hooks of $E: TCX egress: expected none", "ovl_port_in at TCX egress of $E: unexpected"]);
    });
    with_other_program(&setup, &port, TcAttachType::Ingress, || {
        expect(
            "twice",
            &[
                "hooks of $E: TCX ingress: expected ovl_port_check and ovl_port_in, found ovl_port_check and ovl_port_in and \
                 ovl_port_in",
                "ovl_port_in at TCX ingress of $E: maps",
                "ovl_port_in at TCX ingress of $E: OVL_INTERVAL",
            ],
        );
    });
    assert_eq!(differences(&setup), [""; 0]);

    // The rest is restored by the daemon. A VXLAN device with other options loses its entries.
    script(
        host,
        "ip link del $V
        ip link add $V mtu 1450 type vxlan id 4098 local 192.168.1.10 dev enp0s3 dstport 4790 nolearning noudpcsum
        ip link set $V alias 'overlay my-overlay-network'
        ip link set $V master $B up",
    );
    let found = differences(&setup);
    let options = found.iter().find(|line| line.starts_with("device ovlvx4097: options")).unwrap();
    for value in ["4098", "192.168.1.10", "4790"] {
        assert!(options.split_once("found").unwrap().1.contains(value), "{options}");
    }
    let mut setup = setup;
    let (nic, port) = (index_of(&setup, NIC), index_of(&setup, &port));
    for (link, missing) in [
        (
            format!("port-{port}"),
            "hooks of my-overlay-network/gindemo1: TCX ingress: expected ovl_port_check and ovl_port_in, found \
             ovl_port_check",
        ),
        (
            format!("nic-{nic}"),
            "hooks of enp0s3: TCX ingress: expected ovl_nic_check and ovl_nic_in, found ovl_nic_check",
        ),
        (format!("xdp-{nic}"), "hooks of enp0s3: XDP driver: expected ovl_nic_xdp, found none"),
    ] {
        let pin = setup.pin_root(1).join("links").join(link);
        setup.lab.host(1).run(&["bpftool", "link", "detach", "pinned", &pin.display().to_string()]);
        assert!(differences(&setup).contains(&missing.to_owned()), "{:#?}", differences(&setup));
    }
    setup.daemon_mut(1).restart().unwrap();
    setup.wait_until_converged();
    setup.ping_both_ways();
}
