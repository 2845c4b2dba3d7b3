//! The demo of `cargo xtask run`.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::process::{Command, Output};

use overlay_tests::lab::overlay_binary;
use serde_json::Value;

const DEMO: &str = env!("CARGO_BIN_EXE_overlay-demo");

/// Names of the rows of the comparison.
const ROWS: [&str; 8] = [
    "tcp_gbps",
    "tcp_retransmits",
    "udp_kpps",
    "udp_rr_us",
    "tcp_rr_us",
    "ping_us",
    "http_keep_alive_rps",
    "http_close_rps",
];

/// Runs the demo with its own `/run` and BPF filesystem, so that it does not conflict with another demo.
fn run_demo(words: &[&str]) -> Output {
    let script = "mount -t tmpfs run /run && mount -t bpf bpf /sys/fs/bpf && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "sh", "-c", script, DEMO]).args(words);
    command.arg("--overlay").arg(overlay_binary().unwrap()).output().unwrap()
}

mod serial {
    use super::*;

    /// Two rounds are not compared, so that the test does not depend on the load of the machine.
    #[test]
    fn demo_measures_traffic_with_programs_attached_and_detached() {
        let output = run_demo(&["--once", "--json", "--rounds", "2"]);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}\n{stdout}{stderr}", output.status);

        let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
        assert_eq!(report["ok"], true, "{report:#}");
        assert!(report["machine"]["steal_percent"].is_number() && report["machine"]["load_before"].is_number());
        let rows = report["rows"].as_array().unwrap();
        let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names, ROWS);
        for row in rows {
            let name = row["name"].as_str().unwrap();
            let is_count = name == "tcp_retransmits";
            for side in ["attached", "detached"] {
                let median = row[side]["median"].as_f64().unwrap();
                assert!(is_count || median > 0.0, "{row:#}");
                assert_eq!(report[side][name], median, "{report:#}");
                assert!(row["rounds"][0][side].is_number(), "{row:#}");
            }
            if is_count {
                assert!(row.get("comparable").is_none() && row.get("change_percent").is_none(), "{row:#}");
            } else {
                assert_eq!((&row["comparable"], &row["change_percent"]), (&false.into(), &Value::Null), "{row:#}");
            }
        }
        assert_eq!(stderr.matches("too few rounds to compare (").count(), ROWS.len() - 1, "{stderr}");
        assert!(stderr.contains("Load before the demo: load average"), "{stderr}");
    }
}

#[test]
fn demo_refuses_incompatible_options() {
    let invalid: [&[&str]; 3] = [&["--once", "--rounds", "0"], &["--cluster", "--once"], &["--rounds", "many"]];
    for words in invalid {
        let output = Command::new(DEMO).args(words).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{words:?}: {output:?}");
    }
}
