//! Traffic during a fault and fault injection.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use overlay_tests::{
    check::{assert_lossless, until},
    lab::{
        Endpoint,
        traffic::{Load, Ping, Replies, UdpReport, ping},
    },
};
use serde_json::Value;

use overlay_tests::testbed::{Testbed, endpoint};

/// Requests at a steady rate and a stream, from gindemo1 to gindemo2.
pub(crate) struct Running(pub(crate) Load);

impl Running {
    pub(crate) fn start(setup: &Testbed) -> Self {
        Self(setup.load(500))
    }

    #[track_caller]
    pub(crate) fn assert_continues(&self) {
        self.0.wait_for(100).unwrap();
    }

    /// After the fault: the tables converge, traffic takes the fast path, and the stream has lost no byte.
    #[track_caller]
    fn end(self, setup: &Testbed) -> UdpReport {
        setup.wait_until_converged();
        self.assert_continues();
        let report = self.0.stop().unwrap();
        setup.ping_both_ways();
        report
    }

    /// [`Self::end`] after a fault that costs no packet.
    #[track_caller]
    pub(crate) fn end_lossless(self, setup: &Testbed) {
        assert_lossless(&self.end(setup));
    }

    /// [`Self::end`] after a fault of the underlay.
    #[track_caller]
    pub(crate) fn end_after_losses(self, setup: &Testbed) {
        let report = self.end(setup);
        assert_eq!((report.duplicates, report.corrupt), (0, 0), "{report:?}");
    }
}

/// The fault file of the daemons (`overlay-user/src/sys/fault.rs`).
pub(crate) struct Faults(PathBuf);

impl Faults {
    /// Two hosts with spare containers, whose daemons read this file; it is empty.
    pub(crate) fn setup(deadline: Option<u32>) -> (Self, Testbed) {
        let mut setup = Testbed::with_spares();
        setup.deadline = deadline;
        let file = setup.config().with_file_name("faults");
        fs::write(&file, "").unwrap();
        setup.prefix = ["env".into(), format!("OVERLAY_FAULTS={}", file.display()).into()].into();
        (Self(file), setup.run())
    }

    /// Injects `ENOMEM` at a fault point.
    pub(crate) fn inject(&self, point: &str) {
        fs::write(&self.0, format!("{point} {}\n", libc::ENOMEM)).unwrap();
    }

    pub(crate) fn clear(&self) {
        fs::write(&self.0, "").unwrap();
    }
}

fn spare(setup: &Testbed, host: usize) -> Endpoint {
    let container = setup.lab.host(host).container(&format!("spare{host}"));
    let mut entry = endpoint(container.name(), container.ip(), setup.lab.host(host).name());
    entry.netns = Some(container.path().to_owned());
    entry
}

/// Adds the spare containers to the network in the configuration.
pub(crate) fn add_spares(setup: &mut Testbed) {
    let spares = [1, 2].map(|host| spare(setup, host));
    setup.cluster.endpoints.extend(spares);
    setup.cluster.write(setup.config()).unwrap();
}

/// Removes the spare containers from the configuration.
pub(crate) fn remove_spares(setup: &mut Testbed) {
    setup.cluster.endpoints.retain(|endpoint| endpoint.name.starts_with("gindemo"));
    setup.cluster.networks.truncate(1);
    setup.cluster.write(setup.config()).unwrap();
}

fn spare_ip(setup: &Testbed, host: usize) -> Ipv4Addr {
    let name = format!("spare{host}");
    setup.cluster.endpoints.iter().find(|endpoint| endpoint.name == name).expect("the endpoint is in a network").ip
}

/// Pings from spare1 to spare2.
pub(crate) fn ping_spares(setup: &Testbed, plan: Ping) -> Replies {
    ping(setup.lab.host(1).container("spare1"), spare_ip(setup, 2).into(), plan).unwrap()
}

/// Waits until spare1 reaches spare2 by either path.
#[track_caller]
pub(crate) fn spares_are_served(setup: &Testbed) {
    let quick = Ping { count: 1, ..Ping::default() };
    until("the spare containers reach each other", || {
        let veth = setup.lab.host(1).container("spare1").try_run(&["ip", "-br", "addr", "show", "dev", "eth0"]);
        veth.is_ok_and(|text| text.contains(&spare_ip(setup, 1).to_string())) && ping_spares(setup, quick).all()
    });
}

pub(crate) fn status(setup: &Testbed, host: usize) -> Value {
    setup.daemon(host).overlay(&["status", "--json"]).unwrap()
}

/// Problems that the daemon of a host reports.
pub(crate) fn problems(setup: &Testbed, host: usize) -> String {
    status(setup, host)["control"]["problems"].to_string()
}

/// Waits until the daemon reports a problem with these words.
#[track_caller]
pub(crate) fn wait_for_problem(setup: &Testbed, host: usize, words: &str) {
    until(&format!("node0{host} reports {words:?}"), || problems(setup, host).contains(words));
}

/// Waits until neither host reports a problem.
#[track_caller]
pub(crate) fn wait_for_no_problem(setup: &Testbed) {
    for host in [1, 2] {
        until(&format!("node0{host} reports no problem"), || problems(setup, host) == "[]");
    }
}

/// A path in the same directory.
pub(crate) fn sibling(path: &Path, name: &str) -> PathBuf {
    path.with_file_name(name)
}
