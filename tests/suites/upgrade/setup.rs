//! Two hosts under load, whose daemons are replaced.

use std::{
    fs,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
};

use overlay_common::maps;
use overlay_tests::{
    check::{Counts, device_packets, until},
    lab::{
        Cluster, Daemon, Flavour, Host, Lab, Network, kernel_vxlan, other_overlay_binary, overlay_binary,
        previous_overlay_binary,
        traffic::{Load, Ping, ping},
    },
    tables,
    testbed::{GINDEMO2, Testbed},
};
use serde_json::Value;

/// Datagrams per second, from gindemo1 to gindemo2.
const RATE: u32 = 100_000;
/// Datagrams per second with XDP: a veth's XDP queue has 256 entries, and overflows when other processes use the CPU.
const XDP_RATE: u32 = 20_000;
/// Number of datagrams between two changes.
pub(crate) const SOME: u64 = 20_000;

/// Build of `overlay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    This,
    /// The build with another map layout and its programs.
    Other,
    /// The release build of the previous commit.
    Previous,
}

impl Build {
    pub(crate) fn binary(self) -> PathBuf {
        match self {
            Self::This => overlay_binary().unwrap(),
            Self::Other => other_overlay_binary().unwrap(),
            Self::Previous => previous_overlay_binary().unwrap(),
        }
    }
}

/// Two hosts with a daemon each, and the load between their containers.
pub(crate) struct Upgrade {
    testbed: Testbed,
    /// One for each network.
    loads: Vec<Load>,
}

impl Deref for Upgrade {
    type Target = Testbed;

    fn deref(&self) -> &Testbed {
        &self.testbed
    }
}

impl DerefMut for Upgrade {
    fn deref_mut(&mut self) -> &mut Testbed {
        &mut self.testbed
    }
}

impl Upgrade {
    /// Starts daemons of this build and the load.
    pub(crate) fn start(rx: &str) -> Self {
        let mut testbed = Testbed::new(Lab::two_hosts());
        testbed.receive_by(rx).unwrap();
        let testbed = testbed.run();
        let rate = if rx == "xdp" { XDP_RATE } else { RATE };
        let load = Load::one_way(testbed.first(1), testbed.first(2), GINDEMO2.into(), rate).unwrap();
        Self { testbed, loads: vec![load] }
    }

    /// Starts daemons of the previous commit and the load in two networks: a strict one, and an external one that the
    /// daemons discover.
    pub(crate) fn start_previous() -> Self {
        let mut testbed = Testbed::with_spares();
        testbed.overlay = Build::Previous.binary();
        testbed.cluster.networks[0].strict = true;
        testbed.cluster.write(testbed.config()).unwrap();

        let network = Network { name: "external".into(), vni: 4098, gateway: None, ..Network::example() };
        let mut external = Cluster { networks: vec![network], ..Cluster::example(&testbed.lab) };
        external.endpoints.retain(|endpoint| endpoint.name.starts_with("spare"));
        for endpoint in &mut external.endpoints {
            endpoint.network = "external".into();
        }
        for host in [1, 2] {
            kernel_vxlan(testbed.lab.host(host), &external, "external", Flavour::Static).unwrap();
            let config = testbed.config().to_owned();
            let no_directory = config.with_file_name("netns");
            let arguments = ["--discover".as_ref(), "--netns-dir".as_ref(), no_directory.as_os_str()];
            testbed.start_with(host, &[&["--config".as_ref(), config.as_os_str()], &arguments[..]].concat()).unwrap();
        }
        let testbed = testbed.run();
        let [from, to] = [(1, "spare1"), (2, "spare2")].map(|(host, name)| testbed.lab.host(host).container(name));
        until("the external network takes the fast path", || {
            let before = [1, 2].map(|host| external_packets(&testbed, host));
            let replies = ping(from, to.ip().into(), Ping::default()).unwrap();
            replies.all() && before == [1, 2].map(|host| external_packets(&testbed, host))
        });
        let ends = [(testbed.first(1), testbed.first(2), RATE), (from, to, RATE / 5)];
        let loads = ends.map(|(from, to, rate)| Load::one_way(from, to, to.ip().into(), rate).unwrap());
        Self { testbed, loads: loads.into() }
    }

    fn counts(&self, host: usize) -> Counts {
        Counts::read(self.daemon(host), self.vxlan(host) + external_packets(&self.testbed, host))
    }

    /// Applies `change` to both hosts, one after the other: counters do not decrease, and traffic takes the fast path
    /// throughout.
    #[track_caller]
    pub(crate) fn change(&mut self, mut change: impl FnMut(&Host, &mut Daemon)) {
        for host in [1, 2] {
            let (before, traffic) = (self.counts(host), traffic(self.daemon(host)));
            let place = self.lab.host(host).clone();
            change(&place, self.daemon_mut(host));
            for load in &self.loads {
                load.datagrams.wait_for(SOME).unwrap();
            }
            let counts = self.counts(host).since(&before);
            let fast = counts.of("encap") + counts.received();
            assert!(fast >= SOME, "{counts:?}");
            assert!(counts.vxlan <= 20, "kernel path: {counts:?}");
            assert_eq!((counts.of("unfinished"), counts.of("stale")), (0, 0), "{counts:?}");
            let later = self::traffic(self.daemon(host));
            assert_eq!(traffic.len(), later.len());
            for (before, after) in traffic.iter().zip(later) {
                assert!(before.0 > 0 && after.0 >= before.0 && after.1 >= before.1, "{traffic:?}");
            }
        }
    }

    /// Stops the load: all datagrams have arrived in order.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Self {
        for load in std::mem::take(&mut self.loads) {
            load.stream.wait_for(200_000).unwrap();
            let report = load.stop().unwrap();
            println!("{} kpps: {report:?}", report.received_kpps());
            let late = report.reordered() + report.duplicates;
            assert_eq!((report.lost(), late, report.corrupt), (0, 0, 0), "lost, late, corrupt: {report:?}");
            // A busy machine reaches a lower rate.
            assert!(report.received_kpps() > 5.0, "too slow to show anything: {report:?}");
        }
        self
    }

    /// `overlay down` on both hosts.
    pub(crate) fn down(self) {
        self.testbed.down().unwrap();
    }

    /// The pin roots have no traces of a migration, and the layout of `build`.
    #[track_caller]
    pub(crate) fn assert_clean(&self, build: Build) {
        for daemon in self.daemons() {
            let root = daemon.pin_root();
            assert!(!root.join("next").exists());
            let record: Vec<_> = names(&root.join("record"));
            let layouts: Vec<_> = record.iter().filter_map(|name| name.strip_prefix("layout:")).collect();
            match build {
                Build::This => assert_eq!(layouts, [maps::LAYOUT.to_string()], "{record:?}"),
                Build::Other => assert_eq!(layouts, [(maps::LAYOUT + 1).to_string()], "{record:?}"),
                // Any layout.
                Build::Previous => assert_eq!(layouts.len(), 1, "{record:?}"),
            }
            assert!(!record.iter().any(|name| name.starts_with("switch")), "{record:?}");
        }
    }
}

/// Packets of the external network on the kernel path of a host.
fn external_packets(testbed: &Testbed, host: usize) -> u64 {
    device_packets(testbed.lab.host(host), "vx-")
}

/// Packets of each network and VTEP on the fast path: sum of TX and RX, and TX.
fn traffic(daemon: &Daemon) -> Vec<(u64, u64)> {
    let report = daemon.overlay(&["counters", "--json"]).unwrap();
    let rows = ["networks", "vteps"].into_iter().flat_map(|list| report[list].as_array().unwrap().clone());
    let packets = |row: &Value, direction: &str| row[direction]["packets"].as_u64().unwrap();
    rows.map(|row| (packets(&row, "tx") + packets(&row, "rx"), packets(&row, "tx"))).collect()
}

/// The files of a directory.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Ids of the programs that are attached on a host, by hook.
pub(crate) fn programs(host: &Host) -> Vec<(String, u32)> {
    let programs = tables::programs(host).unwrap().into_iter();
    programs.map(|(hook, name, id)| (format!("{name} at {hook}"), id)).collect()
}
