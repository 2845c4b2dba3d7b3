//! What the programs and the kernel's devices counted.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use overlay_tests::lab::NetNs;
use serde_json::Value;

/// A namespace's interfaces, with their counters.
pub(crate) fn links(ns: &NetNs) -> Vec<Value> {
    serde_json::from_str(&ns.run(&["ip", "-s", "-j", "link", "show"])).unwrap()
}

/// Names of a namespace's interfaces.
pub(crate) fn interfaces(ns: &NetNs) -> Vec<String> {
    links(ns).iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

/// Packets sent and received by the kernel's VXLAN device.
pub(crate) fn vxlan_packets(ns: &NetNs) -> u64 {
    let links = links(ns);
    let Some(vxlan) = links.iter().find(|link| link["ifname"] == "vxlan0") else { return 0 };
    ["rx", "tx"].map(|way| vxlan["stats64"][way]["packets"].as_u64().unwrap()).iter().sum()
}

/// Packets, by reason and by the kernel's VXLAN device.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub(crate) reasons: BTreeMap<String, u64>,
    pub(crate) vxlan: u64,
}

impl Counts {
    /// Only what moved is kept.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let moved = self.reasons.iter().map(|(reason, count)| (reason.clone(), count - before.of(reason)));
        let reasons = moved.filter(|(_, count)| *count > 0).collect();
        Self { reasons, vxlan: self.vxlan.saturating_sub(before.vxlan) }
    }

    pub(crate) fn of(&self, reason: &str) -> u64 {
        self.reasons.get(reason).copied().unwrap_or_default()
    }

    /// Decapsulated, by either hook.
    pub(crate) fn received(&self) -> u64 {
        self.of("decap") + self.of("decap_xdp")
    }
}

/// Waits until `condition` is true; what takes longer than 20 s is not going to happen.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
