//! What the suites check with: counters, interfaces, and waiting. For tests: whatever cannot be had is a panic.
#![allow(clippy::unwrap_used, reason = "all of this is for tests")]
#![allow(clippy::missing_panics_doc, reason = "all of it panics")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::lab::{
    Daemon, NetNs,
    traffic::{Load, UdpReport},
};

/// A namespace's interfaces, with their counters, as iproute2 prints them.
#[must_use]
pub fn links(ns: &NetNs) -> Vec<Value> {
    serde_json::from_str(&ns.run(&["ip", "-s", "-j", "link", "show"])).unwrap()
}

/// Names of a namespace's interfaces.
#[must_use]
pub fn interfaces(ns: &NetNs) -> Vec<String> {
    links(ns).iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

/// Packets sent and received by the interfaces of a namespace whose names begin with `prefix`.
#[must_use]
pub fn device_packets(ns: &NetNs, prefix: &str) -> u64 {
    let links = links(ns);
    let ours = links.iter().filter(|link| link["ifname"].as_str().unwrap().starts_with(prefix));
    ours.flat_map(|link| ["rx", "tx"].map(|way| link["stats64"][way]["packets"].as_u64().unwrap())).sum()
}

/// Packets, by reason and by the kernel's VXLAN devices.
#[derive(Clone, Debug)]
pub struct Counts {
    reasons: BTreeMap<String, u64>,
    /// Sent and received by the VXLAN devices.
    pub vxlan: u64,
}

impl Counts {
    /// What the programs of a daemon have counted, with what the caller has found of its VXLAN devices.
    #[must_use]
    pub fn read(daemon: &Daemon, vxlan: u64) -> Self {
        let report = daemon.overlay(&["counters", "--json"]).unwrap();
        let rows = report["reasons"].as_array().unwrap().iter();
        Self::new(rows.map(|row| (row["reason"].as_str().unwrap().to_owned(), row["packets"].as_u64().unwrap())), vxlan)
    }

    /// The same of counts that were read in another way.
    #[must_use]
    pub fn new(reasons: impl IntoIterator<Item = (String, u64)>, vxlan: u64) -> Self {
        Self { reasons: reasons.into_iter().collect(), vxlan }
    }

    /// What has moved since, and nothing else. No counter goes back.
    #[track_caller]
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        assert!(self.vxlan >= before.vxlan, "the VXLAN devices' counters went from {} to {}", before.vxlan, self.vxlan);
        self.since_perhaps_without_devices(before)
    }

    /// The same, where a VXLAN device may have gone and taken its counters with it.
    #[track_caller]
    #[must_use]
    pub fn since_perhaps_without_devices(&self, before: &Self) -> Self {
        let moved = self.reasons.iter().map(|(reason, count)| {
            let earlier = before.of(reason);
            assert!(*count >= earlier, "{reason} went from {earlier} to {count}");
            (reason.clone(), count - earlier)
        });
        Self::new(moved.filter(|(_, count)| *count > 0), self.vxlan.saturating_sub(before.vxlan))
    }

    /// Packets of one reason.
    #[must_use]
    pub fn of(&self, reason: &str) -> u64 {
        self.reasons.get(reason).copied().unwrap_or_default()
    }

    /// Decapsulated, by either hook.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.of("decap") + self.of("decap_xdp")
    }
}

/// Waits until `condition` is true; what takes longer than 20 s is not going to happen.
#[track_caller]
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(Duration::from_secs(20), what, condition);
}

/// The same with another limit.
#[track_caller]
pub fn until_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every request of a flow was answered, once and rightly.
#[track_caller]
pub fn assert_lossless(report: &UdpReport) {
    assert!(report.sent > 0);
    assert_eq!((report.lost(), report.duplicates, report.corrupt), (0, 0, 0), "{report:?}");
}

/// The load goes on, and ends without a loss.
#[track_caller]
pub fn end_lossless(load: Load) {
    load.wait_for(200).unwrap();
    assert_lossless(&load.stop().unwrap());
}
