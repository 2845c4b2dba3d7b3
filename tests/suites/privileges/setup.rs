//! Two hosts whose daemons run as an unprivileged user, with containers attached by `port`.

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

/// An unused user and group.
pub(crate) const OVERLAY: User = User { uid: 64321, gid: 64321 };

/// Capabilities of a daemon whose endpoints are all ports.
pub(crate) const THREE: [&str; 3] = ["net_admin", "bpf", "perfmon"];

/// The hosts, prepared as by `tmpfiles.d` and a service manager.
pub(crate) struct Pair {
    pub(crate) lab: Lab,
    pub(crate) cluster: Cluster,
    /// A private directory of the test, readable by all users.
    pub(crate) directory: PathBuf,
    pub(crate) binary: PathBuf,
}

impl Pair {
    pub(crate) fn new() -> Self {
        // Threads inherit the mounts, so this comes first.
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

    /// Configures a host's endpoint with the container's netns instead of a port.
    pub(crate) fn by_netns(&mut self, host: usize) {
        let host = self.lab.host(host);
        host.run(&["ip", "link", "del", "port0"]);
        let endpoint = self.cluster.endpoints.iter_mut().find(|endpoint| endpoint.host == host.name()).unwrap();
        (endpoint.port, endpoint.netns) = (None, Some(host.containers()[0].path().to_owned()));
    }

    pub(crate) fn config(&self) -> PathBuf {
        let path = self.directory.join("cluster.toml");
        self.cluster.write(&path).unwrap();
        path
    }

    pub(crate) fn pin_root(host: usize) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("node0{host}"))
    }

    /// The daemon's user on a host, with these capabilities and, as in the unit, the group `root`.
    pub(crate) fn user(&self, host: usize, capabilities: &[&str]) -> Unprivileged {
        Unprivileged { groups: vec![0], ..OVERLAY.on(self.lab.host(host), capabilities) }
    }

    pub(crate) fn start(&self, host: usize, account: &Unprivileged) -> Daemon {
        let arguments = ["--config".into(), self.config().into_os_string()];
        self.start_with(host, account, &arguments)
    }

    pub(crate) fn start_with(&self, host: usize, account: &Unprivileged, arguments: &[OsString]) -> Daemon {
        Daemon::start_with(&self.binary, account, arguments, &Self::pin_root(host)).unwrap()
    }

    /// Error of a daemon that must not start.
    pub(crate) fn refused(&self, host: usize, account: &Unprivileged) -> String {
        let arguments = ["--config".into(), self.config().into_os_string()];
        let error = Daemon::start_with(&self.binary, account, &arguments, &Self::pin_root(host))
            .expect_err("the daemon must not start");
        format!("{error:#}")
    }

    /// Starts both daemons and waits until next hops are resolved.
    pub(crate) fn run(&self, capabilities: &[&str]) -> [Daemon; 2] {
        let daemons = [1, 2].map(|host| self.start(host, &self.user(host, capabilities)));
        for daemon in &daemons {
            daemon.wait_until_resolved(&self.lab).unwrap();
        }
        self.ping(1, 2);
        daemons
    }

    /// Pings from a host's container to the other's; all are answered.
    #[track_caller]
    pub(crate) fn ping(&self, from: usize, to: usize) {
        let container = |host: usize| &self.lab.host(host).containers()[0];
        let replies = ping(container(from), container(to).ip().into(), Ping::default()).unwrap();
        assert!(replies.all(), "{from} to {to}: {replies:?}");
    }

    /// Pings both ways take the fast path of both hosts.
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
        "sys_ptrace" => 19,
        "sys_admin" => 21,
        "perfmon" => 38,
        "bpf" => 39,
        other => panic!("{other} has no number here"),
    };
    names.iter().map(|name| 1 << bit(name)).sum()
}

/// Every thread of a process has exactly these capabilities, and cannot gain others.
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
