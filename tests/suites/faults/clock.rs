//! Clocks jump: nothing of the data path goes by the time of day, and the programs go by the kernel's ticks alone.

use std::{fs, path::Path, thread::sleep, time::Duration};

use overlay_tests::lab::Lab;
use overlay_tests::world::World;

use crate::setup::{Running, status};

/// In seconds.
const DEADLINE: u32 = 3;

/// `CLOCK_MONOTONIC` of a process can be shifted; it is another one for the daemon that comes next, as after a jump.
#[test]
fn daemon_keeps_deadline_when_monotonic_clock_jumps() {
    let mut setup = World::new(Lab::two_hosts());
    setup.deadline = Some(DEADLINE);
    let mut setup = setup.run();
    let running = Running::start(&setup);
    for seconds in ["1000000", "10"] {
        for host in [1, 2] {
            let daemon = setup.daemon_mut(host);
            daemon.sigterm().unwrap();
            daemon.start_again_by(&["unshare", "--time", "--monotonic", seconds, "--boottime", seconds]);
            daemon.restart().unwrap();
            let left = status(&setup, host)["heartbeat"]["left_s"].as_u64().unwrap();
            assert!(left <= u64::from(DEADLINE), "{left} s are left of {DEADLINE}");
        }
        // Twice the deadline: it is extended in time, and no packet is left to the kernel.
        setup.by_fast_path(1000, 1000, || sleep(Duration::from_secs(u64::from(2 * DEADLINE))));
        for host in [1, 2] {
            assert_eq!(setup.counts(host).of("stale"), 0);
        }
    }
    running.end_lossless(&setup);
}

/// The time of day can jump for a whole machine only. So this looks at the source: what does not ask for it cannot be
/// misled by it. (Log lines and printed events carry it; certificates are checked by it, by a library. How old the files of a
/// directory are, which is all that discovery asks for, has no other clock.)
#[test]
fn data_path_and_daemon_do_not_use_wall_clock() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut looked_at = 0;
    for part in ["api", "apply", "daemon", "kernel", "model", "plan", "store", "sys"] {
        look_below(&source.join("overlay-user/src").join(part), &mut looked_at);
    }
    for part in ["overlay-ebpf/src", "overlay-common/src"] {
        look_below(&source.join(part), &mut looked_at);
    }
    assert!(looked_at > 75, "only {looked_at} files were found");
}

fn look_below(directory: &Path, looked_at: &mut usize) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look_below(&path, looked_at);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for clock in ["SystemTime", "CLOCK_REALTIME", "ktime_get_real", "ktime_get_tai", "gettimeofday", "chrono"] {
            assert!(!text.contains(clock), "{} uses {clock}", path.display());
        }
        *looked_at += 1;
    }
}
