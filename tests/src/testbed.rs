//! Testbeds: hosts on one underlay, their daemons, the configuration and the counters of these.
//!
//! [`Testbed::two_hosts`] is the running example. Other testbeds are built in steps: the lab, changes to hosts and
//! configuration, then the daemons. For tests: functions without a `Result` panic on errors.
#![allow(clippy::unwrap_used, reason = "most functions are for tests")]
#![allow(clippy::missing_panics_doc, reason = "most functions panic")]

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    check::{Counts, device_packets},
    lab::{
        Cluster, Container, Daemon, Endpoint, Lab, NIC, NetNs, Network, overlay_binary, private_bpffs,
        private_directory,
        traffic::{Load, Ping, ping, tcp_transfer},
    },
    tables::Expected,
};
use overlay_user::testing::daemon::DEADLINE;

/// The address of the running example's container on node01.
pub const GINDEMO1: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
/// The address of the running example's container on node02.
pub const GINDEMO2: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 6);

/// Packets that take the kernel path without test traffic: neighbour discovery, multicast listener reports.
const STRAY: u64 = 12;

/// Hosts, their daemons, and the cluster file of these.
#[derive(Debug)]
pub struct Testbed {
    // First field: the daemons are dropped before their hosts.
    daemons: BTreeMap<usize, Daemon>,
    /// Contents of the cluster file; the next [`Self::start`] writes them.
    pub cluster: Cluster,
    /// The hosts.
    pub lab: Lab,
    config: PathBuf,
    pins: PathBuf,
    /// The binary of the daemons.
    pub overlay: PathBuf,
    /// `overlay run --deadline`; `None`: the option is not used.
    pub deadline: Option<u32>,
    /// Command prefix of the daemons, as in [`Daemon::start_by`].
    pub prefix: Vec<OsString>,
}

impl Testbed {
    /// The running example with a daemon on each host, all next hops resolved, and warmed up with pings.
    #[must_use]
    #[track_caller]
    pub fn two_hosts() -> Self {
        Self::new(Lab::two_hosts()).run()
    }

    /// A lab without running daemons; every container is in `my-overlay-network`. Files and pins are private to the
    /// test: only threads that are started later see them.
    #[must_use]
    #[track_caller]
    pub fn new(lab: Lab) -> Self {
        let (pins, files) = (private_bpffs().unwrap(), private_directory().unwrap());
        Self::at(&overlay_binary().unwrap(), lab, files.join("cluster.toml"), pins)
    }

    /// Like [`Self::new`] with a given binary, cluster file, and parent directory of the pin roots.
    #[must_use]
    pub fn at(overlay: &Path, lab: Lab, config: PathBuf, pins: PathBuf) -> Self {
        let (daemons, cluster, overlay) = (BTreeMap::new(), Cluster::example(&lab), overlay.to_owned());
        Self { daemons, cluster, lab, config, pins, overlay, deadline: None, prefix: Vec::new() }
    }

    /// The running example with one more container on each host, `spare1` and `spare2`, in no network. The daemons are
    /// not started.
    #[must_use]
    #[track_caller]
    pub fn with_spares() -> Self {
        let spares = [(1, "spare1", [10, 0, 1, 3]), (2, "spare2", [10, 0, 1, 7])];
        let lab =
            spares.into_iter().fold(Lab::builder(2), |lab, (host, name, ip)| lab.container(host, name, ip.into()));
        let mut testbed = Self::new(lab.build().unwrap());
        testbed.cluster.endpoints.retain(|endpoint| endpoint.name.starts_with("gindemo"));
        testbed
    }

    /// Sets `rx` to `tc` or `xdp`.
    ///
    /// # Errors
    /// As [`prepare_xdp`].
    pub fn receive_by(&mut self, rx: &str) -> Result<()> {
        self.cluster.rx = Some(rx.to_owned());
        if rx == "xdp" { self.lab.hosts().iter().try_for_each(|host| prepare_xdp(host)) } else { Ok(()) }
    }

    /// Starts the daemons of node01 and node02 unless they run, and warms up the path with pings.
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
            let replies = ping(self.first(from), self.first(to).ip().into(), Ping::default()).unwrap();
            assert!(replies.all(), "warm-up: node0{from} → node0{to}: pings lost");
        }
        self
    }

    /// Writes the cluster file and starts the daemon of a host with `--config`.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start(&mut self, host: usize) -> Result<()> {
        self.cluster.write(&self.config)?;
        self.start_with(host, &[OsStr::new("--config"), self.config.clone().as_os_str()])
    }

    /// Starts the daemon of a host with any arguments.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_with<S: AsRef<OsStr>>(&mut self, host: usize, arguments: &[S]) -> Result<()> {
        ensure!(!self.daemons.contains_key(&host), "node0{host} already has a daemon");
        let mut arguments: Vec<_> = arguments.iter().map(|word| word.as_ref().to_owned()).collect();
        if let Some(seconds) = self.deadline {
            arguments.extend(["--deadline".into(), seconds.to_string().into()]);
        }
        let netns = self.lab.host(host);
        let daemon = Daemon::start_by(&self.prefix, &self.overlay, netns, &arguments, &self.pin_root(host))?;
        self.daemons.insert(host, daemon);
        Ok(())
    }

    /// Waits until every daemon has resolved the next hop of every VTEP on the wire.
    ///
    /// # Errors
    /// After 20 s.
    pub fn wait_until_resolved(&self) -> Result<()> {
        self.daemons.values().try_for_each(|daemon| daemon.wait_until_resolved(&self.lab))
    }

    /// The expected state of a host.
    #[must_use]
    pub fn expected(&self, host: usize) -> Expected<'_> {
        let deadline = self.deadline.map_or(DEADLINE, |seconds| Duration::from_secs(seconds.into()));
        Expected {
            lab: &self.lab,
            host: self.lab.host(host),
            pin_root: self.pin_root(host),
            cluster: &self.cluster,
            external: Vec::new(),
            deadline: (!deadline.is_zero()).then_some(deadline),
            clsact: false,
        }
    }

    /// Waits until the kernel's objects and the maps of every host with a daemon match [`Self::cluster`].
    #[track_caller]
    pub fn wait_until_converged(&self) {
        for host in self.daemons.keys() {
            self.expected(*host).wait(Duration::from_secs(20)).unwrap();
        }
    }

    /// Pin root of the daemon of a host. Numbers without a host can be used for other pin roots.
    #[must_use]
    pub fn pin_root(&self, host: usize) -> PathBuf {
        self.pins.join(format!("node{host:02}"))
    }

    /// The cluster file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Changes [`Self::cluster`] and replaces the cluster file, which the daemons watch.
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
        self.daemons.get(&host).expect("the daemon is started")
    }

    /// The daemon of a host.
    #[must_use]
    #[track_caller]
    pub fn daemon_mut(&mut self, host: usize) -> &mut Daemon {
        self.daemons.get_mut(&host).expect("the daemon is started")
    }

    /// All daemons, in the order of their hosts.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.daemons.values()
    }

    /// All daemons, in the order of their hosts.
    pub fn daemons_mut(&mut self) -> impl Iterator<Item = &mut Daemon> {
        self.daemons.values_mut()
    }

    /// Runs `overlay down` on every host with a daemon. The hosts stay.
    ///
    /// # Errors
    /// The first error, after all hosts.
    pub fn down(self) -> Result<Lab> {
        let results: Vec<_> = self.daemons.into_values().map(Daemon::down).collect();
        results.into_iter().collect::<Result<Vec<()>>>().map(|_| self.lab)
    }

    /// Starts requests and a stream from the first container of node01 to that of node02.
    #[must_use]
    #[track_caller]
    pub fn load(&self, per_second: u32) -> Load {
        Load::start(self.first(1), self.first(2), self.first(2).ip().into(), per_second).unwrap()
    }

    /// Packets that the VXLAN devices of a host have sent and received so far.
    #[must_use]
    pub fn vxlan(&self, host: usize) -> u64 {
        device_packets(self.lab.host(host), "ovlvx")
    }

    /// Counters of the programs and VXLAN devices of a host.
    #[must_use]
    #[track_caller]
    pub fn counts(&self, host: usize) -> Counts {
        Counts::read(self.daemon(host), self.vxlan(host))
    }

    /// Calls `traffic` and asserts that it uses the fast path: at least `there` packets from node01 to node02, `back`
    /// in the other direction, no packet unfinished, and only stray packets on the VXLAN devices.
    #[track_caller]
    pub fn by_fast_path<T>(&self, there: u64, back: u64, traffic: impl FnOnce() -> T) -> T {
        let before = [self.counts(1), self.counts(2)];
        let result = traffic();
        let [one, two] = [self.counts(1).since(&before[0]), self.counts(2).since(&before[1])];
        let counters = format!("node01 {one:?}\nnode02 {two:?}");
        assert!(
            one.of("encap") >= there && two.received() >= there,
            "node01 → node02: fewer than {there} packets on the fast path\n{counters}"
        );
        assert!(
            two.of("encap") >= back && one.received() >= back,
            "node02 → node01: fewer than {back} packets on the fast path\n{counters}"
        );
        for counts in [one, two] {
            assert!(counts.vxlan <= STRAY, "packets on the kernel path\n{counters}");
            assert_eq!(counts.of("unfinished"), 0, "{counters}");
        }
        result
    }

    /// Pings in both directions and asserts that the pings use the fast path.
    #[track_caller]
    pub fn ping_both_ways(&self) {
        self.by_fast_path(10, 10, || {
            for (from, to) in [(1, 2), (2, 1)] {
                let replies = ping(self.first(from), self.first(to).ip().into(), Ping::default()).unwrap();
                assert!(replies.all(), "{from} to {to}: {replies:?}");
            }
        });
    }

    /// Sends a stream in both directions and asserts that it uses the fast path.
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

/// Disables the offloads of a host's NIC that `rx = "xdp"` excludes. Packets that XDP redirects from a veth have no
/// checksum unless the sender computes it, and a VLAN tag is in the frame only without the offloads of both ends. The NIC
/// merges the segments of TCP, which it receives one by one without the offloads.
///
/// # Errors
/// When `ethtool` fails.
pub fn prepare_xdp(host: &NetNs) -> Result<()> {
    host.try_script(&format!(
        "ethtool -K {NIC} tx off gro on rx-vlan-hw-parse off rx-vlan-stag-hw-parse off
        ethtool -K {NIC} tx-vlan-hw-insert off tx-vlan-stag-hw-insert off"
    ))
}

/// An endpoint of `my-overlay-network` without an attachment.
#[must_use]
pub fn endpoint(name: &str, ip: Ipv4Addr, host: &str) -> Endpoint {
    Endpoint::new(&Network::example().name, name, ip, host)
}
