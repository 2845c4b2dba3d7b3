//! Rules of the hosts that can drop frames of a managed network. Its packets take the kernel path; with the rules that
//! `overlay status` prints they take the fast path, and the connections go on past the heartbeat deadline.

use std::net::Ipv6Addr;

use overlay_tests::{
    check::{assert_lossless, until},
    lab::{Lab, firewall, traffic::TcpFlow},
    testbed::Testbed,
};
use serde_json::Value;

/// Seconds: long enough for a daemon on a busy machine to extend the deadline in time.
const DEADLINE: u32 = 3;

/// `fd00::6`, an address of gindemo2.
const GINDEMO2_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 6);

/// The rules of Docker on a host where it has enabled forwarding. `TOOL` is the command.
const DOCKER: &str = "TOOL -P FORWARD DROP
    TOOL -N DOCKER-USER
    TOOL -A FORWARD -j DOCKER-USER
    TOOL -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    TOOL -A FORWARD -i docker0 ! -o docker0 -j ACCEPT";

/// A stateful firewall that lets every connection begin.
const STATEFUL: &str = "add table inet fw { chain forward { type filter hook forward priority 0; policy accept; \
                        ct state invalid drop; ct state established,related accept; }; }";

fn rules_of_docker(variant: &str) -> String {
    ["iptables", "ip6tables"].map(|tool| DOCKER.replace("TOOL", &format!("{tool}-{variant}"))).join("\n")
}

/// Two hosts with these rules and a daemon each.
fn start(rules: &str) -> Testbed {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.deadline = Some(DEADLINE);
    for host in setup.lab.hosts() {
        host.try_script(rules).unwrap();
    }
    for host in [1, 2] {
        setup.start(host).unwrap();
    }
    setup
}

/// Why the network takes the kernel path on a host.
fn finding(setup: &Testbed, host: usize) -> Option<Value> {
    let report = setup.daemon(host).overlay(&["status", "--json"]).unwrap();
    Some(report["networks"][0]["finding"].clone()).filter(|finding| !finding.is_null())
}

/// Kills the daemons, and waits until the programs pass all packets to the kernel.
fn let_deadline_expire(setup: &mut Testbed) {
    for host in [1, 2] {
        setup.daemon_mut(host).kill9().unwrap();
    }
    for host in [1, 2] {
        until(&format!("the deadline of node0{host} has expired"), || {
            setup.daemon(host).overlay(&["status", "--json"]).unwrap()["heartbeat"]["expired"] == true
        });
    }
}

/// The network takes the kernel path until the printed rules are added, `count` of them. After that connections go on
/// past the deadline.
fn assert_kept(rules: &str, count: usize) {
    let mut setup = start(rules);
    for host in [1, 2] {
        let commands = firewall::commands(&finding(&setup, host).expect("the network is accelerated"));
        assert_eq!(commands.len(), count, "{commands:?}");
        for command in commands {
            firewall::run(setup.lab.host(host), &command);
        }
        until("the network is accelerated", || finding(&setup, host).is_none());
    }
    setup.wait_until_resolved().unwrap();
    setup.add_ipv6();
    let load = setup.load(500);
    let ipv6 = TcpFlow::start(setup.first(1), setup.first(2), GINDEMO2_IPV6.into(), Some(1_000_000)).unwrap();
    setup.by_fast_path(300, 300, || {
        load.wait_for(300).unwrap();
        ipv6.wait_for(100_000).unwrap();
    });
    let_deadline_expire(&mut setup);
    let before = [1, 2].map(|host| setup.counts(host));
    load.wait_for(300).unwrap();
    ipv6.wait_for(100_000).unwrap();
    for host in [1, 2] {
        let counts = setup.counts(host).since(&before[host - 1]);
        assert_eq!((counts.of("encap"), counts.received()), (0, 0), "{counts:?}");
        assert!(counts.of("stale") >= 600 && counts.vxlan >= 600, "{counts:?}");
    }
    ipv6.stop().unwrap();
    assert_lossless(&load.stop().unwrap());
}

#[test]
fn printed_rules_beside_docker_keep_connections_past_deadline() {
    assert_kept(&rules_of_docker("nft"), 2);
}

#[test]
fn printed_rules_of_iptables_legacy_keep_connections_past_deadline() {
    assert_kept(&rules_of_docker("legacy"), 2);
}

#[test]
fn printed_rule_of_stateful_firewall_keeps_connections_past_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules");
    std::fs::write(&file, STATEFUL).unwrap();
    assert_kept(&format!("nft -f {}", file.display()), 1);
}
