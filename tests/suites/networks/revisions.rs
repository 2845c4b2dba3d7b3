//! A change is answered when the daemon knows its revision, and is an error when it does not.

use std::time::{Duration, Instant};

use overlay_tests::check::until;

use crate::setup::{Single, refuse};

fn is_listed(single: &Single, network: &str) -> bool {
    let list = single.ask(&["network", "ls"]);
    list["networks"].as_array().unwrap().iter().any(|row| row["name"] == network)
}

/// Every change can be read at once.
#[test]
fn change_is_visible_in_next_answer() {
    let single = Single::start();
    for round in 0..20 {
        let name = format!("n{round}");
        single.ask(&["network", "create", &name]);
        assert!(is_listed(&single, &name), "round {round}");
        if round % 2 == 0 {
            single.ask(&["network", "rm", &name]);
            assert!(!is_listed(&single, &name), "round {round}");
        }
    }
}

/// The database takes the changes, and the daemon does not hear of them.
#[test]
fn change_without_watch_event_is_reported_as_error() {
    let single = Single::with_refusals();
    single.ask(&["network", "create", "blue"]);
    refuse("watch");
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
    refuse("");
    until("the daemon has caught up", || is_listed(&single, "red") && !is_listed(&single, "blue"));
}
