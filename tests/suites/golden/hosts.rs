//! Two hosts from the start of their daemons to `overlay down`.
//!
//! node01 has a configuration file with managed networks, discovers others, and receives by XDP. node02 discovers all
//! of its networks.

use std::{fs, path::PathBuf};

use overlay_common::MacAddr;
use overlay_tests::{
    check::until,
    frame::{Inner, L4, Station, Version, arp_request},
    lab::traffic::{Ping, ping},
    lab::{Daemon, Endpoint, Network, PacketSocket, overlay_binary},
};
use serde_json::Value;

use crate::{
    files::Golden,
    kernel::objects,
    recorder::{ENVIRONMENT, Log, Recorder},
    testbed::{DISCOVERED, REFUSED, Testbed, neighbour},
};

const GINDEMO1: Station = Station::container([10, 0, 1, 2]);
const GINDEMO2: Station = Station::container([10, 0, 1, 6]);
const STRICT1: Station = Station::container([10, 0, 2, 2]);
const STRICT2: Station = Station::container([10, 0, 2, 6]);
/// Spoofed source MAC.
const SPOOFED_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
/// An address that no container has.
const UNKNOWN: Station = Station::container([10, 0, 1, 99]);

#[test]
fn two_hosts_match_golden_files_from_start_to_down() {
    let mut scenario = Scenario::start();
    scenario.traffic();
    scenario.state("started");
    scenario.audit();
    scenario.rejected_configuration();
    scenario.change();
    scenario.state("changed");
    scenario.restart();
    scenario.down();
    scenario.golden.finish();
}

struct Scenario {
    // Dropped first: the daemons stop before their hosts are removed.
    daemons: [Daemon; 2],
    /// Arguments of `overlay run`.
    arguments: [Vec<String>; 2],
    logs: [Log; 2],
    golden: Golden,
    config: PathBuf,
    testbed: Testbed,
}

impl Scenario {
    fn start() -> Self {
        let mut golden = Golden::new("hosts");
        let testbed = Testbed::new();
        for (host, sandbox) in testbed.lab.hosts().iter().zip(&testbed.sandboxes) {
            golden.file(&format!("before/{}.json", host.name()), &objects(host, &testbed.normaliser));
            golden.file(&format!("before/{}-sandbox.json", host.name()), &objects(sandbox, &testbed.normaliser));
        }
        let config = testbed.files.join("cluster.toml");
        let arguments = [
            vec!["--config".to_owned(), config.display().to_string()],
            ["--discover", "--docker-socket", "/mnt/docker.sock", "--netns-dir"]
                .map(str::to_owned)
                .into_iter()
                .chain([testbed.netns_dir(2).display().to_string()])
                .collect(),
        ];
        write(&config, &configuration(&testbed, |_, _| {}));
        let daemons = [1, 2].map(|number: usize| {
            let (host, pins) = (testbed.lab.host(number), testbed.pins.join(format!("node0{number}")));
            Daemon::start_by(&ENVIRONMENT, &overlay_binary().unwrap(), host, &arguments[number - 1], &pins).unwrap()
        });
        let mut scenario = Self { daemons, arguments, logs: Default::default(), golden, config, testbed };
        let [one, _] = scenario.testbed.lab.hosts() else { unreachable!("two hosts") };
        neighbour(one.container("gindemo1"), "eth0", GINDEMO2.ipv4.into());
        neighbour(one.container("strict1"), "eth0", STRICT2.ipv4.into());
        for number in [1, 2] {
            scenario.until(number, "next hops are resolved", |status| {
                let vteps = status["vteps"].as_array().unwrap();
                !vteps.is_empty() && vteps.iter().all(|vtep| vtep["resolved"] == true)
            });
            scenario.until_accelerated(number, DISCOVERED, true);
        }
        scenario.phase("start");
        scenario
    }

    /// Pings by the fast path of both hosts, and one frame for some reasons of the kernel path and of drops.
    fn traffic(&mut self) {
        let lab = &self.testbed.lab;
        for (name, to) in [("gindemo1", [10, 0, 1, 6]), ("strict1", [10, 0, 2, 6]), ("swarm1", [10, 0, 3, 6])] {
            let plan = Ping { count: 3, ..Ping::default() };
            let replies = ping(lab.host(1).container(name), std::net::Ipv4Addr::from(to).into(), plan).unwrap();
            assert!(replies.all(), "{name}: {replies:?}");
        }
        // The receiving container does not have these addresses, so it does not reply.
        let udp = |from, to: Station| {
            let to = Station { ipv4: [10, 0, to.ipv4[2], 98], ..to };
            Inner::new(from, to, Version::V4, L4::Udp(40_000, 40_001)).bytes()
        };
        let spoofed = |station| Station { mac: SPOOFED_MAC, ..station };
        let frames = [
            ("gindemo1", udp(spoofed(GINDEMO1), GINDEMO2), "source_mac"),
            ("gindemo1", udp(GINDEMO1, UNKNOWN), "unknown_mac"),
            ("strict1", udp(spoofed(STRICT1), STRICT2), "strict_mac"),
            ("strict1", udp(Station { ipv4: [10, 0, 2, 77], ..STRICT1 }, STRICT2), "strict_ip"),
        ];
        for (name, frame, reason) in frames {
            let before = self.daemons[0].packets(reason).unwrap();
            PacketSocket::open(lab.host(1).container(name), "eth0").unwrap().send(&frame).unwrap();
            until(reason, || self.daemons[0].packets(reason).unwrap() == before + 1);
        }
        // Request and reply take the kernel path, and both hosts count them.
        PacketSocket::open(lab.host(1).container("gindemo1"), "eth0")
            .unwrap()
            .send(&arp_request(GINDEMO1, GINDEMO2))
            .unwrap();
        for daemon in &self.daemons {
            until("ARP", || daemon.packets("not_ip").unwrap() == 2);
        }
        until("the daemon has read the samples", || {
            let events = self.daemons[0].overlay(&["events", "--json"]).unwrap();
            events["events"].as_array().unwrap().len() == 3
        });
    }

    fn state(&mut self, name: &str) {
        for number in [1, 2] {
            let directory = format!("{name}/node0{number}");
            self.recorder(number).state(&directory);
            let host = self.testbed.lab.host(number);
            let namespaces = [("host", &**host), ("sandbox", self.testbed.sandbox(number))];
            for (netns, ns) in namespaces {
                self.golden.file(&format!("{directory}/kernel/{netns}.json"), &objects(ns, &self.testbed.normaliser));
            }
        }
        let config = self.config.display().to_string();
        self.recorder(1).both(&format!("{name}/node01/check"), &["check", "--config", &config]);
        for words in [&["network", "ls"][..], &["endpoint", "ls"], &["node", "ls"]] {
            // These commands fail without a store.
            let file = format!("{name}/node01/{}", words.join("-"));
            self.recorder(1).text(&file, words);
        }
    }

    /// A map entry and an FDB entry are removed; an audit finds and repairs them.
    fn audit(&mut self) {
        for (file, repairs) in [("text", true), ("json", false)] {
            self.remove_entries();
            if repairs {
                self.recorder(1).text("removed_entries/audit", &["audit"]);
                self.recorder(1).text("removed_entries/audit.repair", &["audit", "--repair"]);
            } else {
                self.recorder(1).json("removed_entries/audit", &["audit"]);
                self.recorder(1).json("removed_entries/audit.repair", &["audit", "--repair"]);
            }
            let clean = self.daemons[0].overlay(&["audit", "--json"]).unwrap();
            assert_eq!(clean["clean"], true, "{file}: {clean:#}");
        }
        self.phase("audit");
    }

    fn remove_entries(&self) {
        let host = self.testbed.lab.host(1);
        let map = self.daemons[0].pin_root().join("OVL_FDB");
        // VNI 4097, the MAC address of gindemo2, padding.
        let key = ["01", "10", "00", "00", "02", "42", "0a", "00", "01", "06", "00", "00"];
        let delete = ["bpftool", "map", "delete", "pinned", map.to_str().unwrap(), "key", "hex"];
        host.run(&[&delete[..], &key].concat());
        host.run(&["bridge", "fdb", "del", "02:42:0a:00:02:06", "dev", "ovlvx4098", "self"]);
    }

    /// An invalid configuration is rejected, and the running state is unchanged.
    fn rejected_configuration(&mut self) {
        write(&self.config, &configuration(&self.testbed, |networks, _| networks[1].vni = 4097));
        until("the configuration is rejected", || self.daemons[0].log().contains("the configuration is rejected"));
        self.phase("an invalid configuration");
    }

    /// node01: a network and a remote endpoint are added, the strict network is removed. node02: the refused network
    /// becomes accelerated, and the accelerated one is refused.
    fn change(&mut self) {
        let text = configuration(&self.testbed, |networks, endpoints| {
            networks.retain(|network| !network.strict);
            endpoints.retain(|endpoint| endpoint.network != "strict-network");
            let later = Network {
                name: "later-network".into(),
                vni: 4102,
                subnet: "10.0.4.0/24".into(),
                ..networks[0].clone()
            };
            networks.push(Network { gateway: None, port: Some(8472), ..later });
            let one = Endpoint {
                network: "later-network".into(),
                name: "later1".into(),
                ip: [10, 0, 4, 2].into(),
                ..endpoints[0].clone()
            };
            let netns = self.testbed.netns_dir(1).join("later1");
            endpoints.push(Endpoint { netns: Some(netns), mac: Some("02:00:00:00:04:02".into()), ..one });
            let other =
                Endpoint { name: "gindemo3".into(), ip: [10, 0, 1, 7].into(), netns: None, ..endpoints[0].clone() };
            endpoints.push(Endpoint { host: "node02".into(), ..other });
        });
        write(&self.config, &text);
        self.until(1, "the configuration is active", |status| {
            let networks = status["networks"].as_array().unwrap().iter();
            let accelerated = networks.filter(|network| network["state"] == "accelerated");
            let vnis = accelerated.map(|network| network["vni"].as_u64().unwrap());
            status["control"]["problems"] == Value::Array(Vec::new()) && vnis.collect::<Vec<_>>() == [4097, 4099, 4102]
        });
        self.testbed.lab.host(2).run(&["ip", "link", "set", "vx4100", "type", "vxlan", "df", "unset"]);
        self.until_accelerated(2, REFUSED, true);
        let sandbox = self.testbed.sandbox(2);
        sandbox.run(&["nft", "add table bridge t"]);
        sandbox.run(&["nft", "add chain bridge t f { type filter hook forward priority 0; policy drop; }"]);
        self.until_accelerated(2, DISCOVERED, false);
        // The log line is delayed.
        until("the reason is logged", || {
            self.daemons[1].log().contains(&format!("VNI {DISCOVERED} falls back to the kernel path"))
        });
        self.phase("change");
    }

    fn restart(&mut self) {
        for daemon in &mut self.daemons {
            assert!(daemon.sigterm().unwrap().success());
        }
        for number in [1, 2] {
            self.recorder(number).text(&format!("ended/node0{number}/status"), &["status"]);
            self.recorder(number).text(&format!("ended/node0{number}/audit"), &["audit"]);
        }
        for daemon in &mut self.daemons {
            daemon.restart().unwrap();
        }
        self.phase("restart");
        for number in [1, 2] {
            // The samples are lost with the daemon's memory.
            let [changed, restarted] = ["changed", "restarted"].map(|name| format!("{name}/node0{number}"));
            self.recorder(number).same_state(&changed, "events", &restarted);
        }
    }

    fn down(&mut self) {
        self.recorder(1).text("down", &["down"]);
        self.recorder(2).json("down", &["down"]);
        for daemon in &mut self.daemons {
            assert!(daemon.wait().unwrap().success());
        }
        for (host, sandbox) in self.testbed.lab.hosts().iter().zip(&self.testbed.sandboxes) {
            let (name, normaliser) = (host.name(), &self.testbed.normaliser);
            self.golden.file(&format!("after/{name}.json"), &objects(host, normaliser));
            self.golden.file(&format!("after/{name}-sandbox.json"), &objects(sandbox, normaliser));
        }
        assert!(self.daemons.iter().all(|daemon| !daemon.pin_root().exists()), "a pin root is left");
        self.phase("down");
        for (number, log) in (1..).zip(&self.logs) {
            let words: Vec<_> = self.arguments[number - 1].iter().map(String::as_str).collect();
            self.golden.file(&format!("run.node0{number}.txt"), &log.text(&words));
        }
    }

    fn phase(&mut self, title: &str) {
        for (log, daemon) in self.logs.iter_mut().zip(&self.daemons) {
            log.phase(title, &daemon.log(), &self.testbed.normaliser);
        }
    }

    fn recorder(&mut self, number: usize) -> Recorder<'_> {
        Recorder {
            golden: &mut self.golden,
            normaliser: &self.testbed.normaliser,
            host: self.testbed.lab.host(number),
            daemon: &self.daemons[number - 1],
        }
    }

    fn until(&self, number: usize, what: &str, condition: impl Fn(&Value) -> bool) {
        until(what, || condition(&self.daemons[number - 1].overlay(&["status", "--json"]).unwrap()));
    }

    fn until_accelerated(&self, number: usize, vni: u32, accelerated: bool) {
        self.until(number, &format!("VNI {vni} accelerated: {accelerated}"), |status| {
            let networks = status["networks"].as_array().unwrap();
            let found = networks.iter().find(|network| network["vni"] == vni);
            let is_in_maps = |network: &Value| !network["tx"].is_null();
            found.is_some_and(|network| {
                (network["state"] == "accelerated") == accelerated && is_in_maps(network) == accelerated
            })
        });
    }
}

/// The file of node01.
fn configuration(testbed: &Testbed, edit: impl FnOnce(&mut Vec<Network>, &mut Vec<Endpoint>)) -> String {
    let mut cluster = testbed.cluster();
    edit(&mut cluster.networks, &mut cluster.endpoints);
    let netns_dir = testbed.netns_dir(1);
    format!("{}\n[discover]\ndocker = false\nnetns_dir = {netns_dir:?}\ndeny = [4101]\n", cluster.to_toml().unwrap())
}

/// Replaces a file atomically.
fn write(path: &std::path::Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).unwrap();
}
