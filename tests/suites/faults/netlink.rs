//! The kernel tells of more changes than the daemon can take in: some are lost, and nothing stays wrong.

use std::{fmt::Write as _, fs};

use overlay_tests::lab::NIC;
use overlay_tests::world::World;

use crate::setup::{Running, beside};

/// More events than fit the receive buffer: it takes at most 4 MiB, where the machine allows as much.
const STORM: u32 = 8_000;

/// The daemon stands still in a storm of routes; after it, so that their events are lost, the changes that matter.
#[test]
fn changes_with_lost_netlink_events_are_detected() {
    let mut setup = World::two_hosts();
    let running = Running::start(&setup);
    let host = setup.lab.host(1).clone();
    setup.daemon_mut(1).hang().unwrap();
    let (mut come, mut go) = (String::new(), String::new());
    for number in 0..STORM {
        let route = format!("172.16.{}.{}/32 dev {NIC}", number >> 8, number & 0xff);
        writeln!(come, "route add {route}").unwrap();
        writeln!(go, "route del {route}").unwrap();
    }
    let batch = beside(setup.config(), "batch");
    for text in [&come, &go] {
        fs::write(&batch, text).unwrap();
        host.run(&["ip", "-batch", batch.to_str().unwrap()]);
    }
    let before = dropped(setup.daemon(1).pid().unwrap());
    assert!(before > 0, "the storm is too small for the buffer of this machine");

    host.run(&["ip", "neigh", "flush", "dev", "ovlbr4097", "nud", "permanent"]);
    host.run(&["bridge", "fdb", "del", "02:42:0a:00:01:06", "dev", "ovlvx4097", "self"]);
    setup.lab.host(2).run(&["ip", "link", "set", NIC, "address", "02:00:00:00:00:22"]);
    host.run(&["ip", "link", "set", "dev", "ovlvx4097", "mtu", "1300"]);
    setup.daemon_mut(1).wake().unwrap();
    running.end_after_losses(&setup);
    let mtu = host.run(&["ip", "link", "show", "dev", "ovlvx4097"]);
    assert!(mtu.contains("mtu 1450"), "{mtu}");
}

/// Messages that did not fit the netlink sockets of a process.
fn dropped(pid: u32) -> u64 {
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode. The table is that of the process's network namespace.
    let table = fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap();
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok()).sum()
}
