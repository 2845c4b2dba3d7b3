//! The network configuration that a daemon can change, as text for comparison.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use serde_json::Value;

use super::NetNs;

/// The configuration of a network namespace, without volatile fields.
///
/// # Panics
/// When a tool fails.
#[must_use]
pub fn network(ns: &NetNs) -> String {
    let mut text = String::new();
    for line in ["ip -d link", "ip addr", "ip route show table all", "ip neigh", "bridge fdb", "tc qdisc"] {
        let words: Vec<&str> = line.split(' ').collect();
        let [program, rest @ ..] = words.as_slice() else { unreachable!() };
        let mut found: Value = serde_json::from_str(&ns.run(&[&[*program, "-j"], rest].concat())).unwrap_or_default();
        remove_volatile(&mut found);
        text += &format!("{}: {line}\n{found:#}\n", ns.name());
    }
    let links: Value = serde_json::from_str(&ns.run(&["ip", "-j", "link"])).expect("ip prints JSON");
    for device in links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str()) {
        for hook in ["ingress", "egress"] {
            text += &ns.run(&["tc", "filter", "show", "dev", device, hook]);
        }
        let attach = [TcAttachType::Ingress, TcAttachType::Egress];
        let programs = ns.enter(|| attach.map(|hook| SchedClassifier::query_tcx(device, hook)));
        for found in programs {
            // The revision counts changes.
            let (revision, programs) = found.expect("root can query programs");
            let ids: Vec<u32> = programs.iter().map(ProgramInfo::id).collect();
            text += &format!("{device}: TCX revision {revision}, programs {ids:?}\n");
        }
        if let Ok(features) = ns.try_run(&["ethtool", "-k", device]) {
            text += &features;
        }
    }
    text
}

/// Removes timers and the state of neighbours.
fn remove_volatile(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("timer") && !["state", "dynamic"].contains(&name.as_str()));
            fields.values_mut().for_each(remove_volatile);
        }
        Value::Array(elements) => elements.iter_mut().for_each(remove_volatile),
        _ => {}
    }
}

/// Every path below `directory`.
///
/// # Panics
/// When a directory cannot be read.
#[must_use]
pub fn tree(directory: &Path) -> String {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .expect("the directory can be listed");
    paths.sort();
    let lines = paths.iter().map(|path| {
        let below = if path.is_dir() { tree(path) } else { String::new() };
        format!("{}\n{below}", path.display())
    });
    lines.collect()
}

/// Asserts that two snapshots are equal.
///
/// # Panics
/// When they differ; the message has the removed and the added lines.
#[track_caller]
pub fn assert_same(before: &str, after: &str) {
    let removed: Vec<_> = before.lines().filter(|line| !after.contains(line)).collect();
    let added: Vec<_> = after.lines().filter(|line| !before.contains(line)).collect();
    assert!(before == after, "the snapshots differ\nremoved: {removed:#?}\nadded: {added:#?}");
}
