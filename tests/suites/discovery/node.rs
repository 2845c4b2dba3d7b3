//! A host with sandboxes, and discovery on it.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use overlay_common::{MacAddr, Vni, VtepAddr};
use overlay_tests::lab::NetNs;
use overlay_user::testing::{
    model::{External, Kind, Network, Settings},
    plan::{AdmissionInputs, Device, Devices, admit},
    sources::{Discovered, Discovery, DockerState, Source, Update},
};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

pub(crate) const VNI: u32 = 4097;
pub(crate) const LOCAL_VTEP: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 9));
pub(crate) const REMOTE_VTEP: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 10));
pub(crate) const GINDEMO1: &str = "02:42:0a:00:01:02";
pub(crate) const GINDEMO2: &str = "02:42:0a:00:01:06";
/// Name of the running example's sandbox, which is not new.
pub(crate) const SANDBOX: &str = "1-abcdefghij";

/// Time in which discovery must follow a change.
const LIMIT: Duration = Duration::from_secs(1);
/// Duration for which a condition must hold.
const HOLD: Duration = Duration::from_millis(1200);

/// A host with an underlay device and a directory of sandboxes.
pub(crate) struct Node {
    pub(crate) host: NetNs,
    pub(crate) netns_dir: TempDir,
}

/// A network namespace with a bridge and a VXLAN device, and a container on it.
pub(crate) struct Sandbox {
    pub(crate) netns: NetNs,
    pub(crate) container: NetNs,
    file: PathBuf,
}

impl Node {
    pub(crate) fn new() -> Self {
        let host = NetNs::anonymous("node01").unwrap();
        host.try_script(
            "ip link add enp0s3 type veth peer name wire
             ip address add 192.168.1.9/24 dev enp0s3
             ip link set wire up
             ip link set enp0s3 up",
        )
        .unwrap();
        Self::on(host)
    }

    /// A node on a host with an underlay device.
    pub(crate) fn on(host: NetNs) -> Self {
        let node = Self { host, netns_dir: tempfile::tempdir().unwrap() };
        node.age();
        node
    }

    /// A node with the sandbox of the running example.
    pub(crate) fn with_sandbox() -> (Self, Sandbox) {
        let node = Self::new();
        let sandbox = node.sandbox(SANDBOX, VNI);
        (node, sandbox)
    }

    /// Creates a sandbox as Docker does: the VXLAN device is created on the host and moved.
    pub(crate) fn sandbox(&self, file: &str, vni: u32) -> Sandbox {
        let netns = NetNs::anonymous(file).unwrap();
        let file = self.netns_dir.path().join(file);
        symlink(netns.path(), &file).unwrap();
        self.age();
        let path = netns.path().display();
        self.host
            .try_script(&format!(
                "ip link add vx{vni} type vxlan id {vni} dstport 4789 learning proxy l2miss l3miss udpcsum
                 ip link set vx{vni} netns {path} name vxlan0"
            ))
            .unwrap();
        netns
            .try_script(
                "ip link add br0 type bridge
                 ip link set vxlan0 mtu 1450
                 ip link set vxlan0 master br0
                 ip link set br0 up
                 ip link set vxlan0 up",
            )
            .unwrap();
        let container = NetNs::anonymous("gindemo1").unwrap();
        let sandbox = Sandbox { netns, container, file };
        sandbox.plug("veth0", GINDEMO1, &sandbox.container);
        sandbox.netns.run(&[
            "bridge",
            "fdb",
            "add",
            GINDEMO2,
            "dev",
            "vxlan0",
            "dst",
            "192.168.1.10",
            "self",
            "permanent",
        ]);
        sandbox
    }

    /// Sets an old modification time: the sandboxes are older than the daemon.
    fn age(&self) {
        let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        fs::File::open(self.netns_dir.path()).unwrap().set_modified(hour_ago).unwrap();
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings { docker: None, netns_dir: self.netns_dir.path().into(), ..Settings::default() }
    }

    pub(crate) fn watch(&self) -> Watched {
        self.watch_with(self.settings(), 1 << 20)
    }

    pub(crate) fn watch_with(&self, settings: Settings, receive_buffer: usize) -> Watched {
        let (sender, started) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = self.host.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (mut discovery, first) = Discovery::start_with(Some(settings), receive_buffer).await.unwrap();
                let (found, updates) = watch::channel(first);
                sender.send(updates).unwrap();
                let follow = async {
                    while let Ok(Update::Discovered(update)) = discovery.next().await {
                        found.send_replace(update);
                    }
                };
                tokio::select! {
                    () = follow => panic!("an update of another kind"),
                    _ = stopped => {}
                }
            });
        });
        Watched { found: started.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Sandbox {
    /// Gives a container a veth into the bridge.
    pub(crate) fn plug(&self, port: &str, mac: &str, container: &NetNs) {
        let path = container.path().display();
        self.netns
            .try_script(&format!(
                "ip link add {port} mtu 1450 type veth peer name eth0 address {mac} mtu 1450 netns {path}
                 ip link set {port} master br0
                 ip link set {port} up"
            ))
            .unwrap();
        container.run(&["ip", "link", "set", "eth0", "up"]);
        self.netns.wait_for_devices().unwrap();
    }

    /// `bridge fdb <words>`.
    pub(crate) fn fdb(&self, words: &str) {
        let words: Vec<_> = ["bridge", "fdb"].into_iter().chain(words.split_whitespace()).collect();
        self.netns.run(&words);
    }

    /// Removes the file as Docker does; the netns goes with its last reference.
    pub(crate) fn remove(self) {
        fs::remove_file(&self.file).unwrap();
    }
}

/// Results of a running discovery.
pub(crate) struct Watched {
    found: watch::Receiver<Discovered>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    pub(crate) fn networks(&self) -> Vec<Network> {
        self.found.borrow().networks.to_vec()
    }

    pub(crate) fn docker(&self) -> DockerState {
        self.found.borrow().docker.clone()
    }

    pub(crate) fn found(&self, vni: u32) -> Option<Network> {
        self.found.borrow().networks.iter().find(|network| network.vni == Vni::new(vni).ok()).cloned()
    }

    /// Name of the container behind the first port of the running example.
    pub(crate) fn container(&self) -> Option<String> {
        self.network(VNI)?.ports.values().next()?.container.clone()
    }

    /// VXLAN device of a network.
    pub(crate) fn network(&self, vni: u32) -> Option<External> {
        self.found(vni)?.kind.external().cloned()
    }

    /// Reason for which the running example is refused; `None`: it is accelerated.
    #[track_caller]
    pub(crate) fn refusal(&self) -> Option<String> {
        let devices =
            Devices::from([(LOCAL_VTEP, vec![Device { name: "enp0s3".into(), ethernet: true, master: None }])]);
        let inputs = AdmissionInputs {
            view: None,
            devices: &devices,
            last_served: None,
            docker: None,
            xfrm: false,
            refused: &BTreeMap::new(),
            fdb_size: 1000,
        };
        let admitted = admit(self.networks(), &inputs);
        let is_example =
            |network: &&Network| network.vni == Vni::new(VNI).ok() && matches!(network.kind, Kind::Bridged(_));
        let network = admitted.list.iter().find(is_example);
        network.expect("the network is discovered").admission.refusal().map(|refusal| refusal.finding.to_string())
    }

    #[track_caller]
    pub(crate) fn until_refused(&self, part: &str) {
        self.until(part, || self.refusal().is_some_and(|reason| reason.contains(part)));
    }

    #[track_caller]
    pub(crate) fn until_accelerated(&self) {
        self.until("the network is accelerated", || self.refusal().is_none());
    }

    /// Waits at most a second; returns how long it took.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, condition: impl Fn() -> bool) -> Duration {
        self.within(LIMIT, what, condition)
    }

    #[track_caller]
    pub(crate) fn within(&self, time: Duration, what: &str, condition: impl Fn() -> bool) -> Duration {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < time, "not within {time:?}: {what}\n{:#?}", self.found.borrow());
            thread::sleep(Duration::from_millis(1));
        }
        start.elapsed()
    }

    /// Checks that a condition holds for [`HOLD`].
    #[track_caller]
    pub(crate) fn always(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while start.elapsed() < HOLD {
            assert!(condition(), "no longer: {what}\n{:#?}", self.found.borrow());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("discovery panicked");
        }
    }
}

pub(crate) fn mac(text: &str) -> MacAddr {
    text.parse().unwrap()
}
