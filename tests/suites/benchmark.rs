//! Smoke test of the benchmark. Its figures are not checked.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::{fs, process::Command};

use overlay_tests::lab::overlay_binary;
use serde_json::Value;

/// Compares a build with itself: every path and program is measured for both.
#[test]
fn benchmark_measures_traffic_of_two_builds_over_all_paths() {
    let directory = tempfile::tempdir().unwrap();
    let [json, md] = ["comparison.json", "comparison.md"].map(|name| directory.path().join(name));
    let overlay = overlay_binary().unwrap();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_overlay-bench"));
    bench.args(["--smoke", "--limit", "0.9", "--overlay"]).arg(&overlay).arg("--against").arg(&overlay);
    let output = bench.arg("--json").arg(&json).arg("--md").arg(&md).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let comparison = &report["comparison"];
    assert_eq!((&comparison["limit"], &comparison["missing"]), (&0.9.into(), &Value::Array(Vec::new())));
    let rows = comparison["rows"].as_array().unwrap();
    for row in rows {
        let round = &row["rounds"]["0"];
        assert!(round["new"].is_number() && round["old"].is_number(), "{row}");
    }
    let has = |case: &str, path: &str| rows.iter().any(|row| row["case"] == case && row["path"] == path);
    for (case, path) in [("udp64", "tc"), ("udp64", "xdp"), ("encap_pps", "tc"), ("decap_pps", "xdp")] {
        assert!(has(case, path), "{case} over {path}: {comparison:#}");
    }
    for program in ["ovl_port_in, encapsulated", "ovl_nic_in, decapsulated", "ovl_nic_xdp, decapsulated"] {
        assert!(has("test_run", program), "{program}: {comparison:#}");
    }
    let text = fs::read_to_string(md).unwrap();
    assert!(text.contains("| udp64 packets (kpps) | tc |") && text.contains("rows"), "{text}");
}

#[test]
fn benchmark_refuses_incompatible_options() {
    let invalid: [&[&str]; 7] = [
        &["--limit", "0.9"],
        &["--against", "/bin/true", "--limit", "much"],
        &["--against", "/bin/true", "--record", "file"],
        &["--against", "/bin/true", "--only", "scale"],
        &["--against", "/no/such/file", "--smoke"],
        &["--apps", "--swarm"],
        &["--apps", "--only", "tcp1"],
    ];
    for words in invalid {
        let output = Command::new(env!("CARGO_BIN_EXE_overlay-bench")).args(words).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{words:?}: {output:?}");
    }
}
