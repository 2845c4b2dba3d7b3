use futures_util::{Stream, StreamExt};
use overlay_common::VtepAddr;

use super::*;
use crate::kernel::{HostEvent, NextHop, RouteQuery};

/// The lookup of a managed network's VXLAN device.
const QUERY: RouteQuery = RouteQuery { source: Some(NODE1), port: 4789, source_ports: (32_768, 65_535) };

/// The kernel's current next hop to this address.
async fn next_hop(host: &Host, dst: VtepAddr) -> NextHop {
    next_hop_of(host, QUERY, dst).await
}

async fn next_hop_of(host: &Host, query: RouteQuery, dst: VtepAddr) -> NextHop {
    let found = host.snapshot().next_hops(NODE1, BTreeSet::from([(query, dst)])).await.expect("an answer");
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
    reason_of(host, QUERY, dst).await
}

async fn reason_of(host: &Host, query: RouteQuery, dst: VtepAddr) -> String {
    match next_hop_of(host, query, dst).await {
        NextHop::Unresolved { obstacle, .. } => {
            assert!(!obstacle.remedy.is_empty(), "{obstacle:?}");
            obstacle.problem
        }
        hop @ NextHop::Resolved { .. } => panic!("{hop:?}"),
    }
}

/// The egress device; `None`: unresolved.
async fn egress(host: &Host, query: RouteQuery, dst: VtepAddr) -> Option<u32> {
    match next_hop_of(host, query, dst).await {
        NextHop::Resolved { ifindex, .. } => Some(ifindex),
        NextHop::Unresolved { .. } => None,
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

        host.probe_neighbour(hop.neighbour().expect("a route")).await.expect("probed");
        wait_for(&mut events, |event| matches!(event, HostEvent::Neighbour { ip: GATEWAY, resolved: true, .. })).await;
        let hop = next_hop(&host, NODE2).await;
        let NextHop::Resolved { ifindex, src_mac, dst_mac, mtu, gateway, stale, .. } = hop else { panic!("{hop:?}") };
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
        assert!(reason(&host, NODE2).await.contains("does not answer ARP"));
        run("ip link set u1 down");
        reason(&host, NODE2).await;
    });
}

/// A second device with a route to `FAR`, like the first one's.
const FAR: VtepAddr = VtepAddr::new(Ipv4Addr::new(10, 9, 9, 9));

/// Two devices with a gateway each, and the default route through the first; their interface indices.
async fn two_devices(host: &Host) -> (u32, u32) {
    run("ip link add m1 type veth peer name m2");
    run("ip address add 172.16.0.1/24 dev m1");
    run("ip link set m2 up");
    run("ip link set m1 up");
    run(&format!("ip neighbour replace {NODE2} lladdr 02:00:00:00:00:01 dev u1 nud permanent"));
    run("ip neighbour replace 172.16.0.2 lladdr 02:00:00:00:00:02 dev m1 nud permanent");
    run(&format!("ip route add default via {NODE2}"));
    run("ip route add default via 172.16.0.2 table 100");
    let index = async |name| host.link_by_name(name).await.expect("links").expect("a link").index;
    (index("u1").await, index("m1").await)
}

#[test]
fn route_lookup_has_the_fields_of_a_vxlan_packet() {
    in_netns(|| async {
        let (host, _other) = start();
        let (first, second) = two_devices(&host).await;
        assert_eq!(egress(&host, QUERY, FAR).await, Some(first));
        // The rule, and whether it selects the packets.
        for (rule, matches) in [
            ("from 192.168.1.9", true),
            ("from 192.168.1.8", false),
            ("ipproto udp dport 4789", true),
            ("ipproto udp dport 4788", false),
            ("ipproto tcp", false),
            ("uidrange 0-0", true),
            ("uidrange 1-65535", false),
            ("fwmark 0/0xff", true),
            ("fwmark 1", false),
            ("not fwmark 1", true),
            ("iif lo", true),
            ("oif u1", false),
            ("tos 0x10", false),
            ("sport 32768-65534", false),
            ("sport 1-32767", false),
        ] {
            run(&format!("ip rule add {rule} lookup 100 pref 99"));
            let expected = if matches { second } else { first };
            // The programs use source port 65535, which no rule can select.
            let query = RouteQuery { source_ports: (32_768, 65_534), ..QUERY };
            let expected = if rule == "sport 32768-65534" { second } else { expected };
            assert_eq!(egress(&host, query, FAR).await, Some(expected), "{rule}");
            run("ip rule del pref 99");
        }
        // A device without `local` asks without a source address.
        run("ip rule add from 192.168.1.9 lookup 100 pref 99");
        let query = RouteQuery { source: None, ..QUERY };
        assert_eq!(egress(&host, query, FAR).await, Some(first));
        run("ip rule del pref 99");
        run("ip rule add not from 192.168.1.9 lookup 100 pref 99");
        assert!(reason_of(&host, query, FAR).await.contains("sends to it from 172.16.0.1"), "another source address");
    });
}

#[test]
fn rule_that_selects_some_flows_is_named() {
    in_netns(|| async {
        let (host, _other) = start();
        let (first, _) = two_devices(&host).await;
        run("ip rule add sport 40000-50000 lookup 100 pref 99");
        let reason_99 = reason(&host, FAR).await;
        assert!(reason_99.contains("rule 99") && reason_99.contains("40000 to 50000"), "{reason_99}");
        run("ip rule del pref 99");
        run("ip rule add not sport 40000 lookup 100 pref 99");
        assert!(reason(&host, FAR).await.contains("rule 99"));
        run("ip rule del pref 99");
        for unrelated in [
            "sport 40000 ipproto tcp lookup 100 pref 99",
            "sport 40000 to 10.8.0.0/16 lookup 100 pref 99",
            "sport 40000 from 192.168.1.8 lookup 100 pref 99",
            "sport 40000 fwmark 1 lookup 100 pref 99",
            "sport 40000 dport 53 lookup 100 pref 99",
            // After the rule of the table with the route.
            "sport 40000 lookup 100 pref 40000",
        ] {
            run(&format!("ip rule add {unrelated}"));
            assert_eq!(egress(&host, QUERY, FAR).await, Some(first), "{unrelated}");
            run("ip rule del lookup 100");
        }
    });
}

#[test]
fn rule_that_rejects_packets_has_a_reason() {
    in_netns(|| async {
        let (host, _other) = start();
        two_devices(&host).await;
        for action in ["prohibit", "blackhole", "unreachable"] {
            run(&format!("ip rule add from 192.168.1.9 {action} pref 99"));
            reason(&host, FAR).await;
            run("ip rule del pref 99");
        }
        run("ip address del 192.168.1.9/24 dev u1");
        reason(&host, FAR).await;
    });
}

#[test]
fn routes_with_unsupported_properties_have_a_reason() {
    in_netns(|| async {
        let (host, _other) = start();
        let (first, _) = two_devices(&host).await;
        for (route, part) in [
            ("via inet6 fe80::1 dev u1", "IPv6"),
            ("encap ip id 7 dst 192.168.1.10 dev u1", "encapsulation"),
            ("dev u1 realm 5", "realm"),
            ("dev lo", "not an Ethernet"),
        ] {
            run(&format!("ip route add {FAR} {route}"));
            let found = reason(&host, FAR).await;
            assert!(found.contains(part), "{route}: {found}");
            run(&format!("ip route del {FAR}"));
        }
        run("ip link add vx type vxlan id 9 dstport 8472 local 192.168.1.9");
        run("ip link set vx up");
        run(&format!("ip route add {FAR} dev vx"));
        let found = reason(&host, FAR).await;
        assert!(found.contains("kind vxlan"), "{found}");
        run(&format!("ip route del {FAR}"));
        // TCP's metrics do not matter.
        run(&format!(
            "ip route add {FAR} via {NODE2} hoplimit 33 mtu lock 1400 rtt 9 initcwnd 9 quickack 1 congctl reno"
        ));
        let hop = next_hop(&host, FAR).await;
        let NextHop::Resolved { ifindex, mtu, hop_limit, .. } = hop else { panic!("{hop:?}") };
        assert_eq!((ifindex, mtu, hop_limit), (first, 1400, Some(33)));
        // The device limits the route's MTU.
        run(&format!("ip route replace {FAR} via {NODE2} mtu 9000"));
        assert!(matches!(next_hop(&host, FAR).await, NextHop::Resolved { mtu: 1500, hop_limit: None, .. }));
    });
}

#[test]
fn multipath_route_depends_on_the_sysctls() {
    in_netns(|| async {
        let (host, _other) = start();
        let (first, second) = two_devices(&host).await;
        let far = |last| VtepAddr::from([10, 9, 9, last]);
        run(&format!("ip route add 10.9.9.0/24 nexthop via {NODE2} weight 3 nexthop via 172.16.0.2"));
        // Since Linux 6.16 the device of the source address is preferred; that of this one has no route.
        run("ip address add 9.9.9.1/32 dev lo");
        let query = RouteQuery { source: Some([9, 9, 9, 1].into()), ..QUERY };
        let mut devices = BTreeSet::new();
        for last in 1..100 {
            // As the kernel prints it for these addresses.
            let shown = run(&format!("ip route get {} from 9.9.9.1", far(last)));
            let expected = if shown.contains("dev u1") { first } else { second };
            assert_eq!(egress(&host, query, far(last)).await, Some(expected), "{shown}");
            devices.insert(expected);
        }
        assert_eq!(devices, [first, second].into());
        for (name, value) in [("fib_multipath_hash_policy", "1"), ("fib_multipath_use_neigh", "1")] {
            let path = format!("/proc/sys/net/ipv4/{name}");
            std::fs::write(&path, value).expect("a sysctl");
            assert!(reason(&host, far(1)).await.contains(name));
            std::fs::write(&path, "0").expect("a sysctl");
        }
    });
}

#[test]
fn nexthop_object_is_followed_and_group_has_a_reason() {
    in_netns(|| async {
        let (host, _other) = start();
        let (first, second) = two_devices(&host).await;
        let mut events = Host::events().expect("netlink");
        run(&format!("ip nexthop add id 1 via {NODE2} dev u1"));
        run("ip nexthop add id 2 via 172.16.0.2 dev m1");
        run("ip nexthop add id 10 group 1/2");
        run("ip nexthop add id 11 group 1");
        run("ip nexthop add id 12 group 1/2 type resilient buckets 8");
        run(&format!("ip route add {FAR} nhid 1"));
        // In both modes: 0 sends no route events for a changed object, and does not expand it in routes.
        for mode in ["1", "0"] {
            std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", mode).expect("a sysctl");
            run(&format!("ip route replace {FAR} nhid 1"));
            assert_eq!(egress(&host, QUERY, FAR).await, Some(first));
            while futures_util::FutureExt::now_or_never(events.next()).is_some() {}
            run("ip nexthop replace id 1 via 172.16.0.2 dev m1");
            wait_for(&mut events, |event| *event == HostEvent::Route).await;
            assert_eq!(egress(&host, QUERY, FAR).await, Some(second));
            run(&format!("ip nexthop replace id 1 via {NODE2} dev u1"));
            for (group, is_usable) in [(10, false), (11, true), (12, false)] {
                run(&format!("ip route replace {FAR} nhid {group}"));
                if is_usable {
                    assert_eq!(egress(&host, QUERY, FAR).await, Some(first));
                } else {
                    assert!(reason(&host, FAR).await.contains(&format!("nexthop group {group}")), "mode {mode}");
                }
            }
            run("ip nexthop add id 20 blackhole");
            run(&format!("ip route replace {FAR} nhid 20"));
            reason(&host, FAR).await;
            run(&format!("ip route replace {FAR} nhid 1"));
            run("ip nexthop del id 20");
        }
    });
}

#[test]
fn rule_events_arrive() {
    in_netns(|| async {
        let (_host, _other) = start();
        let mut events = Host::events().expect("netlink");
        for command in ["add", "del"] {
            run(&format!("ip rule {command} from 10.0.0.1 lookup 100 pref 99"));
            wait_for(&mut events, |event| *event == HostEvent::Route).await;
        }
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
