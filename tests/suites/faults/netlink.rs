//! Netlink events are lost when the receive buffer overflows: the daemon reads the tables again.

use std::{fmt::Write as _, fs};

use overlay_tests::lab::NIC;
use overlay_tests::testbed::Testbed;

use crate::setup::{Running, sibling};

/// More events than fit into the receive buffer, which has at most 4 MiB.
const STORM: u32 = 8_000;

/// A stopped daemon's buffer overflows with route events; events of the following changes are lost.
#[test]
fn changes_with_lost_netlink_events_are_detected() {
    let mut setup = Testbed::two_hosts();
    let running = Running::start(&setup);
    let host = setup.lab.host(1).clone();
    setup.daemon_mut(1).hang().unwrap();
    let (mut add, mut delete) = (String::new(), String::new());
    for number in 0..STORM {
        let route = format!("172.16.{}.{}/32 dev {NIC}", number >> 8, number & 0xff);
        writeln!(add, "route add {route}").unwrap();
        writeln!(delete, "route del {route}").unwrap();
    }
    let batch = sibling(setup.config(), "batch");
    for text in [&add, &delete] {
        fs::write(&batch, text).unwrap();
        host.run(&["ip", "-batch", batch.to_str().unwrap()]);
    }
    let before = dropped(setup.daemon(1).pid().unwrap());
    assert!(before > 0, "{STORM} routes do not overflow the buffer of this machine");

    host.run(&["ip", "neigh", "flush", "dev", "ovlbr4097", "nud", "permanent"]);
    host.run(&["bridge", "fdb", "del", "02:42:0a:00:01:06", "dev", "ovlvx4097", "self"]);
    setup.lab.host(2).run(&["ip", "link", "set", NIC, "address", "02:00:00:00:00:22"]);
    host.run(&["ip", "link", "set", "dev", "ovlvx4097", "mtu", "1300"]);
    setup.daemon_mut(1).resume().unwrap();
    running.end_after_losses(&setup);
    let mtu = host.run(&["ip", "link", "show", "dev", "ovlvx4097"]);
    assert!(mtu.contains("mtu 1450"), "{mtu}");
}

/// Messages dropped at the netlink sockets of a process.
fn dropped(pid: u32) -> u64 {
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode, of the process's netns.
    let table = fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap();
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok()).sum()
}
