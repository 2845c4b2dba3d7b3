//! Tests of the verdict with given outcomes.

use super::*;

/// Verdict on one lost and one reordered request from node01 to node02, sent `at` seconds after the start; the event
/// lasts from second 10 to 12.
fn verdict(event: Event, at: u64) -> (Explained, Vec<String>) {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let request = vec![Request { at: after(at), hosts: [1, 2] }];
    let wrong = Some(Wrong { reordered: request.clone(), ..Wrong::default() });
    let tallies = vec![Tally { name: "datagrams", sent: 9, lost: request, wrong }];
    let injected = [Injected { event, from: after(10), to: after(12) }];
    let mut failures = Vec::new();
    let explained = judge(&Outcome { tallies, ..Outcome::default() }, &injected, &mut failures);
    (explained[0], failures)
}

#[track_caller]
fn assert_verdict(event: &Event, at: u64, [lost, reordered]: [usize; 2], after: &str) {
    let kinds = [("lost", lost), ("reordered", reordered)].into_iter().filter(|(_, explained)| *explained == 0);
    let failures: Vec<_> = kinds.map(|(kind, _)| format!("datagrams: 1 {kind}{after}")).collect();
    assert_eq!(verdict(event.clone(), at), (Explained { lost, reordered }, failures), "{event}");
}

#[test]
fn loss_is_explained_only_by_a_lossy_event_of_its_host_at_its_time() {
    let flap = |host| Event::Flap { host, time: Duration::from_secs(1) };
    for host in [1, 2] {
        assert_verdict(&flap(host), 11, [1, 0], &format!(" after event 1, node0{host}: enp0s3 down for 1s"));
    }
    assert_verdict(&flap(3), 11, [0, 0], " after event 1, node03: enp0s3 down for 1s");
    assert_verdict(&flap(1), 13, [0, 0], " after event 1, node01: enp0s3 down for 1s");
    assert_verdict(&flap(1), 9, [0, 0], "");
    let guest = Event::Guest { host: 1 };
    assert_verdict(&guest, 11, [0, 0], " after event 1, node01: guest endpoint added or removed");
}

#[test]
fn reordering_is_explained_only_by_an_expired_deadline_of_the_host_that_receives_by_xdp() {
    let hang = |host, time| Event::Hang { host, time };
    let (long, short) = (DEADLINE + Duration::from_secs(2), Duration::from_secs(1));
    assert_verdict(&hang(2, long), 11, [0, 1], " after event 1, node02: SIGSTOP for 7s");
    assert_verdict(&hang(2, long), 13, [0, 0], " after event 1, node02: SIGSTOP for 7s");
    assert_verdict(&hang(2, short), 11, [0, 0], " after event 1, node02: SIGSTOP for 1s");
    assert_verdict(&hang(1, long), 11, [0, 0], " after event 1, node01: SIGSTOP for 7s");
}
