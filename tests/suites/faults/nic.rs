//! The NIC fails and recovers under traffic; its MTU changes.

use std::{thread::sleep, time::Duration};

use overlay_tests::testbed::Testbed;
use overlay_tests::{
    check::until,
    lab::{Host, Lab, NIC},
};

use crate::setup::{Running, status, wait_for_no_problem, wait_for_problem};

fn set_nic(host: &Host, words: &[&str]) {
    host.run(&[&["ip", "link", "set", NIC], words].concat());
}

#[test]
fn daemon_follows_flapping_nic() {
    let setup = Testbed::two_hosts();
    let running = Running::start(&setup);
    for pause in [0, 5, 20, 50, 100, 300] {
        set_nic(setup.lab.host(1), &["down"]);
        sleep(Duration::from_millis(pause));
        set_nic(setup.lab.host(1), &["up"]);
        sleep(Duration::from_millis(pause));
    }
    running.end_after_losses(&setup);
}

/// The other end of the veth goes down: the NIC is up and has no carrier.
#[test]
fn daemon_follows_nic_that_loses_carrier() {
    let setup = Testbed::two_hosts();
    let running = Running::start(&setup);
    set_nic(setup.lab.host(2), &["down"]);
    until("the carrier is lost", || setup.lab.host(1).run(&["ip", "link", "show", "dev", NIC]).contains("NO-CARRIER"));
    sleep(Duration::from_secs(1));
    set_nic(setup.lab.host(2), &["up"]);
    running.end_after_losses(&setup);
}

#[test]
fn recreated_nic_is_used_again() {
    let setup = Testbed::two_hosts();
    let running = Running::start(&setup);
    let [one, two] = [1, 2].map(|number| setup.lab.host(number));
    one.run(&["ip", "link", "del", NIC]);
    wait_for_problem(&setup, 1, "192.168.1.9");
    assert_eq!(status(&setup, 1)["vteps"][0]["resolved"], false);
    let peer = two.path().display().to_string();
    one.run(&[
        "ip", "link", "add", NIC, "mtu", "1500", "type", "veth", "peer", "name", NIC, "mtu", "1500", "netns", &peer,
    ]);
    for host in [one, two] {
        host.run(&["ip", "addr", "add", &format!("{}/24", host.address()), "dev", NIC]);
        set_nic(host, &["up"]);
    }
    wait_for_no_problem(&setup);
    running.end_after_losses(&setup);
}

#[test]
fn network_mtu_follows_nic_mtu_under_traffic() {
    let setup = Testbed::two_hosts();
    let running = Running::start(&setup);
    for mtu in [1400, 9000, 1280, 1500] {
        for host in setup.lab.hosts() {
            set_nic(host, &["mtu", &mtu.to_string()]);
        }
        for host in [1, 2] {
            until("the network's MTU follows", || status(&setup, host)["networks"][0]["mtu"] == mtu - 50);
            until("the container's MTU follows", || {
                setup.first(host).run(&["ip", "link", "show", "dev", "eth0"]).contains(&format!("mtu {} ", mtu - 50))
            });
        }
        running.assert_continues();
    }
    running.end_lossless(&setup);
}

/// Oversize packets take the kernel path, all others the fast path.
#[test]
fn nic_mtu_below_network_mtu_is_reported_and_small_packets_pass() {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.cluster.networks[0].mtu = Some(1450);
    let setup = setup.run();
    let running = Running::start(&setup);
    let before = setup.counts(1);
    for host in setup.lab.hosts() {
        set_nic(host, &["mtu", "1400"]);
    }
    for host in [1, 2] {
        wait_for_problem(&setup, host, "do not fit the underlay's MTU 1400");
        until("the VTEP's MTU is updated", || status(&setup, host)["vteps"][0]["mtu"] == 1350);
    }
    // The kernel sends ICMP errors for the stream's segments, and the container sends smaller ones.
    running.assert_continues();
    assert!(setup.counts(1).since(&before).of("oversize") >= 1);
    setup.by_fast_path(100, 100, || running.0.datagrams.wait_for(100).unwrap());

    for host in setup.lab.hosts() {
        set_nic(host, &["mtu", "1500"]);
    }
    wait_for_no_problem(&setup);
    running.end_lossless(&setup);
}
