//! Netlink requests of a daemon: a round reads each table of a netns once.

use std::{collections::BTreeMap, thread, time::Duration};

use overlay_tests::{
    check::until,
    lab::{Cluster, Daemon, Lab, NetNs, overlay_binary, private_bpffs},
};

use crate::node::{Node, SANDBOX};

const VNI: u32 = 4098;
/// Longer than the interval between complete reads by the daemon and by discovery.
const IDLE: Duration = Duration::from_millis(5500);
/// Tables that a round reads once per netns. A container's addresses are in another netns.
const TABLES: [&str; 4] = ["links", "addresses", "FDB", "neighbours"];
/// Maximum number of requests of a round without changes and with one VTEP: links, addresses, rules, XFRM policies and
/// their default; neighbour and probe of the VTEP; two route lookups for each network, because one VXLAN device has `local`
/// and the other has not; the other end of the endpoint's veth, the qdiscs, and the version of the netfilter rules.
const IDLE_REQUESTS: usize = 14;

/// The requests of one round.
#[derive(Debug, Default)]
struct Round {
    /// Number of requests by netns and request, which begins with `dump`, `get` or `change`.
    requests: BTreeMap<(String, String), usize>,
    visits: BTreeMap<String, usize>,
}

impl Round {
    fn count(&self, matches: impl Fn(&str) -> bool) -> usize {
        self.requests.iter().filter(|((_, request), _)| matches(request)).map(|(_, count)| count).sum()
    }

    /// Devices were added, changed or removed (`RTM_NEWLINK` to `RTM_DELLINK`, `RTM_SETLINK`).
    fn has_changed_links(&self) -> bool {
        self.count(|request| ["change: type 0x10", "change: type 0x11", "change: type 0x13"].contains(&request)) > 0
    }
}

/// Rounds of the daemon or of discovery, in order.
fn rounds(log: &str, of: &str) -> Vec<Round> {
    let mut rounds = Vec::<Round>::new();
    for line in log.lines().filter(|line| line.contains(&format!("{of}:"))) {
        let netns = line.split("netns=").nth(1).map_or("", |rest| rest.split('}').next().unwrap_or_default());
        if line.ends_with("a round begins") {
            rounds.push(Round::default());
        } else if let (Some(round), true) = (rounds.last_mut(), line.ends_with("a visit begins")) {
            *round.visits.entry(netns.to_owned()).or_default() += 1;
        } else if let (Some(round), Some((_, request))) = (rounds.last_mut(), line.split_once(" netlink ")) {
            *round.requests.entry((netns.to_owned(), request.to_owned())).or_default() += 1;
        }
    }
    rounds
}

#[test]
fn round_reads_each_kernel_table_once() {
    let pins = private_bpffs().unwrap().join("overlay");
    let lab = Lab::two_hosts();
    let host = lab.host(1);
    let node = Node::on(NetNs::open("node01", host.path()).unwrap());
    let sandbox = node.sandbox(SANDBOX, VNI);
    let mut cluster = Cluster::example(&lab);
    let config = node.netns_dir.path().with_extension("toml");
    cluster.write(&config).unwrap();
    let paths = [&config, node.netns_dir.path()].map(|path| path.to_str().unwrap());
    let arguments = ["--config", paths[0], "--discover", "--docker-socket", "/nowhere.sock", "--netns-dir", paths[1]];
    let prefix = ["env", "RUST_LOG=overlay_user=trace"];
    let daemon = Daemon::start_by(&prefix, &overlay_binary().unwrap(), host, &arguments, &pins).unwrap();
    let exists = |device: &str| host.try_run(&["ip", "link", "show", device]).is_ok();
    until("the discovered network is accelerated", || exists(&format!("ovlsh{VNI}")));

    thread::sleep(IDLE);
    let started = daemon.log();
    thread::sleep(IDLE);
    let idle = daemon.log()[started.len()..].to_owned();
    // A link that changes nothing, an FDB entry of the sandbox, an endpoint removed and added, an audit.
    host.run(&["ip", "link", "add", "idle", "type", "bridge"]);
    sandbox.fdb("add 02:42:0a:00:01:07 dev vxlan0 dst 192.168.1.10 self permanent");
    let endpoint = cluster.endpoints.remove(0);
    let veth = overlay_user::testing::kernel::veth_name(&endpoint.network, &endpoint.name);
    cluster.write(&config).unwrap();
    until("the endpoint is gone", || !exists(&veth));
    cluster.endpoints.push(endpoint);
    cluster.write(&config).unwrap();
    until("the endpoint is added", || exists(&veth));
    // The audit reports the missing neighbour of the new FDB entry.
    let report = daemon.output(&["audit", "--json"]).unwrap().stdout;
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["compared"]["external_networks"], 1, "{report:#}");
    thread::sleep(Duration::from_secs(1));

    let log = daemon.log();
    let (own, discovery) = (rounds(&log, "round"), rounds(&log, "discovery"));
    assert!(own.len() > 6 && discovery.len() > 20, "{} {}", own.len(), discovery.len());
    assert!(own.iter().any(Round::has_changed_links) && !own.iter().all(Round::has_changed_links), "{own:#?}");
    for round in own.iter().chain(&discovery) {
        for ((netns, request), count) in &round.requests {
            let is_table = TABLES.iter().any(|table| *request == format!("dump: {table}"));
            // New devices need a second dump.
            let most = if request == "dump: links" && round.has_changed_links() { 2 } else { 1 };
            assert!(!is_table || *count <= most, "{count} times {request} in {netns:?}: {round:#?}");
        }
        assert!(round.visits.values().all(|visits| *visits == 1), "{round:#?}");
    }
    // An idle round reads neither FDB nor neighbours.
    let own = rounds(&idle, "round");
    assert!(!own.is_empty(), "{idle}");
    for round in own {
        assert!(round.count(|_| true) <= IDLE_REQUESTS, "{round:#?}");
        assert_eq!(round.count(|request| request.contains("FDB") || request == "dump: neighbours"), 0, "{round:#?}");
    }
    let everything = rounds(&idle, "discovery").into_iter().filter(|round| round.count(|r| r == "dump: links") > 0);
    assert!(everything.count() <= 2, "{idle}");
    std::fs::remove_file(&config).unwrap();
}
