use std::collections::BTreeSet;

use overlay_common::VtepAddr;

use super::*;
use crate::{
    kernel::{Host, bridge_name, veth_name, vxlan_name},
    plan::{change::Change, host::HostChanges},
    sys::netns::Netns,
};

/// Both hosts of the running example, one container on each.
struct Lab {
    other: Container,
    containers: [Container; 2],
    cluster: Parts,
}

impl Lab {
    fn new(network: NetworkSpec) -> Self {
        let other = Container::new();
        underlay(&other);
        let containers = [Container::new(), Container::new()];
        let attachment = |container: &Container| Attachment::Netns(container.path());
        let endpoints = vec![
            endpoint("gindemo1", GINDEMO1, NODE1, attachment(&containers[0])),
            endpoint("gindemo2", GINDEMO2, NODE2, attachment(&containers[1])),
        ];
        Self { other, containers, cluster: cluster(network, endpoints) }
    }

    fn hosts(&self) -> [(Host, VtepAddr); 2] {
        let other = Netns::open(&self.other.path()).expect("the other host");
        [(Host::open().expect("netlink"), NODE1), (Host::open_in(&other).expect("netlink"), NODE2)]
    }

    async fn up(&self) -> Host {
        for (host, address) in self.hosts() {
            reconcile(&host, &wanted(&host, &self.cluster, address).await).await;
        }
        Host::open().expect("netlink")
    }
}

fn host_end() -> String {
    veth_name("my-overlay-network", "gindemo1")
}

#[test]
fn containers_of_two_hosts_reach_each_other_through_the_kernel() {
    in_netns(|| async {
        let lab = Lab::new(network());
        lab.up().await;
        for (container, address) in [(0, GINDEMO2), (1, GINDEMO1)] {
            lab.containers[container].run(&format!("ping -c 2 -i 0.2 -W 2 -M do -s 1422 {address}"));
            lab.containers[container].run("ping -c 1 -W 2 10.0.1.1");
        }
        // The bridge's neighbour table answered ARP.
        let neighbours = lab.containers[0].run("ip neighbour show dev eth0");
        assert!(neighbours.contains("10.0.1.6 lladdr 02:42:0a:00:01:06"), "{neighbours}");
        assert!(neighbours.contains("10.0.1.1 lladdr 02:42:0a:00:01:01"), "{neighbours}");
    });
}

#[test]
fn applied_state_is_read_back_without_changes() {
    in_netns(|| async {
        let lab = Lab::new(network());
        let host = lab.up().await;
        let wanted = wanted(&host, &lab.cluster, NODE1).await;
        let state = found(&host, &wanted).await;
        assert_eq!(state, wanted);
        assert_eq!(HostChanges::between(&state, &wanted), HostChanges::default());
    });
}

#[test]
fn devices_have_the_options_of_the_kernel_path() {
    in_netns(|| async {
        let lab = Lab::new(network());
        lab.up().await;
        let vxlan = run(&format!("ip -details link show {}", vxlan_name(vni())));
        for part in [
            "vxlan id 4097 local 192.168.1.9 dev u1",
            "dstport 4789",
            "nolearning",
            "ttl 64",
            "noudpcsum",
            "mtu 1450",
            "learning off",
            "neigh_suppress on",
            "addrgenmode none",
            "alias overlay my-overlay-network",
            "master ovlbr4097",
            "UP",
        ] {
            assert!(vxlan.contains(part), "no {part:?} in {vxlan}");
        }
        let bridge = run(&format!("ip -details address show {}", bridge_name(vni())));
        for part in ["02:42:0a:00:01:01", "inet 10.0.1.1/24", "stp_state 0", "mcast_snooping 0", "mtu 1450"] {
            assert!(bridge.contains(part), "no {part:?} in {bridge}");
        }
        assert!(!bridge.contains("inet6"), "{bridge}");
        let port = run(&format!("ip -details link show {}", host_end()));
        for part in ["master ovlbr4097", "mtu 1450", "alias overlay my-overlay-network/gindemo1", "addrgenmode none"] {
            assert!(port.contains(part), "no {part:?} in {port}");
        }
        assert!(!run(&format!("ip address show {}", host_end())).contains("inet6"));
        let fdb = run("bridge fdb show");
        for part in [
            "00:00:00:00:00:00 dev ovlvx4097 dst 192.168.1.10 self permanent",
            "02:42:0a:00:01:06 dev ovlvx4097 dst 192.168.1.10 self permanent",
            "02:42:0a:00:01:06 dev ovlvx4097 sticky master ovlbr4097 static",
            &format!("02:42:0a:00:01:02 dev {} sticky master ovlbr4097 static", host_end()),
        ] {
            assert!(fdb.contains(part), "no {part:?} in {fdb}");
        }
        let inside = lab.containers[0].run("ip address");
        assert!(inside.contains("inet 10.0.1.2/24 brd 10.0.1.255 scope global eth0"), "{inside}");
        assert!(inside.contains("link/ether 02:42:0a:00:01:02"), "{inside}");
        let routes = lab.containers[0].run("ip route");
        assert!(routes.contains("default via 10.0.1.1 dev eth0"), "{routes}");
    });
}

#[test]
fn gro_is_enabled_inside_container() {
    in_netns(|| async {
        let lab = Lab::new(network());
        lab.up().await;
        let features = lab.containers[0].run("ethtool -k eth0");
        assert!(features.contains("generic-receive-offload: on"), "{features}");
        assert!(features.contains("tx-checksumming: on"), "{features}");
    });
}

#[test]
fn overlapping_network_has_no_gateway() {
    in_netns(|| async {
        let lab = Lab::new(NetworkSpec { overlap: true, ..network() });
        let host = lab.up().await;
        let wanted = wanted(&host, &lab.cluster, NODE1).await;
        assert!(HostChanges::between(&found(&host, &wanted).await, &wanted).is_empty());
        assert!(!run("ip address show ovlbr4097").contains("inet "));
        assert!(!lab.containers[0].run("ip route").contains("default"));
        lab.containers[0].run(&format!("ping -c 1 -W 2 {GINDEMO2}"));
    });
}

#[test]
fn only_owned_objects_are_removed() {
    in_netns(|| async {
        let lab = Lab::new(network());
        let host = lab.up().await;
        let names = |links: Vec<crate::kernel::Link>| links.into_iter().map(|link| link.name).collect::<BTreeSet<_>>();
        assert!(names(host.links().await.expect("links")).contains("ovlbr4097"));
        reconcile(&host, &DesiredHost::default()).await;
        let left = names(host.links().await.expect("links"));
        assert!(left.contains("u1") && left.iter().all(|name| !name.starts_with("ovl")), "{left:?}");
        assert!(!lab.containers[0].run("ip link").contains("eth0"));
    });
}

#[test]
fn unrecorded_and_undesired_objects_are_ignored() {
    in_netns(|| async {
        let lab = Lab::new(network());
        let host = lab.up().await;
        let state = host.snapshot().state(&DesiredHost::default(), &BTreeSet::new()).await.expect("the state");
        assert_eq!(state, DesiredHost::default());
        let owned = BTreeSet::from([Owned::Link("ovlbr4097".to_owned())]);
        let state = host.snapshot().state(&DesiredHost::default(), &owned).await.expect("the state");
        assert_eq!(state.bridges.len(), 1);
        assert_eq!(state.vxlans.len(), 0);
    });
}

#[test]
fn moved_endpoint_changes_entries_but_no_device() {
    in_netns(|| async {
        let mut lab = Lab::new(network());
        let host = lab.up().await;
        let index = host.link_by_name("ovlvx4097").await.expect("links").expect("the device").index;
        let third = VtepAddr::from([192, 168, 1, 11]);
        lab.cluster.endpoints[1].host = third;
        let wanted = wanted(&host, &lab.cluster, NODE1).await;
        let plan = reconcile(&host, &wanted).await;
        let mac = MacAddr::from_ipv4(GINDEMO2.octets());
        let flood = vec![
            Change { key: (vni(), third), old: None, new: Some(()) },
            Change { key: (vni(), NODE2), old: Some(()), new: None },
        ];
        let fdb = vec![Change { key: (vni(), mac), old: Some(NODE2), new: Some(third) }];
        assert_eq!(plan, HostChanges { flood, fdb, ..HostChanges::default() });
        assert_eq!(found(&host, &wanted).await, wanted);
        assert_eq!(host.link_by_name("ovlvx4097").await.expect("links").expect("the device").index, index);
    });
}

#[test]
fn new_udp_port_recreates_only_the_vxlan_device() {
    in_netns(|| async {
        let mut lab = Lab::new(network());
        let host = lab.up().await;
        let index = |name: String| {
            let host = host.clone();
            async move { host.link_by_name(&name).await.expect("links").expect("the device").index }
        };
        let veth = index(host_end()).await;
        lab.cluster.networks[0].port = 8472;
        lab.cluster.networks[0].mtu = Some(1400);
        let wanted = wanted(&host, &lab.cluster, NODE1).await;
        reconcile(&host, &wanted).await;
        assert_eq!(found(&host, &wanted).await, wanted);
        assert_eq!(index(host_end()).await, veth);
        assert!(lab.containers[0].run("ip link show eth0").contains("mtu 1400"));
    });
}

#[test]
fn new_address_replaces_old_one_in_place() {
    in_netns(|| async {
        let mut lab = Lab::new(network());
        let host = lab.up().await;
        let moved = &mut lab.cluster.endpoints[0];
        moved.ip = Ipv4Addr::new(10, 0, 1, 77);
        moved.mac = MacAddr::from_ipv4(moved.ip.octets());
        let wanted = wanted(&host, &lab.cluster, NODE1).await;
        reconcile(&host, &wanted).await;
        assert_eq!(found(&host, &wanted).await, wanted);
        let inside = lab.containers[0].run("ip address show eth0");
        assert!(inside.contains("10.0.1.77/24") && !inside.contains("10.0.1.2/24"), "{inside}");
        assert!(lab.containers[0].run("ip route").contains("default via 10.0.1.1"));
    });
}

#[test]
fn restarted_container_is_attached_again() {
    in_netns(|| async {
        let mut lab = Lab::new(network());
        let host = lab.up().await;
        let before = wanted(&host, &lab.cluster, NODE1).await;
        lab.containers[0] = Container::new();
        lab.cluster.endpoints[0].attachment = Attachment::Netns(lab.containers[0].path());
        // The kernel removes namespaces asynchronously.
        while host.link_by_name(&host_end()).await.expect("links").is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!HostChanges::between(&found(&host, &before).await, &before).is_empty());
        let wanted = wanted(&host, &lab.cluster, NODE1).await;
        reconcile(&host, &wanted).await;
        assert_eq!(found(&host, &wanted).await, wanted);
        lab.containers[0].run(&format!("ping -c 1 -W 2 {GINDEMO2}"));
    });
}

#[test]
fn changed_netns_path_moves_veth() {
    in_netns(|| async {
        let mut lab = Lab::new(network());
        let host = lab.up().await;
        let fresh = Container::new();
        lab.cluster.endpoints[0].attachment = Attachment::Netns(fresh.path());
        let wanted = wanted(&host, &lab.cluster, NODE1).await;
        reconcile(&host, &wanted).await;
        assert_eq!(found(&host, &wanted).await, wanted);
        assert!(!lab.containers[0].run("ip link").contains("eth0"));
        fresh.run(&format!("ping -c 1 -W 2 {GINDEMO2}"));
    });
}

#[test]
fn container_keeps_its_interfaces_and_default_route() {
    in_netns(|| async {
        let lab = Lab::new(network());
        let inside = &lab.containers[0];
        inside.run("ip link add eth0 type veth peer name eth1");
        inside.run("ip address add 172.17.0.2/16 dev eth0");
        inside.run("ip link set eth0 up");
        inside.run("ip link set eth1 up");
        inside.run("ip route add default via 172.17.0.1");
        lab.up().await;
        assert!(inside.run("ip address show eth2").contains("10.0.1.2/24"));
        let routes = inside.run("ip route");
        assert!(routes.contains("default via 172.17.0.1 dev eth0") && !routes.contains("via 10.0.1.1"), "{routes}");
    });
}

#[test]
fn adopted_port_is_attached_and_released_unmodified() {
    in_netns(|| async {
        let mut lab = Lab::new(network());
        run("ip link add tap1 type veth peer name tap1c");
        run("ip link set tap1 up");
        lab.cluster.endpoints[0].attachment = Attachment::Port("tap1".into());
        let host = lab.up().await;
        let wanted = wanted(&host, &lab.cluster, NODE1).await;
        assert_eq!(found(&host, &wanted).await, wanted);
        assert!(run("bridge fdb show").contains("02:42:0a:00:01:02 dev tap1 sticky master ovlbr4097 static"));

        let owned = BTreeSet::from([Owned::Port("tap1".to_owned()), Owned::Link("ovlbr4097".to_owned())]);
        let state = host.snapshot().state(&DesiredHost::default(), &owned).await.expect("the state");
        let plan = HostChanges::between(&state, &DesiredHost::default());
        let ports = vec![Change { key: "tap1".to_owned(), old: Some(vni()), new: None }];
        let bridges = vec![Change { key: vni(), old: Some(state.bridges[&vni()].clone()), new: None }];
        assert_eq!(plan, HostChanges { bridges, ports, ..HostChanges::default() });
        apply(&host, &plan, Phase::Remove).await.expect("applied");
        let link = host.link_by_name("tap1").await.expect("links").expect("the port");
        assert!(link.up && link.master.is_none());
    });
}
