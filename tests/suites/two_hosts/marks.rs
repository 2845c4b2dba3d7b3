//! Packet marks: rules that set one, and XFRM policies that select it. node01 has a daemon that discovers the network.
//!
//! Needs root. The policies block, which stands for encryption: on the kernel path no packet arrives.

use std::time::Duration;

use overlay_tests::{
    check::until,
    lab::{
        Flavour, Lab, kernel_vxlan, private_directory,
        traffic::{Ping, ping},
    },
    testbed::Testbed,
};

/// `xtables-nft` and `xtables-legacy`: only the first has events.
#[track_caller]
fn packets_follow_policy(command: &str) {
    let mut testbed = Testbed::new(Lab::two_hosts());
    let network = testbed.cluster.networks[0].name.clone();
    for host in [1, 2] {
        kernel_vxlan(testbed.lab.host(host), &testbed.cluster, &network, Flavour::Static).unwrap();
    }
    let empty = private_directory().unwrap();
    let discover = ["--discover", "--docker-socket", "/nowhere.sock", "--netns-dir", empty.to_str().unwrap()];
    testbed.start_with(1, &discover).unwrap();
    // Replies to five pings, and how many the programs have sent.
    let pings = || {
        let sent = || testbed.daemon(1).packets("encap").unwrap();
        let before = sent();
        let to = testbed.first(2).ip().into();
        let replies =
            ping(testbed.first(1), to, Ping { timeout: Duration::from_millis(200), ..Ping::default() }).unwrap();
        (replies.received, sent() - before)
    };
    let run = |words: &str| testbed.lab.host(1).run(&words.split(' ').collect::<Vec<_>>());
    let problems = || {
        let output = testbed.daemon(1).output(&["status", "--problems"]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    until("the fast path at the start", || pings() == (5, 5));
    run(&format!("{command} -t mangle -A OUTPUT -p udp --dport 4789 -j MARK --set-xmark 0x4000/0x4000"));
    // Longer than the interval at which rules without events are read.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(pings(), (5, 5), "{}", problems());
    for _ in 0..3 {
        run("ip xfrm policy add dst 192.168.1.10/32 dir out mark 0x4000 action block");
        until("the policy is followed", || problems().contains("marks packets"));
        assert_eq!(pings(), (0, 0), "{}", problems());
        run("ip xfrm policy flush");
        until("the fast path again", || pings() == (5, 5));
    }
}

#[test]
fn mark_of_nftables_sends_nothing_past_policy() {
    packets_follow_policy("iptables-nft");
}

#[test]
fn mark_of_iptables_legacy_sends_nothing_past_policy() {
    packets_follow_policy("iptables-legacy");
}
