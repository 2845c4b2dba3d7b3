//! Two hosts whose daemons run as a user, with containers that are joined to them by `port`.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use overlay_tests::{
    check::{Counts, device_packets},
    lab::{
        Cluster, Daemon, Lab, Unprivileged, User, docker_mac, private_bpffs, private_directory, public_binary,
        traffic::{Ping, ping},
    },
};

/// Nobody on any machine.
pub(crate) const OVERLAY: User = User { uid: 64321, gid: 64321 };

/// What a daemon needs whose endpoints are all ports.
pub(crate) const THREE: [&str; 3] = ["net_admin", "bpf", "perfmon"];

/// The hosts, prepared as `tmpfiles.d` and a service manager do it.
pub(crate) struct Pair {
    pub(crate) lab: Lab,
    pub(crate) cluster: Cluster,
    /// A directory of the test's own, open to everybody.
    pub(crate) directory: PathBuf,
    pub(crate) binary: PathBuf,
}

impl Pair {
    pub(crate) fn new() -> Self {
        // Before any thread: they inherit the mounts.
        let pins = private_bpffs().unwrap();
        let directory = private_directory().unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        OVERLAY.prepare(&["node01", "node02"]).unwrap();
        assert!(pins.join("node01").is_dir());
        let lab = Lab::two_hosts();
        let mut cluster = Cluster::example(&lab);
        for endpoint in &mut cluster.endpoints {
            (endpoint.netns, endpoint.port) = (None, Some("port0".to_owned()));
        }
        for host in lab.hosts() {
            let container = &host.containers()[0];
            let address = format!("{}/24", container.ip());
            host.plug("port0", container, &address, &docker_mac(container.ip()), 1450).unwrap();
        }
        let binary = public_binary(&directory).unwrap();
        Self { lab, cluster, directory, binary }
    }

    /// Lets the daemon make a host's endpoint in its container's namespace.
    pub(crate) fn by_netns(&mut self, host: usize) {
        let place = self.lab.host(host);
        place.run(&["ip", "link", "del", "port0"]);
        let endpoint = self.cluster.endpoints.iter_mut().find(|endpoint| endpoint.host == place.name()).unwrap();
        (endpoint.port, endpoint.netns) = (None, Some(place.containers()[0].path().to_owned()));
    }

    pub(crate) fn config(&self) -> PathBuf {
        let path = self.directory.join("cluster.toml");
        self.cluster.write(&path).unwrap();
        path
    }

    pub(crate) fn pin_root(host: usize) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("node0{host}"))
    }

    /// A host as the daemon's user, with these capabilities.
    pub(crate) fn user(&self, host: usize, capabilities: &[&str]) -> Unprivileged {
        OVERLAY.on(self.lab.host(host), capabilities)
    }

    pub(crate) fn start(&self, host: usize, place: &Unprivileged) -> Daemon {
        let arguments = ["--config".into(), self.config().into_os_string()];
        self.start_with(host, place, &arguments)
    }

    pub(crate) fn start_with(&self, host: usize, place: &Unprivileged, arguments: &[OsString]) -> Daemon {
        Daemon::start_with(&self.binary, place, arguments, &Self::pin_root(host)).unwrap()
    }

    /// What a daemon of this host says that must not start, and its exit code.
    pub(crate) fn refused(&self, host: usize, place: &Unprivileged) -> String {
        let arguments = ["--config".into(), self.config().into_os_string()];
        let error =
            Daemon::start_with(&self.binary, place, &arguments, &Self::pin_root(host)).expect_err("it cannot run");
        format!("{error:#}")
    }

    /// Both daemons, with every next hop resolved.
    pub(crate) fn run(&self, capabilities: &[&str]) -> [Daemon; 2] {
        let daemons = [1, 2].map(|host| self.start(host, &self.user(host, capabilities)));
        for daemon in &daemons {
            daemon.wait_until_resolved(&self.lab).unwrap();
        }
        self.ping(1, 2);
        daemons
    }

    /// Pings from a host's container to the other's; every one is answered.
    #[track_caller]
    pub(crate) fn ping(&self, from: usize, to: usize) {
        let container = |host: usize| &self.lab.host(host).containers()[0];
        let replies = ping(container(from), container(to).ip().into(), Ping::default()).unwrap();
        assert!(replies.all(), "{from} to {to}: {replies:?}");
    }

    /// Pings both ways, by the fast path of both hosts.
    #[track_caller]
    pub(crate) fn by_fast_path(&self, daemons: &[Daemon; 2]) {
        let counts =
            || [1, 2].map(|host| Counts::read(&daemons[host - 1], device_packets(self.lab.host(host), "ovlvx")));
        let before = counts();
        self.ping(1, 2);
        self.ping(2, 1);
        for (after, before) in counts().iter().zip(&before) {
            let moved = after.since(before);
            assert!(moved.of("encap") >= 10 && moved.received() >= 10 && moved.vxlan <= 12, "{moved:?}");
        }
    }
}

/// A line of `/proc/PID/status`.
#[track_caller]
pub(crate) fn process_status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap().trim().to_owned()
}

/// Bits of capability sets (`include/uapi/linux/capability.h`).
pub(crate) fn capability_bits(names: &[&str]) -> u64 {
    let bit = |name: &&str| match *name {
        "dac_read_search" => 2,
        "net_admin" => 12,
        "net_raw" => 13,
        "sys_ptrace" => 19,
        "sys_admin" => 21,
        "perfmon" => 38,
        "bpf" => 39,
        other => panic!("{other} has no number here"),
    };
    names.iter().map(|name| 1 << bit(name)).sum()
}

/// Every set of every thread of a process has these capabilities and no other, and no way leads to more.
#[track_caller]
pub(crate) fn assert_capabilities(pid: u32, names: &[&str]) {
    let expected = capability_bits(names);
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let tid = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let set = |field: &str| u64::from_str_radix(&process_status(tid, field), 16).unwrap();
        assert_eq!(["CapPrm", "CapEff"].map(set), [expected; 2], "{tid}");
        assert_eq!(["CapInh", "CapAmb"].map(set), [0; 2], "{tid}");
        assert_eq!(process_status(tid, "NoNewPrivs"), "1", "{tid}");
    }
}
