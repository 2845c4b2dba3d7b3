//! The lab with a daemon on each host, and what they count.

use std::{
    ffi::OsString,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use overlay_tests::{
    check::{Counts, device_packets, until},
    lab::{
        Cluster, Container, Daemon, Endpoint, Lab, overlay_binary, private_bpffs, private_directory,
        traffic::{Load, Ping, ping, tcp_transfer},
    },
};
use serde_json::Value;

pub(crate) const GINDEMO1: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
pub(crate) const GINDEMO2: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 6);

/// Packets that a kernel path may carry without traffic: neighbour discovery, multicast listeners' reports.
const STRAY: u64 = 12;

/// Two hosts, the cluster file that both read, and their daemons. Everything is private to the test.
pub(crate) struct TwoHosts {
    // First: the daemons end while their hosts are there.
    daemons: Vec<(usize, Daemon)>,
    pub(crate) cluster: Cluster,
    pub(crate) lab: Lab,
    config: PathBuf,
    /// `overlay run --deadline`; `None`: not given.
    pub(crate) deadline: Option<u32>,
    /// What starts the daemons, as [`Daemon::start_by`] has it.
    pub(crate) prefix: Vec<OsString>,
    pins: PathBuf,
}

impl TwoHosts {
    /// The running example, with everything resolved and the first packets gone.
    pub(crate) fn start() -> Self {
        Self::prepare(Lab::two_hosts()).run()
    }

    /// The running example and a container more on each host, `spare1` and `spare2`, which are in no network yet.
    pub(crate) fn with_spare_containers() -> Self {
        let spares = [(1, "spare1", [10, 0, 1, 3]), (2, "spare2", [10, 0, 1, 7])];
        let lab =
            spares.into_iter().fold(Lab::builder(2), |lab, (host, name, ip)| lab.container(host, name, ip.into()));
        let mut setup = Self::prepare(lab.build().unwrap());
        setup.cluster.endpoints.retain(|endpoint| endpoint.name.starts_with("gindemo"));
        setup.run()
    }

    /// A lab whose daemons do not run yet; every container is in `my-overlay-network`.
    pub(crate) fn prepare(lab: Lab) -> Self {
        // Before any thread: they inherit the mounts.
        let pins = private_bpffs().unwrap();
        let config = private_directory().unwrap().join("cluster.toml");
        Self {
            daemons: Vec::new(),
            cluster: Cluster::example(&lab),
            lab,
            config,
            deadline: None,
            prefix: Vec::new(),
            pins,
        }
    }

    /// Starts the daemons that do not run yet and warms the path up.
    pub(crate) fn run(mut self) -> Self {
        for host in [1, 2] {
            if !self.daemons.iter().any(|(number, _)| *number == host) {
                self.start_daemon(host);
            }
        }
        self.wait_until_resolved();
        for (from, to) in [(1, 2), (2, 1)] {
            let from = self.first(from);
            assert!(ping(from, self.first(to).ip().into(), Ping::default()).unwrap().all(), "warming up");
        }
        self
    }

    /// Writes the cluster file and starts the daemon of one host.
    pub(crate) fn start_daemon(&mut self, host: usize) {
        self.cluster.write(&self.config).unwrap();
        let mut arguments = vec![OsString::from("--config"), self.config.clone().into()];
        if let Some(seconds) = self.deadline {
            arguments.extend(["--deadline".into(), seconds.to_string().into()]);
        }
        let binary = overlay_binary().unwrap();
        let daemon =
            Daemon::start_by(&self.prefix, &binary, self.lab.host(host), &arguments, &self.pin_root(host)).unwrap();
        self.daemons.push((host, daemon));
    }

    /// Waits until every running daemon knows the next hop to every VTEP on the wire.
    pub(crate) fn wait_until_resolved(&self) {
        for (host, daemon) in &self.daemons {
            until(&format!("the next hops of node0{host} are resolved"), || {
                let status = daemon.overlay(&["status", "--json"]).unwrap();
                let there =
                    |vtep: &Value| self.lab.hosts().iter().any(|host| vtep["address"] == host.address().to_string());
                let vteps: Vec<_> = status["vteps"].as_array().unwrap().iter().filter(|vtep| there(vtep)).collect();
                !vteps.is_empty() && vteps.iter().all(|vtep| vtep["resolved"] == true)
            });
        }
    }

    pub(crate) fn pin_root(&self, host: usize) -> PathBuf {
        self.pins.join(format!("node0{host}"))
    }

    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// The first container of a host.
    pub(crate) fn first(&self, host: usize) -> &Container {
        &self.lab.host(host).containers()[0]
    }

    pub(crate) fn daemon(&self, host: usize) -> &Daemon {
        &self.daemons.iter().find(|(number, _)| *number == host).expect("its daemon was started").1
    }

    pub(crate) fn daemon_mut(&mut self, host: usize) -> &mut Daemon {
        &mut self.daemons.iter_mut().find(|(number, _)| *number == host).expect("its daemon was started").1
    }

    /// Requests and a stream from gindemo1 to gindemo2.
    #[track_caller]
    pub(crate) fn load(&self, per_second: u32) -> Load {
        Load::start(self.first(1), self.first(2), self.first(2).ip().into(), per_second).unwrap()
    }

    /// What a host's VXLAN devices have carried so far.
    pub(crate) fn vxlan(&self, host: usize) -> u64 {
        device_packets(self.lab.host(host), "ovlvx")
    }

    /// What a host's programs and VXLAN devices have counted so far.
    pub(crate) fn counts(&self, host: usize) -> Counts {
        Counts::read(self.daemon(host), self.vxlan(host))
    }

    /// Calls `traffic`, which has to be carried by the fast path: at least `there` packets from node01 to node02, `back`
    /// the other way, nothing dropped, and nothing but stray packets by the kernel's VXLAN devices.
    #[track_caller]
    pub(crate) fn by_fast_path<T>(&self, there: u64, back: u64, traffic: impl FnOnce() -> T) -> T {
        let before = [self.counts(1), self.counts(2)];
        let result = traffic();
        let [one, two] = [self.counts(1).since(&before[0]), self.counts(2).since(&before[1])];
        let said = format!("node01 {one:?}\nnode02 {two:?}");
        assert!(one.of("encap") >= there && two.received() >= there, "{there} there\n{said}");
        assert!(two.of("encap") >= back && one.received() >= back, "{back} back\n{said}");
        for counts in [one, two] {
            assert!(counts.vxlan <= STRAY, "by the kernel\n{said}");
            assert_eq!(counts.of("unfinished"), 0, "{said}");
        }
        result
    }

    /// Pings in both directions, by the fast path.
    #[track_caller]
    pub(crate) fn ping_both_ways(&self) {
        self.by_fast_path(10, 10, || {
            for (from, to) in [(1, 2), (2, 1)] {
                let replies = ping(self.first(from), self.first(to).ip().into(), Ping::default()).unwrap();
                assert!(replies.all(), "{from} to {to}: {replies:?}");
            }
        });
    }

    /// Sends a stream in both directions, by the fast path.
    #[track_caller]
    pub(crate) fn tcp_both_ways(&self, bytes: u64) {
        let packets = bytes / 1448;
        self.by_fast_path(packets, packets, || {
            for (from, to) in [(1, 2), (2, 1)] {
                let to = self.first(to);
                tcp_transfer(self.first(from), to, to.ip().into(), bytes).unwrap();
            }
        });
    }
}

/// An endpoint of `my-overlay-network` without an attachment.
pub(crate) fn endpoint(name: &str, ip: Ipv4Addr, host: &str) -> Endpoint {
    Endpoint {
        network: "my-overlay-network".to_owned(),
        name: name.to_owned(),
        ip,
        mac: None,
        host: host.to_owned(),
        netns: None,
        port: None,
    }
}

/// Gives both containers IPv6 addresses, fd00::2 and fd00::6.
pub(crate) fn add_ipv6(setup: &TwoHosts) {
    for (host, address) in [(1, "fd00::2/64"), (2, "fd00::6/64")] {
        setup.first(host).run(&["ip", "-6", "addr", "add", address, "dev", "eth0", "nodad"]);
    }
}

/// Replaces a file at once, as an editor does.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}
