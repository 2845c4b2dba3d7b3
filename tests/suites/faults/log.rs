//! The log cannot be written: the disk is full, or the reader has exited. The data path does not depend on the log.

use std::{thread::sleep, time::Duration};

use overlay_tests::check::until;

use overlay_tests::testbed::Testbed;

use crate::setup::{Running, add_spares, spares_are_served, status};

/// `output`: shell redirection for `overlay run`, and for no other command.
fn assert_runs_with_output(output: &str) {
    let mut setup = Testbed::with_spares();
    setup.deadline = Some(3);
    let script = format!("case \" $* \" in *' run '*) exec \"$@\" {output};; *) exec \"$@\";; esac");
    setup.prefix = ["bash", "-c", &script, "bash"].map(Into::into).into();
    let mut setup = setup.run();
    let pids = [1, 2].map(|host| setup.daemon(host).pid().unwrap());
    let running = Running::start(&setup);
    // These changes are logged: endpoints, and a next hop that is lost and resolved.
    add_spares(&mut setup);
    spares_are_served(&setup);
    setup.lab.host(1).run(&["ip", "xfrm", "policy", "add", "dst", "192.0.2.1/32", "dir", "out", "action", "allow"]);
    until("the policy is seen", || status(&setup, 1)["vteps"][0]["resolved"] == false);
    setup.lab.host(1).run(&["ip", "xfrm", "policy", "flush"]);
    setup.wait_until_resolved().unwrap();
    setup.wait_until_converged();
    sleep(Duration::from_secs(4));
    for host in [1, 2] {
        let status = status(&setup, host);
        assert_eq!((&status["ready"], &status["heartbeat"]["expired"]), (&true.into(), &false.into()), "{status}");
        assert_eq!(status["daemon"], pids[host - 1], "the daemon has not been replaced");
    }
    setup.by_fast_path(100, 100, || running.assert_continues());
    running.end_lossless(&setup);
    for host in [1, 2] {
        let ended = setup.daemon_mut(host).sigterm().unwrap();
        assert!(ended.success(), "{ended}");
    }
}

#[test]
fn daemon_continues_when_log_disk_is_full() {
    assert_runs_with_output("--json >/dev/full 2>/dev/full");
}

#[test]
fn daemon_continues_when_log_reader_exits() {
    assert_runs_with_output("--json > >(:) 2> >(:)");
}
