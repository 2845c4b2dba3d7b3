//! Two hosts under load, whose daemons come and go.

use std::{
    fs,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
};

use aya::programs::links::{FdLink, PinnedLink};
use overlay_common::maps;
use overlay_tests::{
    lab::{Daemon, Lab, other_overlay_binary, overlay_binary, traffic::Load},
    world::{GINDEMO2, World},
};
use serde_json::Value;

/// Datagrams per second, from gindemo1 to gindemo2.
const RATE: u32 = 100_000;
/// The same where XDP receives: a veth's queue for it has 256 places, and overflows when others have the CPU for long,
/// whoever runs.
const XDP_RATE: u32 = 20_000;
/// Datagrams to wait for between two changes.
pub(crate) const SOME: u64 = 20_000;

/// Which `overlay` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    This,
    /// Another layout of the maps, and programs that go with it.
    Other,
}

impl Build {
    pub(crate) fn binary(self) -> PathBuf {
        match self {
            Self::This => overlay_binary().unwrap(),
            Self::Other => other_overlay_binary().unwrap(),
        }
    }
}

/// Two hosts, a daemon of this build on each, and the load between their containers.
pub(crate) struct Upgrade {
    world: World,
    load: Option<Load>,
}

impl Deref for Upgrade {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for Upgrade {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

impl Upgrade {
    /// With traffic.
    pub(crate) fn start(rx: &str) -> Self {
        let mut world = World::new(Lab::two_hosts());
        world.receive_by(rx).unwrap();
        let world = world.run();
        let rate = if rx == "xdp" { XDP_RATE } else { RATE };
        let load = Load::one_way(world.first(1), world.first(2), GINDEMO2.into(), rate).unwrap();
        Self { world, load: Some(load) }
    }

    /// Changes something on both hosts, one after the other. Their counters do not go back, and before, meanwhile and
    /// after that the fast path carries the traffic.
    #[track_caller]
    pub(crate) fn change(&mut self, mut change: impl FnMut(&mut Daemon)) {
        for host in [1, 2] {
            let (before, traffic) = (self.counts(host), traffic(self.daemon(host)));
            change(self.daemon_mut(host));
            self.load.as_ref().unwrap().datagrams.wait_for(SOME).unwrap();
            let counts = self.counts(host).since(&before);
            let fast = counts.of("encap") + counts.received();
            assert!(fast >= SOME, "{counts:?}");
            assert!(counts.vxlan <= 20, "by the kernel: {counts:?}");
            assert_eq!((counts.of("unfinished"), counts.of("stale")), (0, 0), "{counts:?}");
            let later = self::traffic(self.daemon(host));
            assert_eq!(traffic.len(), later.len());
            for (before, after) in traffic.iter().zip(later) {
                assert!(before.0 > 0 && after.0 >= before.0 && after.1 >= before.1, "{traffic:?}");
            }
        }
    }

    /// Ends the traffic: all of it came, in its order.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Self {
        let load = self.load.take().unwrap();
        load.stream.wait_for(200_000).unwrap();
        let report = load.stop().unwrap();
        println!("{} kpps: {report:?}", report.received_kpps());
        let late = report.reordered + report.duplicates;
        assert_eq!((report.lost(), late, report.corrupt), (0, 0, 0), "lost, late, corrupt: {report:?}");
        // Where others use the CPUs too it is less.
        assert!(report.received_kpps() > 5.0, "too slow to show anything: {report:?}");
        self
    }

    /// `overlay down` on both hosts.
    pub(crate) fn down(self) {
        self.world.down().unwrap();
    }

    /// Nothing of a migration is left at a host's pin root, and its maps have the layout of `build`.
    #[track_caller]
    pub(crate) fn assert_clean(&self, build: Build) {
        let layout = format!("layout:{}", maps::LAYOUT + u32::from(build == Build::Other));
        for daemon in self.daemons() {
            let root = daemon.pin_root();
            assert!(!root.join("next").exists());
            let record: Vec<_> = names(&root.join("record"));
            assert!(record.iter().filter(|name| name.starts_with("layout:")).eq([&layout]), "{record:?}");
            assert!(!record.iter().any(|name| name.starts_with("switch")), "{record:?}");
        }
    }
}

/// Packets that the fast path carried, all ways of each network and VTEP: in all, and of TX alone.
fn traffic(daemon: &Daemon) -> Vec<(u64, u64)> {
    let report = daemon.overlay(&["counters", "--json"]).unwrap();
    let rows = ["networks", "vteps"].into_iter().flat_map(|list| report[list].as_array().unwrap().clone());
    let packets = |row: &Value, way: &str| row[way]["packets"].as_u64().unwrap();
    rows.map(|row| (packets(&row, "tx") + packets(&row, "rx"), packets(&row, "tx"))).collect()
}

/// The files of a directory.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Numbers of the programs that the pinned links of a daemon hold, by the link's name.
pub(crate) fn programs(daemon: &Daemon) -> Vec<(String, u32)> {
    let links = daemon.pin_root().join("links");
    let program =
        |name: &String| FdLink::from(PinnedLink::from_pin(links.join(name)).unwrap()).info().unwrap().program_id();
    names(&links).into_iter().map(|name| (name.clone(), program(&name))).collect()
}
