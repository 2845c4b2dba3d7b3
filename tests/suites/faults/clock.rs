//! Clock jumps: the data path does not use the wall clock, and the programs use jiffies only.

use std::{fs, path::Path, thread::sleep, time::Duration};

use overlay_tests::lab::Lab;
use overlay_tests::testbed::Testbed;

use crate::setup::{Running, status};

/// Seconds: longer than a loaded machine keeps the daemon from a CPU.
const DEADLINE: u32 = 6;

/// A time namespace shifts `CLOCK_MONOTONIC` of the restarted daemon, as a jump would.
#[test]
fn daemon_keeps_deadline_when_monotonic_clock_jumps() {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.deadline = Some(DEADLINE);
    let mut setup = setup.run();
    let running = Running::start(&setup);
    for seconds in ["1000000", "0"] {
        for host in [1, 2] {
            let daemon = setup.daemon_mut(host);
            daemon.sigterm().unwrap();
            daemon.set_prefix(&["unshare", "--time", "--monotonic", seconds, "--boottime", seconds]);
            daemon.restart().unwrap();
            let left = status(&setup, host)["heartbeat"]["left_s"].as_u64().unwrap();
            assert!(left <= u64::from(DEADLINE), "{left} s are left of {DEADLINE}");
        }
        // The deadline is extended in time, and no packet is passed to the kernel.
        setup.by_fast_path(1000, 1000, || sleep(Duration::from_secs(u64::from(DEADLINE + 3))));
        for host in [1, 2] {
            assert_eq!(setup.counts(host).of("stale"), 0);
        }
    }
    running.end_lossless(&setup);
}

/// Only the machine's wall clock can be set, so this checks that the sources do not use it. Exceptions: log lines,
/// printed events, certificate validation in a library, and discovery, which reads file modification times.
#[test]
fn data_path_and_daemon_do_not_use_wall_clock() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut checked = 0;
    for part in ["api", "apply", "daemon", "kernel", "model", "plan", "store", "sys"] {
        check_files_below(&source.join("overlay-user/src").join(part), &mut checked);
    }
    for part in ["overlay-ebpf/src", "overlay-common/src"] {
        check_files_below(&source.join(part), &mut checked);
    }
    assert!(checked > 75, "only {checked} files were found");
}

fn check_files_below(directory: &Path, checked: &mut usize) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check_files_below(&path, checked);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for clock in ["SystemTime", "CLOCK_REALTIME", "ktime_get_real", "ktime_get_tai", "gettimeofday", "chrono::"] {
            assert!(!text.contains(clock), "{} uses {clock}", path.display());
        }
        *checked += 1;
    }
}
