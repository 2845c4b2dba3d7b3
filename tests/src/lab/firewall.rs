//! Remedies of findings about netfilter rules.

use serde_json::Value;

use super::NetNs;

/// The commands in a finding's remedy: one, or several that are all needed.
///
/// # Panics
/// When there is none.
#[must_use]
#[track_caller]
pub fn commands(finding: &Value) -> Vec<String> {
    let remedy = finding["remedy"].as_str().and_then(|remedy| remedy.strip_prefix("run `"));
    let remedy = remedy.unwrap_or_else(|| panic!("no command in {finding}"));
    remedy.split('`').step_by(2).map(str::to_owned).collect()
}

/// Runs the command of a finding on a host.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn run(host: &NetNs, command: &str) {
    let mut words: Vec<&str> = command.split(' ').collect();
    // The machine's `iptables` may be the legacy one.
    words[0] = match words[0] {
        "iptables" => "iptables-nft",
        "ip6tables" => "ip6tables-nft",
        other => other,
    };
    host.run(&words);
}
