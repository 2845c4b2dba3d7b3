//! Helpers of the suites: counters, interfaces, waiting. For tests: errors are panics.
#![allow(clippy::unwrap_used, reason = "all of this is for tests")]
#![allow(clippy::missing_panics_doc, reason = "all of it panics")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::lab::{
    Daemon, NetNs, patient,
    traffic::{Load, UdpReport},
};

/// Interfaces of a namespace with their counters, as `ip -s -j link` prints them.
#[must_use]
pub fn links(ns: &NetNs) -> Vec<Value> {
    serde_json::from_str(&ns.run(&["ip", "-s", "-j", "link", "show"])).unwrap()
}

/// Names of a namespace's interfaces.
#[must_use]
pub fn interfaces(ns: &NetNs) -> Vec<String> {
    links(ns).iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

/// Whether the kernel can decapsulate IPv6 in TC (`BPF_F_ADJ_ROOM_DECAP_L3_IPV6`, Linux 6.3); otherwise it receives
/// inner IPv6 itself.
#[must_use]
pub fn decapsulates_ipv6() -> bool {
    is_kernel_since([6, 3])
}

/// Whether the kernel has this version, or a later one.
#[must_use]
pub fn is_kernel_since(version: [u32; 2]) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok()).take(2).ge(version)
}

/// Packets sent and received by the interfaces of a namespace whose names begin with `prefix`.
#[must_use]
pub fn device_packets(ns: &NetNs, prefix: &str) -> u64 {
    let links = links(ns);
    let matching = links.iter().filter(|link| link["ifname"].as_str().unwrap().starts_with(prefix));
    matching.flat_map(|link| ["rx", "tx"].map(|way| link["stats64"][way]["packets"].as_u64().unwrap())).sum()
}

/// Packet counters: by reason, and of the VXLAN devices.
#[derive(Clone, Debug)]
pub struct Counts {
    reasons: BTreeMap<String, u64>,
    /// Sent and received by the VXLAN devices.
    pub vxlan: u64,
}

impl Counts {
    /// Reads the counters of a daemon's programs. `vxlan`: packets of its VXLAN devices.
    #[must_use]
    pub fn read(daemon: &Daemon, vxlan: u64) -> Self {
        let report = daemon.overlay(&["counters", "--json"]).unwrap();
        let rows = report["reasons"].as_array().unwrap().iter();
        Self::new(rows.map(|row| (row["reason"].as_str().unwrap().to_owned(), row["packets"].as_u64().unwrap())), vxlan)
    }

    /// Builds counters from values.
    #[must_use]
    pub fn new(reasons: impl IntoIterator<Item = (String, u64)>, vxlan: u64) -> Self {
        Self { reasons: reasons.into_iter().collect(), vxlan }
    }

    /// Increments since `before`; only counters that have changed. Panics if a counter has decreased.
    #[track_caller]
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        assert!(self.vxlan >= before.vxlan, "VXLAN devices: packets decreased from {} to {}", before.vxlan, self.vxlan);
        self.since_ignoring_removed_devices(before)
    }

    /// Like [`Self::since`], but a VXLAN device may have been removed with its counters.
    #[track_caller]
    #[must_use]
    pub fn since_ignoring_removed_devices(&self, before: &Self) -> Self {
        let moved = self.reasons.iter().map(|(reason, count)| {
            let earlier = before.of(reason);
            assert!(*count >= earlier, "{reason} decreased from {earlier} to {count}");
            (reason.clone(), count - earlier)
        });
        Self::new(moved.filter(|(_, count)| *count > 0), self.vxlan.saturating_sub(before.vxlan))
    }

    /// Packets of one reason.
    #[must_use]
    pub fn of(&self, reason: &str) -> u64 {
        self.reasons.get(reason).copied().unwrap_or_default()
    }

    /// Packets that were decapsulated at TC or XDP.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.of("decap") + self.of("decap_xdp")
    }
}

/// Waits until `condition` is true. Panics after 20 s.
#[track_caller]
pub fn until(description: &str, condition: impl FnMut() -> bool) {
    until_within(Duration::from_secs(20), description, condition);
}

/// Waits until `condition` is true. Panics after `limit` ([`patient`]).
#[track_caller]
pub fn until_within(limit: Duration, description: &str, mut condition: impl FnMut() -> bool) {
    let (start, limit) = (Instant::now(), patient(limit));
    while !condition() {
        assert!(start.elapsed() < limit, "timeout after {limit:?}: {description}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asserts that every request of a flow has exactly one correct answer.
#[track_caller]
pub fn assert_lossless(report: &UdpReport) {
    assert!(report.sent > 0);
    assert_eq!((report.lost(), report.duplicates, report.corrupt), (0, 0, 0), "{report:?}");
}

/// Waits for more traffic, stops the load, and asserts that nothing was lost.
#[track_caller]
pub fn end_lossless(load: Load) {
    load.wait_for(200).unwrap();
    assert_lossless(&load.stop().unwrap());
}
