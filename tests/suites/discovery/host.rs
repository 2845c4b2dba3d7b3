//! A daemon that discovers two sandboxes.

use std::fs;

use overlay_tests::{
    check::until,
    lab::{Daemon, Lab, NetNs, overlay_binary, private_bpffs},
};

use crate::node::{GINDEMO2, Node, SANDBOX, Sandbox, VNI};

/// A daemon on a host with two sandboxes, which logs its requests.
pub(crate) struct Host {
    pub(crate) daemon: Daemon,
    pub(crate) sandboxes: [Sandbox; 2],
    _node: Node,
    lab: Lab,
}

impl Host {
    /// `environment`: more variables of the daemon.
    pub(crate) fn start(environment: &[&str]) -> Self {
        let pins = private_bpffs().unwrap().join("overlay");
        let lab = Lab::two_hosts();
        let node = Node::on(NetNs::open("node01", lab.host(1).path()).unwrap());
        let sandboxes = [node.sandbox(SANDBOX, VNI), node.sandbox("1-zyxwvutsrq", VNI + 1)];
        let directory = node.netns_dir.path().to_str().unwrap();
        let arguments = ["--discover", "--docker-socket", "/nowhere.sock", "--netns-dir", directory];
        let prefix = [&["env", "RUST_LOG=overlay_user=trace"][..], environment].concat();
        let daemon = Daemon::start_by(&prefix, &overlay_binary().unwrap(), lab.host(1), &arguments, &pins).unwrap();
        let host = Self { daemon, sandboxes, _node: node, lab };
        until("both networks are accelerated", || host.has_entry(VNI, GINDEMO2) && host.has_entry(VNI + 1, GINDEMO2));
        host
    }

    /// Whether the programs have an entry for an address.
    pub(crate) fn has_entry(&self, vni: u32, mac: &str) -> bool {
        // Without the daemon's environment, which may have faults.
        let (overlay, pins) = (overlay_binary().unwrap(), self.daemon.pin_root());
        let words = ["fdb", "--json", "--pin-root", pins.to_str().unwrap()];
        let printed = self.lab.host(1).run(&[&[overlay.to_str().unwrap()][..], &words].concat());
        let fdb: serde_json::Value = serde_json::from_str(&printed).unwrap();
        fdb["entries"].as_array().unwrap().iter().any(|entry| entry["vni"] == vni && entry["mac"] == mac)
    }

    /// Adds an entry to the VXLAN device of a sandbox, and waits until the programs have it.
    pub(crate) fn add(&self, index: usize, mac: &str) {
        self.sandboxes[index].fdb(&format!("add {mac} dev vxlan0 dst 192.168.1.10 self permanent"));
        until("the new entry is applied", || self.has_entry(VNI + index as u32, mac));
    }

    /// Resident memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.pid().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Number of reads of the tables of the first sandbox.
    pub(crate) fn reads(&self) -> u64 {
        let netns = format!("netns={}", self.sandboxes[0].netns.inode().unwrap());
        let log = self.daemon.log();
        let reads = log.lines().filter(|line| line.contains("discovery:") && line.contains(&netns));
        reads.filter(|line| line.ends_with("netlink dump: links")).count() as u64
    }
}
