//! Tests against the running kernel. Each test has its own unnamed network namespace, which ends with the test's
//! thread. `ip`, `bridge` and `ping` verify the results independently.

mod network;
mod nexthop;
mod refusals;

use std::{
    collections::BTreeSet, fs::File, net::Ipv4Addr, os::fd::AsRawFd, path::PathBuf, process::Command, time::Duration,
};

use nix::{
    sched::{self, CloneFlags},
    unistd::geteuid,
};
use overlay_common::{MacAddr, Vni, VtepAddr};

use crate::{
    apply::{
        ledger::{Owned, tests::ledger},
        net::HostError,
    },
    kernel::Host,
    model::{self, Attachment, Cluster, Endpoint, NetworkSpec, Parts, Rx, View},
    plan::host::{DesiredHost, HostChanges, HostState, Phase, UnderlayDevice, desired},
};

pub(crate) const NODE1: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 9));
pub(crate) const NODE2: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 10));
pub(crate) const GINDEMO1: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
pub(crate) const GINDEMO2: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 6);

pub(crate) fn vni() -> Vni {
    Vni::new(4097).expect("a VNI")
}

/// Moves the calling thread into a new network namespace.
fn unshare() {
    assert!(geteuid().is_root(), "this test creates network namespaces: run it as root");
    #[expect(clippy::disallowed_methods, reason = "the callers' threads end with the test")]
    sched::unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
}

/// Runs a test in its own network namespace.
pub(crate) fn in_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(60), test()).await.expect("the test takes too long");
            });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Another network namespace, kept alive by a file descriptor.
pub(crate) struct Container {
    file: File,
}

impl Container {
    pub(crate) fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare();
            File::open("/proc/thread-self/ns/net").expect("the namespace")
        });
        Self { file: file.join().expect("a namespace") }
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs a command inside.
    pub(crate) fn run(&self, command: &str) -> String {
        run(&format!("nsenter --net={} {command}", self.path().display()))
    }
}

/// Runs a command in the calling thread's network namespace and returns its output.
pub(crate) fn run(command: &str) -> String {
    run_words(&command.split_whitespace().collect::<Vec<_>>())
}

/// [`run`] for arguments with spaces.
pub(crate) fn run_words(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The underlay of the running example: `u1` on this host, `u2` on the other one.
pub(crate) fn underlay(other: &Container) {
    // iproute2 accepts names and PIDs of namespaces, not descriptors: a temporary process provides the PID.
    let mut inside = Command::new("nsenter")
        .arg(format!("--net={}", other.path().display()))
        .args(["sleep", "60"])
        .spawn()
        .expect("nsenter");
    let there = std::fs::read_link(other.path()).expect("the other namespace");
    let process = format!("/proc/{}/ns/net", inside.id());
    while std::fs::read_link(&process).expect("nsenter runs") != there {
        std::thread::sleep(Duration::from_millis(1));
    }
    run(&format!("ip link add u1 mtu 1500 type veth peer name u2 mtu 1500 netns {}", inside.id()));
    inside.kill().expect("the process was started above");
    inside.wait().expect("the process ends");
    run("ip link set lo up");
    run(&format!("ip address add {NODE1}/24 dev u1"));
    run("ip link set u1 up");
    other.run("ip link set lo up");
    other.run(&format!("ip address add {NODE2}/24 dev u2"));
    other.run("ip link set u2 up");
}

pub(crate) fn network() -> NetworkSpec {
    NetworkSpec {
        name: "my-overlay-network".into(),
        vni: vni(),
        subnet: "10.0.1.0/24".parse().expect("a subnet"),
        gateway: Ipv4Addr::new(10, 0, 1, 1),
        mtu: None,
        port: 4789,
        strict: false,
        overlap: false,
    }
}

pub(crate) fn endpoint(name: &str, ip: Ipv4Addr, host: VtepAddr, attachment: Attachment) -> Endpoint {
    let mac = MacAddr::from_ipv4(ip.octets());
    Endpoint { name: name.into(), vni: vni(), ip, mac, host, attachment }
}

pub(crate) fn cluster(network: NetworkSpec, endpoints: Vec<Endpoint>) -> Parts {
    let host = |name: &str, address| model::Host { name: name.into(), address, rx: Rx::Tc };
    let hosts = vec![host("node01", NODE1), host("node02", NODE2), host("node03", [192, 168, 1, 11].into())];
    Parts { hosts, networks: vec![network], endpoints, ..Parts::default() }
}

/// The view of one host.
pub(crate) fn view(cluster: &Parts, address: VtepAddr) -> View {
    Cluster::new(cluster.clone()).expect("a valid model").view(address).expect("the host is in the cluster")
}

/// The desired state of one host, with the underlay from the kernel.
pub(crate) async fn wanted(host: &Host, cluster: &Parts, address: VtepAddr) -> DesiredHost {
    let snapshot = host.snapshot();
    let link = snapshot.link_by_address(address).await.expect("links").expect("the underlay's address");
    let underlay = UnderlayDevice { ifindex: link.index, mtu: link.mtu, addr: address };
    desired(&view(cluster, address), &underlay).expect("a valid model")
}

/// The existing part of the desired state.
pub(crate) async fn found(host: &Host, wanted: &DesiredHost) -> HostState {
    host.snapshot().state(wanted, &BTreeSet::new()).await.expect("the state")
}

/// Applies the changes of one phase with a temporary record.
pub(crate) async fn apply(host: &Host, plan: &HostChanges, phase: Phase) -> Result<(), HostError> {
    let record = tempfile::tempdir().expect("a directory");
    host.apply(plan, phase, &ledger(&record), &mut host.snapshot()).await
}

/// Applies all changes.
pub(crate) async fn reconcile(host: &Host, wanted: &DesiredHost) -> HostChanges {
    let owned = host.snapshot().marked().await.expect("links");
    let state = host.snapshot().state(wanted, &owned).await.expect("the state");
    let plan = HostChanges::between(&state, wanted);
    for phase in [Phase::Create, Phase::Remove] {
        apply(host, &plan, phase).await.unwrap_or_else(|error| panic!("{error}"));
    }
    plan
}
