use futures_util::{Stream, StreamExt};
use overlay_common::VtepAddr;

use super::*;
use crate::kernel::{HostEvent, NextHop};

/// The kernel's current next hop to this address.
async fn next_hop(host: &Host, dst: VtepAddr) -> NextHop {
    let found = host.snapshot().next_hops(BTreeSet::from([dst])).await.expect("an answer");
    let [(_, hop)] = <[_; 1]>::try_from(found).expect("one answer");
    hop
}

fn start() -> (Host, Container) {
    let other = Container::new();
    underlay(&other);
    (Host::open().expect("netlink"), other)
}

/// The second node as gateway.
const GATEWAY: Ipv4Addr = NODE2.ipv4();

async fn reason(host: &Host, dst: VtepAddr) -> String {
    match next_hop(host, dst).await {
        NextHop::Unresolved { reason, .. } => reason,
        hop @ NextHop::Resolved { .. } => panic!("{hop:?}"),
    }
}

async fn wait_for(events: &mut (impl Stream<Item = HostEvent> + Unpin), wanted: impl Fn(&HostEvent) -> bool) {
    let wait = async {
        while let Some(event) = events.next().await {
            if wanted(&event) {
                return;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the event");
}

#[test]
fn probed_next_hop_is_resolved() {
    in_netns(|| async {
        let (host, other) = start();
        let mut events = Host::events().expect("netlink");
        let hop = next_hop(&host, NODE2).await;
        let snapshot = host.snapshot();
        let u1 = snapshot.link_by_address(NODE1).await.expect("links").expect("u1");
        let NextHop::Unresolved { ifindex, gateway, .. } = &hop else { panic!("{hop:?}") };
        assert_eq!((*ifindex, *gateway), (Some(u1.index), Some(GATEWAY)));

        host.probe_neighbour(&hop).await.expect("probed");
        wait_for(&mut events, |event| matches!(event, HostEvent::Neighbour { ip: GATEWAY, resolved: true, .. })).await;
        let hop = next_hop(&host, NODE2).await;
        let NextHop::Resolved { ifindex, src_mac, dst_mac, mtu, gateway, stale } = hop else { panic!("{hop:?}") };
        assert_eq!((ifindex, src_mac, mtu, gateway, stale), (u1.index, u1.mac, 1500, GATEWAY, false));
        assert!(other.run("ip link show u2").contains(&dst_mac.to_string()));
        assert!(run("ip neighbour show dev u1").contains(&dst_mac.to_string()));
    });
}

#[test]
fn changed_neighbour_changes_next_hop() {
    in_netns(|| async {
        let (host, _other) = start();
        let mut events = Host::events().expect("netlink");
        for mac in ["02:00:00:00:00:01", "02:00:00:00:00:02"] {
            run(&format!("ip neighbour replace {NODE2} lladdr {mac} dev u1 nud stale"));
            wait_for(&mut events, |event| matches!(event, HostEvent::Neighbour { ip: GATEWAY, .. })).await;
            let hop = next_hop(&host, NODE2).await;
            let NextHop::Resolved { dst_mac, stale: true, .. } = hop else { panic!("{hop:?}") };
            assert_eq!(dst_mac.to_string(), mac);
        }
        run(&format!("ip neighbour replace {NODE2} lladdr 02:00:00:00:00:03 dev u1 nud permanent"));
        assert!(matches!(next_hop(&host, NODE2).await, NextHop::Resolved { stale: false, .. }));
        run(&format!("ip neighbour delete {NODE2} dev u1"));
        wait_for(&mut events, |event| matches!(event, HostEvent::NeighbourGone { .. })).await;
        reason(&host, NODE2).await;
    });
}

#[test]
fn gateway_and_route_mtu_are_followed() {
    in_netns(|| async {
        let (host, _other) = start();
        let far = VtepAddr::from([10, 9, 9, 9]);
        assert!(reason(&host, far).await.contains("no route"));
        run(&format!("ip route add 10.9.9.0/24 via {NODE2} mtu 1400"));
        run(&format!("ip neighbour replace {NODE2} lladdr 02:00:00:00:00:01 dev u1 nud permanent"));
        let hop = next_hop(&host, far).await;
        assert!(matches!(hop, NextHop::Resolved { gateway: GATEWAY, mtu: 1400, .. }), "{hop:?}");
    });
}

#[test]
fn unreachable_destination_has_a_reason() {
    in_netns(|| async {
        let (host, _other) = start();
        run("ip route add blackhole 10.8.0.0/24");
        run("ip route add unreachable 10.8.1.0/24");
        run("ip route add prohibit 10.8.2.0/24");
        assert!(reason(&host, NODE1).await.contains("address of this host"));
        assert!(reason(&host, [127, 0, 0, 1].into()).await.contains("address of this host"));
        assert!(reason(&host, [192, 168, 1, 255].into()).await.contains("not a unicast"));
        for (third, word) in ["blackhole", "unreachable", "prohibit"].into_iter().enumerate() {
            let text = reason(&host, [10, 8, third as u8, 1].into()).await;
            assert!(text.contains(word), "{text}");
        }
        run(&format!("ip neighbour replace {NODE2} dev u1 nud failed"));
        assert!(reason(&host, NODE2).await.contains("failed"));
        run("ip link set u1 down");
        reason(&host, NODE2).await;
    });
}

#[test]
fn link_address_and_route_events_arrive() {
    in_netns(|| async {
        let (host, _other) = start();
        let mut events = Host::events().expect("netlink");
        let u1 = host.link_by_name("u1").await.expect("links").expect("u1").index;
        run("ip route add 10.9.9.0/24 dev u1");
        wait_for(&mut events, |event| *event == HostEvent::Route).await;
        run("ip address add 192.168.7.1/24 dev u1");
        wait_for(&mut events, |event| *event == HostEvent::Address { ifindex: u1 }).await;
        run("ip link set u1 down");
        wait_for(&mut events, |event| matches!(event, HostEvent::Link(link) if link.index == u1 && !link.up)).await;
        run("ip link delete u1");
        wait_for(&mut events, |event| matches!(event, HostEvent::LinkGone(link) if link.name == "u1")).await;
    });
}

#[test]
fn lost_events_are_reported() {
    in_netns(|| async {
        let (_host, _other) = start();
        let mut events = Host::events().expect("netlink");
        // More events than the largest buffer holds. The runtime has only this thread, so none is read meanwhile.
        let batch: String = (0..60_000u32)
            .map(|n| {
                format!(
                    "neighbour replace 10.{}.{}.{} lladdr 02:00:00:00:00:01 dev u1 nud permanent\n",
                    n >> 16,
                    (n >> 8) & 255,
                    n & 255
                )
            })
            .collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), batch).expect("written");
        run(&format!("ip -batch {}", file.path().display()));
        wait_for(&mut events, |event| *event == HostEvent::Overrun).await;
        // Later events arrive.
        run("ip link set lo down");
        wait_for(&mut events, |event| matches!(event, HostEvent::Link(link) if link.name == "lo")).await;
    });
}
