//! Everything that a daemon could change, as text to be compared.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use serde_json::Value;

use super::NetNs;

/// All of a network namespace that is set up, without what changes by itself.
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
        settle(&mut found);
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
            // The revision counts every change.
            let (revision, programs) = found.expect("root may ask for programs");
            let ids: Vec<u32> = programs.iter().map(ProgramInfo::id).collect();
            text += &format!("{device}: TCX revision {revision}, programs {ids:?}\n");
        }
        if let Ok(features) = ns.try_run(&["ethtool", "-k", device]) {
            text += &features;
        }
    }
    text
}

/// Takes away timers and what the kernel finds out about neighbours by itself.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("timer") && !["state", "dynamic"].contains(&name.as_str()));
            fields.values_mut().for_each(settle);
        }
        Value::Array(elements) => elements.iter_mut().for_each(settle),
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
        .expect("a directory can be listed");
    paths.sort();
    let lines = paths.iter().map(|path| {
        let below = if path.is_dir() { tree(path) } else { String::new() };
        format!("{}\n{below}", path.display())
    });
    lines.collect()
}

/// That nothing is different.
///
/// # Panics
/// When something is; the message has what is gone and what is new.
#[track_caller]
pub fn assert_same(before: &str, after: &str) {
    let gone: Vec<_> = before.lines().filter(|line| !after.contains(line)).collect();
    let new: Vec<_> = after.lines().filter(|line| !before.contains(line)).collect();
    assert!(before == after, "something was changed\nbefore: {gone:#?}\nafter: {new:#?}");
}
