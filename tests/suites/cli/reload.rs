//! Invalid configurations for a running daemon are rejected as all-or-nothing.

use std::{
    fs,
    time::{Duration, Instant},
};

use overlay_tests::check::until;
use overlay_tests::lab::{Cluster, Daemon};
use overlay_user::testing::{apply::Maps, plan::Tables};

use crate::setup::{Setup, assert_same, other_endpoint, other_network};

struct Running {
    daemon: Daemon,
    setup: Setup,
}

impl Running {
    fn new() -> Self {
        let setup = Setup::new();
        let config = setup.config(|_| {});
        let daemon = Daemon::start(setup.host(), &config, setup.pin_root()).unwrap();
        let running = Self { daemon, setup };
        running.settle();
        running
    }

    fn tables(&self) -> Tables {
        Maps::open(self.daemon.pin_root()).unwrap().read().unwrap()
    }

    /// Waits until the state is stable: next hops are resolved and addresses are not tentative.
    fn settle(&self) {
        let until = Instant::now() + Duration::from_secs(5);
        let mut before = String::new();
        loop {
            let now = self.setup.snapshot();
            let resolved = self.tables().vteps.values().all(|vtep| vtep.resolved != 0);
            if resolved && now == before {
                return;
            }
            assert!(Instant::now() < until, "the state of node01 does not become stable");
            before = now;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for a line in the log after the first `seen` bytes; returns the log after them.
    fn logged(&self, seen: usize, part: &str) -> String {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let log = self.daemon.log()[seen..].to_owned();
            if log.contains(part) {
                return log;
            }
            assert!(Instant::now() < until, "no {part:?} in the log:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The daemon refuses the configuration `text` with all of `parts` in its log, and changes nothing.
    #[track_caller]
    fn assert_refused(&self, text: &str, parts: &[&str]) {
        let (tables, before, seen) = (self.tables(), self.setup.snapshot(), self.daemon.log().len());
        self.setup.file(text);
        let log = self.logged(seen, "the configuration is rejected, the running state is unchanged");
        // The reason is written together with this line.
        for part in parts {
            assert!(log.contains(part), "no {part:?} in:\n{log}");
        }
        assert_eq!(self.tables(), tables);
        assert_same(&before, &self.setup.snapshot());
        let status = self.daemon.overlay(&["status", "--json"]).unwrap();
        assert_eq!(status["ready"], true);
        let problems = status["control"]["problems"].as_array().unwrap();
        let problem =
            problems.iter().find(|problem| problem["object"] == "configuration").expect("the status has the problem");
        let is_named =
            |part: &&str| problems.iter().any(|problem| problem.to_string().replace("\\", "").contains(*part));
        assert!(parts.iter().all(is_named), "{parts:?}: {problem}");
    }

    fn edited(&self, edit: impl FnOnce(&mut Cluster)) -> String {
        let mut cluster = Cluster::example(&self.setup.lab);
        edit(&mut cluster);
        cluster.to_toml().unwrap()
    }
}

#[test]
fn daemon_refuses_invalid_file_with_its_line() {
    let running = Running::new();
    let good = running.edited(|_| {});
    running.assert_refused(&good.replacen("vni = 4097", "vni = forty", 1), &["cluster.toml:", "syntax", "vni = forty"]);
    let line = 1 + good.lines().position(|line| line == "vni = 4097").unwrap();
    let text = good.replacen("vni = 4097", "vni = 0", 1);
    running.assert_refused(&text, &[&format!("cluster.toml:{line}:"), "0 is not a VNI"]);
    running.assert_refused("", &["there are no hosts"]);
    running.setup.file(&good);
    until("no problem is reported", || {
        let status = running.daemon.overlay(&["status", "--json"]).unwrap();
        status["control"]["problems"].as_array().unwrap().is_empty()
    });
}

/// One new endpoint is valid, one is invalid: neither is created.
#[test]
fn daemon_applies_nothing_of_file_with_one_error() {
    let running = Running::new();
    let text = running.edited(|cluster| {
        let good = other_endpoint(cluster);
        let mut bad = good.clone();
        bad.name = "gindemo4".to_owned();
        bad.ip = [10, 9, 9, 9].into();
        cluster.endpoints.extend([good, bad]);
    });
    running.assert_refused(&text, &["gindemo4", "outside the subnet"]);
}

#[test]
fn daemon_refuses_file_that_does_not_fit_the_host() {
    let running = Running::new();
    let missing = running.edited(|cluster| cluster.endpoints[0].netns = Some("/run/netns/no-such-container".into()));
    running.assert_refused(&missing, &["my-overlay-network/gindemo1", "/run/netns/no-such-container"]);
    let large = running.edited(|cluster| cluster.networks[0].mtu = Some(1451));
    running.assert_refused(&large, &["MTU 1451", "mtu to 1450 or less"]);
    let address = running.edited(|cluster| cluster.hosts[0].address = [192, 168, 1, 77].into());
    running.assert_refused(&address, &["no interface of this host"]);
    let xdp = running.edited(|cluster| cluster.rx = Some("xdp".to_owned()));
    running.assert_refused(&xdp, &["TX checksum offload", "rx = \"tc\""]);
}

/// Another VXLAN device has the new network's VNI.
#[test]
fn conflicting_network_makes_daemon_refuse_the_file() {
    let running = Running::new();
    let host = running.setup.host();
    host.run(&["ip", "link", "add", "vx7", "type", "vxlan", "id", "4098", "dev", "enp0s3", "dstport", "4789"]);
    running.settle();
    let text = running.edited(|cluster| {
        let network = other_network();
        let mut endpoint = cluster.endpoints[0].clone();
        endpoint.network.clone_from(&network.name);
        endpoint.ip = [10, 0, 2, 2].into();
        let third = other_endpoint(cluster);
        cluster.networks.push(network);
        cluster.endpoints.extend([endpoint, third]);
    });
    running.assert_refused(&text, &["VNI 4098 on UDP port 4789", "interface vx7"]);
}

/// A VXLAN device that was created here and moved to another netns conflicts only when the second one is created.
#[test]
fn failed_change_is_rolled_back() {
    let running = Running::new();
    let host = running.setup.host();
    host.run(&["ip", "link", "add", "vx7", "type", "vxlan", "id", "4098", "dev", "enp0s3", "dstport", "4789"]);
    let other_netns = running.setup.lab.host(2).path().to_str().unwrap().to_owned();
    host.run(&["ip", "link", "set", "vx7", "netns", &other_netns]);
    running.settle();
    let text = running.edited(|cluster| {
        let network = other_network();
        let mut endpoint = cluster.endpoints[0].clone();
        endpoint.network.clone_from(&network.name);
        endpoint.name = "gindemo1b".to_owned();
        endpoint.ip = [10, 0, 2, 2].into();
        // Without a netns, because the container already has an eth0.
        endpoint.netns = None;
        endpoint.port = None;
        cluster.networks.push(network);
        let third = other_endpoint(cluster);
        cluster.endpoints.extend([endpoint, third]);
    });
    running.assert_refused(&text, &["VNI 4098 on UDP port 4789", "moved to another network namespace"]);
    // The old configuration stays active.
    let seen = running.daemon.log().len();
    running.setup.file(&running.edited(|_| {}));
    running.logged(seen, "the configuration is unchanged");
}

#[test]
fn daemon_reports_deleted_file_and_applies_next_valid_file() {
    let running = Running::new();
    let (tables, before, seen) = (running.tables(), running.setup.snapshot(), running.daemon.log().len());
    fs::remove_file(running.daemon.config().unwrap()).unwrap();
    running.logged(seen, "the running state is unchanged");
    assert_eq!(running.tables(), tables);
    assert_same(&before, &running.setup.snapshot());

    let seen = running.daemon.log().len();
    let text = running.edited(|cluster| cluster.endpoints.push(other_endpoint(cluster)));
    running.setup.file(&text);
    running.logged(seen, "the new configuration is applied");
    assert_eq!(running.tables().fdb.len(), tables.fdb.len() + 1);
}
