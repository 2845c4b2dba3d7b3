//! A host whose daemon has an embedded store.
//!
//! The store has a second node, whose daemon ran on the same host with another address and has exited: its address does
//! not answer ARP requests.

use overlay_tests::{
    check::until,
    lab::{Daemon, NIC, NetNs, overlay_binary},
};

use crate::{
    files::Golden,
    normaliser::Normaliser,
    recorder::{ENVIRONMENT, Log, Recorder},
    testbed::Testbed,
};

/// Address of the removed node.
const REMOVED_NODE: &str = "192.168.1.200";

/// Commands that show the contents of the store.
const SHOW: [&[&str]; 7] = [
    &["network", "ls"],
    &["network", "inspect", "blue"],
    &["network", "inspect", "old"],
    &["endpoint", "ls"],
    &["endpoint", "inspect", "green", "two"],
    &["endpoint", "inspect", "old", "far"],
    &["node", "ls"],
];

struct Scenario<'a> {
    host: &'a NetNs,
    daemon: Daemon,
    normaliser: &'a Normaliser,
    golden: &'a mut Golden,
    log: Log,
}

#[test]
fn store_commands_match_golden_files() {
    let testbed = Testbed::new();
    let mut golden = Golden::new("store");
    let host = testbed.lab.host(1);
    let data = testbed.files.join("data").display().to_string();
    let netns = |name: &str| testbed.netns_dir(1).join(name).display().to_string();
    let start = |arguments: &[&str]| {
        let arguments = [&["--data-dir", &data], arguments].concat();
        let pins = testbed.pins.join("overlay");
        Daemon::start_by(&ENVIRONMENT, &overlay_binary().unwrap(), host, &arguments, &pins).unwrap()
    };
    add_removed_node(host, &start, &netns("later1"));

    let arguments = ["--node-name", "node01", "--json"];
    let daemon = start(&arguments);
    let (normaliser, golden_files) = (&testbed.normaliser, &mut golden);
    let mut scenario = Scenario { host, daemon, normaliser, golden: golden_files, log: Log::default() };
    let log = scenario.daemon.log();
    let document = log.split_inclusive("\n}\n").next().unwrap();
    scenario.golden.file("run.json", &normaliser.apply(document));
    scenario.phase("start");
    scenario.create(&netns("gindemo1"), &netns("strict1"));
    scenario.show();
    scenario.phase("networks and endpoints");
    scenario.restart();
    scenario.remove();
    let text = scenario.log.text(&arguments);
    golden.file("run.txt", &text);
    golden.finish();
}

/// Adds a node with a network and an endpoint to the store.
fn add_removed_node(host: &NetNs, start: &impl Fn(&[&str]) -> Daemon, netns: &str) {
    let address = format!("{REMOVED_NODE}/24");
    host.run(&["ip", "addr", "add", &address, "dev", NIC]);
    let daemon = start(&["--node", REMOVED_NODE, "--node-name", "node02"]);
    daemon.overlay(&["network", "create", "old", "--json"]).unwrap();
    daemon.overlay(&["endpoint", "add", "old", "far", "--netns", netns, "--json"]).unwrap();
    daemon.down().unwrap();
    host.run(&["ip", "addr", "del", &address, "dev", NIC]);
}

impl Scenario<'_> {
    fn recorder(&mut self) -> Recorder<'_> {
        let Self { host, daemon, normaliser, golden, .. } = self;
        Recorder { golden, normaliser, host, daemon }
    }

    fn phase(&mut self, title: &str) {
        self.log.phase(title, &self.daemon.log(), self.normaliser);
    }

    /// Records a command that changes the store, and waits until the daemon logs the change.
    fn change(&mut self, record: impl FnOnce(&mut Recorder<'_>)) {
        let before = self.daemon.log().len();
        record(&mut self.recorder());
        until("the daemon logs the change", || self.daemon.log().len() > before);
    }

    /// Creates networks and endpoints, and records some refused commands.
    fn create(&mut self, one: &str, two: &str) {
        self.change(|recorder| recorder.text("network-create", &["network", "create", "blue"]));
        let green = ["network", "create", "green", "--subnet", "10.9.0.0/24", "--gateway", "10.9.0.254"];
        let green = [&green[..], &["--vni", "5000", "--mtu", "1400", "--strict"]].concat();
        self.change(|recorder| recorder.json("network-create", &green));
        self.change(|recorder| recorder.text("endpoint-add", &["endpoint", "add", "blue", "one", "--netns", one]));
        let add = ["endpoint", "add", "green", "two", "--netns", two, "--ip", "10.9.0.7"];
        let add = [&add[..], &["--mac", "02:00:00:00:09:07"]].concat();
        self.change(|recorder| recorder.json("endpoint-add", &add));
        let second = ["endpoint", "add", "old", "near", "--netns", one];
        self.change(|recorder| recorder.text("endpoint-add.second", &second));

        let mut recorder = self.recorder();
        recorder.text("network-create.overlapping", &["network", "create", "red", "--subnet", "10.9.0.128/25"]);
        recorder.text("network-create.twice", &["network", "create", "blue"]);
        let taken = ["endpoint", "add", "green", "three", "--netns", two, "--ip", "10.9.0.7"];
        recorder.text("endpoint-add.taken", &taken);
        recorder.text("endpoint-add.unknown", &["endpoint", "add", "red", "four", "--netns", two]);
        recorder.text("network-rm.in-use", &["network", "rm", "green"]);
        recorder.text("network-inspect.unknown", &["network", "inspect", "red"]);
        recorder.text("endpoint-inspect.unknown", &["endpoint", "inspect", "blue", "two"]);
        recorder.text("endpoint-ls.one-network", &["endpoint", "ls", "blue"]);
        recorder.text("node-rm.own", &["node", "rm", "node01"]);
        recorder.text("node-rm.alive", &["node", "rm", "node02"]);
    }

    fn show(&mut self) {
        let mut recorder = self.recorder();
        for words in SHOW {
            let (command, of) = words.split_at(2);
            let file = [&[command.join("-")][..], &of.iter().map(ToString::to_string).collect::<Vec<_>>()].concat();
            recorder.both(&file.join("."), words);
        }
        recorder.state("state");
    }

    fn restart(&mut self) {
        assert!(self.daemon.sigterm().unwrap().success());
        self.daemon.restart().unwrap();
        self.phase("restart");
        // The new registration increases the store's revision.
        self.recorder().same_state("state", "status", "restarted");
    }

    fn remove(&mut self) {
        self.change(|recorder| recorder.text("endpoint-rm", &["endpoint", "rm", "blue", "one"]));
        self.change(|recorder| recorder.json("endpoint-rm", &["endpoint", "rm", "green", "two"]));
        self.change(|recorder| recorder.text("network-rm", &["network", "rm", "blue"]));
        self.change(|recorder| recorder.json("network-rm", &["network", "rm", "green", "--force"]));
        self.change(|recorder| recorder.json("node-rm", &["node", "rm", "node02", "--force"]));
        self.change(|recorder| recorder.text("network-rm.force", &["network", "rm", "old", "--force"]));
        self.recorder().text("network-ls.empty", &["network", "ls"]);
        self.recorder().text("down", &["down"]);
        assert!(self.daemon.wait().unwrap().success());
        self.phase("down");
    }
}
