//! The kernel's own tests of VXLAN devices (`tools/testing/selftests/net/forwarding`), with overlay beside them.
//!
//! A script runs with daemons that discover its networks on the sending and on a receiving host. If a test of the script
//! fails, the script also runs without overlay, where this test must fail as well. With the daemons there is one more
//! network between these hosts, over the same underlay, whose traffic takes the fast path.
//!
//! `cargo xtask vm` unpacks scripts and tools from Debian's packages.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs, io,
    path::Path,
    process::{Child, Command},
    thread,
    time::Duration,
};

use overlay_tests::{
    check::{Counts, device_packets, until, until_within},
    lab::{
        Daemon, DaemonHost, NetNs, overlay_binary, private_bpffs,
        traffic::{Datagrams, Ping, UdpFlow, ping},
    },
};
use serde_json::Value;
use tempfile::TempDir;

/// The script of [`Selftest`].
const SCRIPT: &str = include_str!("selftests/run.sh");

/// Attempts: the tests count packets for a fixed time, which can be too short on a busy machine.
const ATTEMPTS: i32 = 3;

/// Longest time of a script.
const LIMIT: Duration = Duration::from_secs(1800);

/// VNI of the scripts' networks.
const VNI: u64 = 1000;

/// VNI of the network beside it, and its UDP port, which the scripts do not count.
const BESIDE: u64 = 4097;
const BESIDE_PORT: u16 = 4790;

/// A running script, in its own network and mount namespace.
struct Selftest {
    ns: NetNs,
    files: TempDir,
    process: Child,
}

impl Drop for Selftest {
    fn drop(&mut self) {
        // The script has processes of its own.
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).output();
        let _ = self.process.wait();
    }
}

impl Selftest {
    fn start(script: &str, edit: &str) -> Self {
        let path = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("`cargo xtask vm` sets {name}"));
        let (ns, files) = (NetNs::anonymous("selftest").unwrap(), tempfile::tempdir().unwrap());
        let mut command = ns.command("unshare");
        command.args(["--mount", "bash", "-c", SCRIPT, "run.sh"]).current_dir(&files);
        command.args([path("OVERLAY_SELFTESTS"), path("OVERLAY_SELFTEST_TOOLS")]).args([script, edit]);
        let process = command.spawn().unwrap();
        Self { ns, files, process }
    }

    fn output(&self) -> String {
        fs::read_to_string(self.files.path().join("output")).unwrap_or_default()
    }

    /// Waits until the script pauses or has ended.
    fn wait_until(&self, state: &str) {
        let is = |state: &str| self.files.path().join(state).exists();
        until_within(LIMIT, &format!("the script is {state}"), || is(state) || is("ended"));
        assert!(is(state), "the script has ended before it was {state}: {}", self.output());
    }

    fn go_on(&self, state: &str) {
        fs::write(self.files.path().join(state), "").unwrap();
    }

    /// A network namespace that the script has named.
    fn named(&self, name: &str) -> NetNs {
        NetNs::open(name, Path::new(&format!("/proc/{}/root/run/netns/{name}", self.process.id()))).unwrap()
    }

    /// Runs the tests of the script, and lets it remove its devices after `last`.
    fn finish(self, last: impl FnOnce()) -> Results {
        self.go_on("go");
        self.wait_until("done");
        last();
        self.go_on("end");
        self.wait_until("ended");
        println!("{}", self.output());
        Results::new(&self.output())
    }
}

/// Results of a script: the lines `TEST: what [ OK ]`.
#[derive(Debug, Default)]
struct Results {
    /// Numbered, where a name occurs again.
    passed: BTreeSet<String>,
    others: BTreeSet<String>,
}

impl Results {
    fn new(output: &str) -> Self {
        let mut results = Self::default();
        for line in output.lines() {
            let Some((name, result)) = line.strip_prefix("TEST:").and_then(|line| line.rsplit_once('[')) else {
                continue;
            };
            let is_new = |name: &String| !results.passed.contains(name) && !results.others.contains(name);
            let name = (1..).map(|number| format!("{} ({number})", name.trim())).find(is_new).unwrap();
            let passed = result.trim_end_matches(']').trim() == "OK";
            if passed {
                results.passed.insert(name)
            } else {
                results.others.insert(name)
            };
        }
        results
    }
}

/// A network namespace as the host of a daemon.
#[derive(Clone, Debug)]
struct Place(NetNs);

impl DaemonHost for Place {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn command(&self, program: &OsStr) -> Command {
        self.0.command(program)
    }

    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        command.spawn()
    }

    fn wait_for_devices(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A network beside the script's, with a container on both hosts.
struct Beside {
    daemons: [Daemon; 2],
    hosts: [NetNs; 2],
    containers: [NetNs; 2],
}

const ADDRESSES: [&str; 2] = ["10.0.1.2", "10.0.1.6"];
const MACS: [&str; 2] = ["02:42:0a:00:01:02", "02:42:0a:00:01:06"];

impl Beside {
    /// `underlay`: addresses of the script's host and of its host `ns1`.
    fn start(script: &Selftest, underlay: [&str; 2]) -> Self {
        let hosts = [script.ns.clone(), script.named("ns1")];
        let containers = ["gindemo1", "gindemo2"].map(|name| NetNs::anonymous(name).unwrap());
        for here in [0, 1] {
            let (there, container) = (1 - here, containers[here].path().display());
            let (local, remote, own, other) = (underlay[here], underlay[there], MACS[here], MACS[there]);
            let address = ADDRESSES[here];
            hosts[here]
                .try_script(&format!(
                    "ip link add br{BESIDE} type bridge
                    ip link add vx{BESIDE} mtu 1450 type vxlan id {BESIDE} local {local} dstport {BESIDE_PORT} nolearning
                    ip link set vx{BESIDE} master br{BESIDE} up
                    ip link add port type veth peer name eth0 mtu 1450 address {own} netns {container}
                    ip link set port mtu 1450 master br{BESIDE} up
                    ip link set br{BESIDE} up
                    bridge fdb add {other} dev vx{BESIDE} dst {remote} self permanent
                    bridge fdb add 00:00:00:00:00:00 dev vx{BESIDE} dst {remote} self permanent"
                ))
                .unwrap();
            containers[here].try_script(&format!("ip addr add {address}/24 dev eth0\nip link set eth0 up")).unwrap();
        }
        let pins = private_bpffs().unwrap();
        let daemons = [0, 1].map(|index| {
            let place = Place(hosts[index].clone());
            let pins = pins.join(format!("node0{}", index + 1));
            Daemon::start_with(&overlay_binary().unwrap(), &place, &["--discover"], &pins).unwrap()
        });
        let beside = Self { daemons, hosts, containers };
        until("the network beside the script's takes the fast path", || {
            let before = beside.counts(0).of("encap");
            beside.ping();
            beside.counts(0).of("encap") >= before + 5
        });
        beside
    }

    fn ping(&self) {
        ping(&self.containers[0], ADDRESSES[1].parse().unwrap(), Ping::default()).unwrap();
    }

    fn counts(&self, host: usize) -> Counts {
        Counts::read(&self.daemons[host], device_packets(&self.hosts[host], "vx"))
    }

    /// The script's network in `overlay status`.
    fn network(&self, host: usize) -> Value {
        let status = self.daemons[host].overlay(&["status", "--json"]).unwrap();
        let networks = status["networks"].as_array().unwrap();
        networks.iter().find(|network| network["vni"] == VNI).unwrap_or_else(|| panic!("{status}")).clone()
    }
}

/// What a run with overlay must have shown, besides the results.
struct Shown {
    /// Packets of the script's network and of the network beside it on the fast path of the sending host: sent, received.
    fast: [[u64; 2]; 2],
    /// The script's network in `overlay status`.
    network: Value,
    counts: Counts,
}

impl Shown {
    fn read(beside: &Beside, before: &Counts) -> Self {
        let report = beside.daemons[0].overlay(&["counters", "--json"]).unwrap();
        let rows = report["networks"].as_array().unwrap();
        let packets = |vni| {
            let row = rows.iter().find(|row| row["vni"] == vni);
            ["tx", "rx"].map(|way| row.map_or(0, |row| row[way]["packets"].as_u64().unwrap()))
        };
        let (fast, counts) = ([packets(VNI), packets(BESIDE)], beside.counts(0).since(before));
        Self { fast, network: beside.network(0), counts }
    }
}

/// Runs a script with overlay, and again with and without it if a test fails: what passes without must pass with
/// overlay.
fn assert_same_results(script: &str, edit: &str, underlay: [&str; 2], prepare: impl Fn(&Selftest)) -> Shown {
    let (mut passed, mut failed, mut missed, mut attempt) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), 0);
    loop {
        attempt += 1;
        let alone = (attempt > 1).then(|| Selftest::start(script, edit));
        let together = Selftest::start(script, edit);
        together.wait_until("ready");
        prepare(&together);
        let beside = Beside::start(&together, underlay);
        let before = beside.counts(0);
        let alone = alone.map(|alone| {
            alone.wait_until("ready");
            thread::spawn(move || alone.finish(|| {}))
        });
        let to = ADDRESSES[1].parse().unwrap();
        let flow = UdpFlow::start(&beside.containers[0], &beside.containers[1], to, Datagrams::steady(20)).unwrap();
        let mut shown = None;
        let with = together.finish(|| shown = Some(Shown::read(&beside, &before)));
        // The scripts remove and add addresses and devices of the underlay, so datagrams are lost.
        let report = flow.stop();
        assert_eq!((report.corrupt, report.duplicates), (0, 0), "{report:?}");
        let without = alone.map(|alone| alone.join().unwrap()).unwrap_or_default();
        let shown = shown.unwrap();
        println!("attempt {attempt}: fast path {:?}, {:?}, {}", shown.fast, shown.counts, shown.network);
        passed.extend(with.passed);
        failed.extend(with.others);
        failed.retain(|name| !passed.contains(name));
        missed.extend(without.passed);
        missed.retain(|name| !passed.contains(name));
        println!("passed {}; failed {failed:?}; only without overlay {missed:?}", passed.len());
        if failed.is_empty() || attempt > 1 && missed.is_empty() || attempt == ATTEMPTS {
            assert!(missed.is_empty(), "tests that pass only without overlay: {missed:?}");
            assert!(passed.len() > 15, "the script ran too few tests: {passed:?}");
            let [sent, received] = shown.fast[1];
            assert!(sent > 100 && received > 100, "the network beside the script's: {sent} sent, {received} received");
            return shown;
        }
    }
}

#[test]
fn vxlan_over_ipv4_passes_as_without_overlay() {
    let shown = assert_same_results("vxlan_bridge_1d.sh", "", ["192.0.2.17", "192.0.2.34"], |_| {});
    assert_eq!(shown.network["state"], "kernel", "tos inherit: {}", shown.network);
    // The program at the NIC sees the packets of the script's network, and no accelerated network has their UDP port.
    assert!(shown.counts.of("not_vxlan") > 100, "{:?}", shown.counts);
}

#[test]
fn vxlan_over_ipv6_passes_as_without_overlay() {
    let shown = assert_same_results("vxlan_bridge_1d_ipv6.sh", "", ["198.18.0.1", "198.18.1.2"], |script| {
        let router = "ip addr add 198.18.0.2/30 dev veth5\nip addr add 198.18.1.1/30 dev v1";
        let host = "ip addr add 198.18.0.1/30 dev veth4\nip route add 198.18.1.0/30 via 198.18.0.2";
        script.ns.try_script(&format!("{router}\n{host}")).unwrap();
        let other_host = "ip addr add 198.18.1.2/30 dev v2\nip route add 198.18.0.0/30 via 198.18.1.1";
        script.named("ns1").try_script(other_host).unwrap();
    });
    assert_eq!(shown.network["state"], "kernel", "{}", shown.network);
}

/// With the default TTL, the programs support the device of the script. The script's own counters of flooded and
/// unicast packets, and its checks of ECN, then include packets of the fast path.
#[test]
fn vxlan_with_default_ttl_passes_on_fast_path() {
    let tests = "ping_ipv4 test_flood test_unicast test_ecn_encap test_ecn_decap";
    let edit = format!("s/ tos inherit ttl 100$//; s/^export VXPORT$/&; ALL_TESTS=\"{tests}\"/");
    let shown = assert_same_results("vxlan_bridge_1d.sh", &edit, ["192.0.2.17", "192.0.2.34"], |_| {});
    assert_eq!(shown.network["state"], "accelerated", "{}", shown.network);
    assert!(shown.fast[0][1] > 20, "the script's network: {:?}", shown.fast);
}
