//! A change is answered when the daemon has received its revision, and fails otherwise.

use std::time::{Duration, Instant};

use overlay_tests::check::until;

use crate::setup::{Single, inject_fault};

fn is_listed(single: &Single, network: &str) -> bool {
    let list = single.json(&["network", "ls"]);
    list["networks"].as_array().unwrap().iter().any(|row| row["name"] == network)
}

/// Every change can be read immediately.
#[test]
fn change_is_visible_in_next_answer() {
    let single = Single::start();
    for round in 0..20 {
        let name = format!("n{round}");
        single.json(&["network", "create", &name]);
        assert!(is_listed(&single, &name), "round {round}");
        if round % 2 == 0 {
            single.json(&["network", "rm", &name]);
            assert!(!is_listed(&single, &name), "round {round}");
        }
    }
}

/// The database stores the changes, and the daemon receives no event.
#[test]
fn change_without_watch_event_is_reported_as_error() {
    let single = Single::with_faults();
    single.json(&["network", "create", "blue"]);
    inject_fault("watch");
    for (words, object) in
        [(&["network", "create", "red"][..], "network \"red\""), (&["network", "rm", "blue"], "network \"blue\"")]
    {
        let started = Instant::now();
        let output = single.daemon.output(words).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{words:?}");
        for part in [object, "revision", "annot allocate memory", "network ls"] {
            assert!(stderr.contains(part), "{words:?}: no {part:?} in: {stderr}");
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
    inject_fault("");
    until("the daemon has caught up", || is_listed(&single, "red") && !is_listed(&single, "blue"));
}
