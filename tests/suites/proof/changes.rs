//! The kernel's behaviour changes, and no daemon notices: the proof ends, and the entry is not used.

use overlay_common::proof::Difference;
use overlay_tests::lab::NIC;

use super::setup::{BRIDGE, VXLAN, World};

/// What the kernel does with gindemo1's packets after the change.
enum Then {
    /// It sends them another way. The first difference, and the byte of the outer headers that differs.
    Differs(Difference, Option<(usize, u8)>),
    /// It does not send them to the NIC.
    Silent,
}

use Then::{Differs, Silent};

#[track_caller]
fn entry_is_not_used_after(change: impl FnOnce(&World) -> String, undo: impl FnOnce(&World) -> String, then: &Then) {
    let world = World::new();
    world.wait_until_proven();
    world.run(&change(&world));
    world.outlive_proofs();
    let (received, counts) = world.counted_pings(8);
    assert_eq!((counts.encap, counts.unproven), (0, 8), "{counts:?}");
    let since_change = world.counts();
    match then {
        Differs(difference, byte) => {
            assert!(since_change.differs >= 1, "{since_change:?}");
            let slots = world.differences();
            let slot =
                slots.iter().find(|slot| slot.difference == *difference as u32).expect("a slot has the difference");
            if let Some((at, value)) = byte {
                let seen: Vec<u8> = slot.seen.iter().flat_map(|word| word.to_ne_bytes()).collect();
                assert_eq!(seen[*at], *value, "{seen:x?}");
            }
        }
        Silent => {
            assert!(since_change.unanswered >= 1, "{since_change:?}");
            assert_eq!(received, 0);
        }
    }
    world.run(&undo(&world));
    world.wait_until_proven();
}

#[test]
fn ttl_of_the_device() {
    entry_is_not_used_after(
        |_| format!("ip link set {VXLAN} type vxlan ttl 17"),
        |_| format!("ip link set {VXLAN} type vxlan ttl 64"),
        // The kernel still delivers: only the programs' packets would have TTL 64.
        &Differs(Difference::Outer, Some((22, 17))),
    );
}

#[test]
fn rule_that_refuses_the_vtep() {
    entry_is_not_used_after(
        |_| "ip rule add to 192.168.1.10 blackhole".into(),
        |_| "ip rule del to 192.168.1.10 blackhole".into(),
        &Silent,
    );
}

#[test]
fn route_by_another_next_hop() {
    entry_is_not_used_after(
        |_| {
            format!(
                "ip neigh add 192.168.1.77 lladdr 02:00:00:00:00:77 dev {NIC} nud permanent
                ip route add 192.168.1.10/32 via 192.168.1.77 dev {NIC}"
            )
        },
        |_| format!("ip route del 192.168.1.10/32 via 192.168.1.77 dev {NIC}"),
        &Differs(Difference::Outer, Some((5, 0x77))),
    );
}

#[test]
fn route_through_another_device() {
    entry_is_not_used_after(
        |_| {
            "ip link add other type veth peer name otherpeer
            ip link set other up
            ip link set otherpeer up
            ip neigh add 192.168.1.10 lladdr 02:00:00:00:00:78 dev other nud permanent
            ip route add 192.168.1.10/32 dev other"
                .into()
        },
        |_| "ip link del other".into(),
        &Silent,
    );
}

const GINDEMO2: &str = "02:42:0a:00:01:06";

#[test]
fn entry_of_the_bridge_fdb() {
    entry_is_not_used_after(
        |world| format!("bridge fdb replace {GINDEMO2} dev {} master static", world.port("gindemo3")),
        |_| format!("bridge fdb replace {GINDEMO2} dev {VXLAN} master static"),
        &Silent,
    );
}

#[test]
fn entry_of_the_vxlan_fdb() {
    entry_is_not_used_after(
        |_| {
            format!(
                "ip neigh add 192.168.1.77 lladdr 02:00:00:00:00:77 dev {NIC} nud permanent
                bridge fdb replace {GINDEMO2} dev {VXLAN} dst 192.168.1.77 self permanent"
            )
        },
        |_| format!("bridge fdb replace {GINDEMO2} dev {VXLAN} dst 192.168.1.10 self permanent"),
        &Differs(Difference::Outer, Some((33, 77))),
    );
}

#[test]
fn isolated_port() {
    let set = |world: &World, state: &str| {
        format!(
            "bridge link set dev {} isolated {state}\nbridge link set dev {VXLAN} isolated {state}",
            world.port("gindemo1")
        )
    };
    entry_is_not_used_after(|world| set(world, "on"), |world| set(world, "off"), &Silent);
}

#[test]
fn filter_of_outer_packets() {
    entry_is_not_used_after(
        |_| "iptables-nft -A OUTPUT -p udp --dport 4789 -j DROP".into(),
        |_| "iptables-nft -F OUTPUT".into(),
        &Silent,
    );
}

#[test]
fn filter_of_bridged_frames() {
    entry_is_not_used_after(
        |_| format!("ebtables-nft -A FORWARD -d {GINDEMO2} -j DROP"),
        |_| "ebtables-nft -F FORWARD".into(),
        &Silent,
    );
}

#[test]
fn bridge_that_is_down() {
    entry_is_not_used_after(|_| format!("ip link set {BRIDGE} down"), |_| format!("ip link set {BRIDGE} up"), &Silent);
}
