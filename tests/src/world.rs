//! Worlds: hosts on one underlay, the daemons on them, what these are told, and what they count.
//!
//! [`World::two_hosts`] is the running example. Everything else is made in steps: the lab, what is special about the hosts
//! and the configuration, then the daemons. For tests: what cannot be had is a panic, except where a `Result` says so.
#![allow(clippy::unwrap_used, reason = "most of this is for tests")]
#![allow(clippy::missing_panics_doc, reason = "most of it panics")]

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::{
    check::{Counts, device_packets},
    lab::{
        Cluster, Container, Daemon, Endpoint, Lab, NIC, Network, overlay_binary, private_bpffs, private_directory,
        traffic::{Load, Ping, ping, tcp_transfer},
    },
};

/// The address of the running example's container on node01.
pub const GINDEMO1: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
/// The address of the running example's container on node02.
pub const GINDEMO2: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 6);

/// Packets that a kernel path may carry without traffic: neighbour discovery, multicast listeners' reports.
const STRAY: u64 = 12;

/// Hosts, their daemons, and the cluster file that these read.
#[derive(Debug)]
pub struct World {
    // First: the daemons end while their hosts are there.
    daemons: BTreeMap<usize, Daemon>,
    /// What the next [`Self::start`] writes into the cluster file.
    pub cluster: Cluster,
    /// The hosts.
    pub lab: Lab,
    config: PathBuf,
    pins: PathBuf,
    /// The binary of the daemons.
    pub overlay: PathBuf,
    /// `overlay run --deadline`; `None`: not given.
    pub deadline: Option<u32>,
    /// What starts the daemons, as [`Daemon::start_by`] has it.
    pub prefix: Vec<OsString>,
}

impl World {
    /// The running example with a daemon on each host, everything resolved and the first packets gone.
    #[must_use]
    #[track_caller]
    pub fn two_hosts() -> Self {
        Self::new(Lab::two_hosts()).run()
    }

    /// A lab whose daemons do not run yet; every container is in `my-overlay-network`. Files and pins are the test's own.
    /// To be called before any thread that is to see them.
    #[must_use]
    #[track_caller]
    pub fn new(lab: Lab) -> Self {
        let (pins, files) = (private_bpffs().unwrap(), private_directory().unwrap());
        Self::at(&overlay_binary().unwrap(), lab, files.join("cluster.toml"), pins)
    }

    /// The same with a given binary, cluster file, and directory for the hosts' pin roots.
    #[must_use]
    pub fn at(overlay: &Path, lab: Lab, config: PathBuf, pins: PathBuf) -> Self {
        let (daemons, cluster, overlay) = (BTreeMap::new(), Cluster::example(&lab), overlay.to_owned());
        Self { daemons, cluster, lab, config, pins, overlay, deadline: None, prefix: Vec::new() }
    }

    /// The running example and a container more on each host, `spare1` and `spare2`, which are in no network yet. The
    /// daemons do not run yet.
    #[must_use]
    #[track_caller]
    pub fn with_spares() -> Self {
        let spares = [(1, "spare1", [10, 0, 1, 3]), (2, "spare2", [10, 0, 1, 7])];
        let lab =
            spares.into_iter().fold(Lab::builder(2), |lab, (host, name, ip)| lab.container(host, name, ip.into()));
        let mut world = Self::new(lab.build().unwrap());
        world.cluster.endpoints.retain(|endpoint| endpoint.name.starts_with("gindemo"));
        world
    }

    /// Has the daemons receive by `tc` or `xdp`.
    ///
    /// # Errors
    /// When the NICs' checksum offload cannot be switched off.
    pub fn receive_by(&mut self, rx: &str) -> Result<()> {
        self.cluster.rx = Some(rx.to_owned());
        if rx == "xdp" { without_checksum_offload(&self.lab) } else { Ok(()) }
    }

    /// Starts the daemons of node01 and node02, unless they run, and warms the path up.
    #[must_use]
    #[track_caller]
    pub fn run(mut self) -> Self {
        for host in [1, 2] {
            if !self.daemons.contains_key(&host) {
                self.start(host).unwrap();
            }
        }
        self.wait_until_resolved().unwrap();
        for (from, to) in [(1, 2), (2, 1)] {
            assert!(ping(self.first(from), self.first(to).ip().into(), Ping::default()).unwrap().all(), "warming up");
        }
        self
    }

    /// Writes the cluster file and starts the daemon of a host with it.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start(&mut self, host: usize) -> Result<()> {
        self.cluster.write(&self.config)?;
        self.start_with(host, &[OsStr::new("--config"), self.config.clone().as_os_str()])
    }

    /// Starts the daemon of a host with other arguments than `--config`.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_with<S: AsRef<OsStr>>(&mut self, host: usize, arguments: &[S]) -> Result<()> {
        ensure!(!self.daemons.contains_key(&host), "node0{host} has a daemon already");
        let mut arguments: Vec<_> = arguments.iter().map(|word| word.as_ref().to_owned()).collect();
        if let Some(seconds) = self.deadline {
            arguments.extend(["--deadline".into(), seconds.to_string().into()]);
        }
        let place = self.lab.host(host);
        let daemon = Daemon::start_by(&self.prefix, &self.overlay, place, &arguments, &self.pin_root(host))?;
        self.daemons.insert(host, daemon);
        Ok(())
    }

    /// Waits until every daemon knows the next hop to every VTEP on the wire.
    ///
    /// # Errors
    /// When that takes more than 20 s.
    pub fn wait_until_resolved(&self) -> Result<()> {
        self.daemons.values().try_for_each(|daemon| daemon.wait_until_resolved(&self.lab))
    }

    /// Where a host's daemon has its pins; other numbers are free for others.
    #[must_use]
    pub fn pin_root(&self, host: usize) -> PathBuf {
        self.pins.join(format!("node{host:02}"))
    }

    /// The cluster file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Replaces the cluster file by [`Self::cluster`], which the daemons follow.
    #[track_caller]
    pub fn configure(&mut self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.cluster);
        self.cluster.write(&self.config).unwrap();
    }

    /// The first container of a host.
    #[must_use]
    #[track_caller]
    pub fn first(&self, host: usize) -> &Container {
        &self.lab.host(host).containers()[0]
    }

    /// The daemon of a host.
    #[must_use]
    #[track_caller]
    pub fn daemon(&self, host: usize) -> &Daemon {
        self.daemons.get(&host).expect("its daemon was started")
    }

    /// The daemon of a host.
    #[must_use]
    #[track_caller]
    pub fn daemon_mut(&mut self, host: usize) -> &mut Daemon {
        self.daemons.get_mut(&host).expect("its daemon was started")
    }

    /// All daemons, in the order of their hosts.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.daemons.values()
    }

    /// All daemons, in the order of their hosts.
    pub fn daemons_mut(&mut self) -> impl Iterator<Item = &mut Daemon> {
        self.daemons.values_mut()
    }

    /// `overlay down` on every host with a daemon. The hosts stay.
    ///
    /// # Errors
    /// The first's, after all were asked.
    pub fn down(self) -> Result<Lab> {
        let results: Vec<_> = self.daemons.into_values().map(Daemon::down).collect();
        results.into_iter().collect::<Result<Vec<()>>>().map(|_| self.lab)
    }

    /// Requests and a stream from the first container of node01 to the first one of node02.
    #[must_use]
    #[track_caller]
    pub fn load(&self, per_second: u32) -> Load {
        Load::start(self.first(1), self.first(2), self.first(2).ip().into(), per_second).unwrap()
    }

    /// What a host's VXLAN devices have carried so far.
    #[must_use]
    pub fn vxlan(&self, host: usize) -> u64 {
        device_packets(self.lab.host(host), "ovlvx")
    }

    /// What a host's programs and VXLAN devices have counted so far.
    #[must_use]
    #[track_caller]
    pub fn counts(&self, host: usize) -> Counts {
        Counts::read(self.daemon(host), self.vxlan(host))
    }

    /// Calls `traffic`, which has to be carried by the fast path: at least `there` packets from node01 to node02, `back`
    /// the other way, nothing dropped, and nothing but stray packets by the kernel's VXLAN devices.
    #[track_caller]
    pub fn by_fast_path<T>(&self, there: u64, back: u64, traffic: impl FnOnce() -> T) -> T {
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
    pub fn ping_both_ways(&self) {
        self.by_fast_path(10, 10, || {
            for (from, to) in [(1, 2), (2, 1)] {
                let replies = ping(self.first(from), self.first(to).ip().into(), Ping::default()).unwrap();
                assert!(replies.all(), "{from} to {to}: {replies:?}");
            }
        });
    }

    /// Sends a stream in both directions, by the fast path.
    #[track_caller]
    pub fn tcp_both_ways(&self, bytes: u64) {
        let packets = bytes / 1448;
        self.by_fast_path(packets, packets, || {
            for (from, to) in [(1, 2), (2, 1)] {
                let to = self.first(to);
                tcp_transfer(self.first(from), to, to.ip().into(), bytes).unwrap();
            }
        });
    }

    /// Gives the first containers of node01 and node02 IPv6 addresses, fd00::2 and fd00::6.
    #[track_caller]
    pub fn add_ipv6(&self) {
        for (host, address) in [(1, "fd00::2/64"), (2, "fd00::6/64")] {
            self.first(host).run(&["ip", "-6", "addr", "add", address, "dev", "eth0", "nodad"]);
        }
    }
}

/// Has every NIC of a lab compute checksums itself. Packets that XDP redirects from a veth have no checksum yet, unless
/// the sender has to make them.
///
/// # Errors
/// When `ethtool` cannot do it.
pub fn without_checksum_offload(lab: &Lab) -> Result<()> {
    lab.hosts().iter().try_for_each(|host| host.try_run(&["ethtool", "-K", NIC, "tx", "off"]).map(drop))
}

/// An endpoint of `my-overlay-network` without an attachment.
#[must_use]
pub fn endpoint(name: &str, ip: Ipv4Addr, host: &str) -> Endpoint {
    Endpoint::new(&Network::example().name, name, ip, host)
}
