use std::{net::UdpSocket, path::Path};

use super::*;
use crate::{
    apply::net::ChangeErrors,
    apply::net::HostError,
    kernel::KernelError,
    plan::host::DesiredError,
    sys::{ethtool::tx_checksum, netns::Netns},
};

/// The desired state of one host of the running example, with this attachment of its endpoint.
async fn one_endpoint(host: &Host, attachment: Attachment) -> DesiredHost {
    let endpoints = vec![
        endpoint("gindemo1", GINDEMO1, NODE1, attachment),
        endpoint("gindemo2", GINDEMO2, NODE2, Attachment::Unspecified),
    ];
    wanted(host, &cluster(network(), endpoints), NODE1).await
}

/// The errors of applying it.
async fn errors(host: &Host, wanted: &DesiredHost) -> ChangeErrors {
    let plan = HostChanges::between(&found(host, wanted).await, wanted);
    match apply(host, &plan, Phase::Create).await {
        Err(HostError::Changes(errors)) => errors,
        result => panic!("{result:?}"),
    }
}

fn first(errors: &ChangeErrors) -> &HostError {
    errors.failed.iter().find_map(|failed| failed.error.as_deref()).expect("an error")
}

fn start() -> (Host, Container) {
    let other = Container::new();
    underlay(&other);
    (Host::open().expect("netlink"), other)
}

#[test]
fn missing_netns_is_named_and_other_objects_are_created() {
    in_netns(|| async {
        let (host, _other) = start();
        let missing = one_endpoint(&host, Attachment::Netns("/run/netns/no-such-container".into())).await;
        let errors = errors(&host, &missing).await;
        assert!(matches!(first(&errors), HostError::EndpointNetns { .. }));
        let text = errors.to_string();
        assert!(
            text.contains("my-overlay-network/gindemo1") && text.contains("/run/netns/no-such-container"),
            "{text}"
        );
        // Only the veth and its FDB entry are missing.
        assert_eq!(errors.failed.len(), 2, "{text}");
        let state = found(&host, &missing).await;
        assert_eq!((state.bridges.len(), state.vxlans.len(), state.fdb.len()), (1, 1, 1));
    });
}

#[test]
fn path_that_is_not_a_netns_is_refused() {
    in_netns(|| async {
        let (host, _other) = start();
        let wanted = one_endpoint(&host, Attachment::Netns("/etc/passwd".into())).await;
        let text = errors(&host, &wanted).await.to_string();
        assert!(text.contains("/etc/passwd is not a network namespace"), "{text}");
        let wanted = one_endpoint(&host, Attachment::Netns("/proc/thread-self/ns/net".into())).await;
        let text = errors(&host, &wanted).await.to_string();
        assert!(text.contains("the host's own network namespace"), "{text}");
    });
}

#[test]
fn missing_port_is_refused() {
    in_netns(|| async {
        let (host, _other) = start();
        let wanted = one_endpoint(&host, Attachment::Port("tap9".into())).await;
        let errors = errors(&host, &wanted).await;
        assert!(matches!(first(&errors), HostError::NoLink { name } if name == "tap9"), "{errors}");
    });
}

#[test]
fn port_in_another_bridge_is_refused_and_stays() {
    in_netns(|| async {
        let (host, _other) = start();
        run("ip link add docker0 type bridge");
        run("ip link add tap1 master docker0 type veth peer name tap1c");
        let wanted = one_endpoint(&host, Attachment::Port("tap1".into())).await;
        assert!(matches!(host.snapshot().conflicts(&wanted, &BTreeSet::new()).await, Err(HostError::PortInUse { .. })));
        let errors = errors(&host, &wanted).await;
        assert!(
            matches!(first(&errors), HostError::PortInUse { name, bridge } if name == "tap1" && bridge == "docker0"),
            "{errors}"
        );
        assert!(run("ip link show tap1").contains("master docker0"));
    });
}

#[test]
fn device_of_another_owner_is_refused_and_unmodified() {
    in_netns(|| async {
        let (host, _other) = start();
        let container = Container::new();
        run("ip link add ovlbr4097 type bridge");
        let wanted = one_endpoint(&host, Attachment::Netns(container.path())).await;
        let errors = errors(&host, &wanted).await;
        assert!(matches!(first(&errors), HostError::NotOwned { name, .. } if name == "ovlbr4097"), "{errors}");
        // All other objects depend on the bridge.
        assert_eq!(errors.failed.iter().filter(|failed| failed.error.is_some()).count(), 1, "{errors}");
        assert!(host.snapshot().marked().await.expect("links").is_empty());
        run("ip link show ovlbr4097");
        assert!(matches!(host.snapshot().conflicts(&wanted, &BTreeSet::new()).await, Err(HostError::NotOwned { .. })));
    });
}

#[test]
fn device_with_same_vni_and_port_is_named() {
    in_netns(|| async {
        let (host, _other) = start();
        let container = Container::new();
        run("ip link add vx-other type vxlan id 4097 dstport 4789 local 192.168.1.9 dev u1");
        let wanted = one_endpoint(&host, Attachment::Netns(container.path())).await;
        assert!(matches!(host.snapshot().conflicts(&wanted, &BTreeSet::new()).await, Err(HostError::VniInUse { .. })));
        let text = errors(&host, &wanted).await.to_string();
        assert!(text.contains("VNI 4097 on UDP port 4789 is already used by interface vx-other"), "{text}");
        // The local containers keep their connectivity.
        assert_eq!(found(&host, &wanted).await.veths.len(), 1);
    });
}

#[test]
fn process_on_udp_port_is_named_and_no_device_remains() {
    in_netns(|| async {
        let (host, _other) = start();
        let container = Container::new();
        let socket = UdpSocket::bind("0.0.0.0:4789").expect("a free port");
        let wanted = one_endpoint(&host, Attachment::Netns(container.path())).await;
        assert!(matches!(
            host.snapshot().conflicts(&wanted, &BTreeSet::new()).await,
            Err(HostError::UdpPortInUse { .. })
        ));
        let text = errors(&host, &wanted).await.to_string();
        assert!(text.contains("UDP port 4789 of VNI 4097 is already used by process"), "{text}");
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        assert!(host.link_by_name("ovlvx4097").await.expect("links").is_none());
        drop(socket);
        let owned = host.snapshot().marked().await.expect("links");
        host.snapshot().conflicts(&wanted, &owned).await.expect("no conflict");
        reconcile(&host, &wanted).await;
        // The devices conflict only without their ownership record.
        host.snapshot().conflicts(&wanted, &host.snapshot().marked().await.expect("links")).await.expect("no conflict");
        let conflict = host.snapshot().conflicts(&wanted, &BTreeSet::new()).await;
        assert!(matches!(conflict, Err(HostError::OtherOverlay { .. })), "{conflict:?}");
    });
}

#[test]
fn too_large_mtu_names_the_network() {
    let view = |mtu| {
        let endpoints = vec![endpoint("gindemo1", GINDEMO1, NODE1, Attachment::Unspecified)];
        view(&cluster(NetworkSpec { mtu, ..network() }, endpoints), NODE1)
    };
    let underlay = UnderlayDevice { ifindex: 2, mtu: 1500, addr: NODE1 };
    assert_eq!(desired(&view(None), &underlay).expect("a valid model").vxlans[&vni()].mtu, 1450);
    assert_eq!(desired(&view(Some(1450)), &underlay).expect("a valid model").vxlans[&vni()].mtu, 1450);
    let error = desired(&view(Some(1451)), &underlay).expect_err("too large");
    assert!(matches!(error, DesiredError::Mtu { mtu: 1451, underlay: 1500, .. }));
    assert!(error.to_string().contains("my-overlay-network") && error.to_string().contains("1450"), "{error}");
    assert!(desired(&view(None), &UnderlayDevice { mtu: 100, ..underlay }).is_err());
    assert!(desired(&view(None), &UnderlayDevice { mtu: 65_536, ..underlay }).is_ok());
}

#[test]
fn callers_thread_keeps_its_netns() {
    in_netns(|| async {
        let container = Container::new();
        let netns = Netns::open(&container.path()).expect("a namespace");
        let here = std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
        let there = netns.within(|| std::fs::read_link("/proc/thread-self/ns/net")).expect("entered");
        assert_ne!(there.expect("a namespace"), here);
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace"), here);
        assert!(Netns::open(Path::new("/no/such/namespace")).is_err());
        assert!(netns.within(|| panic!("as intended")).is_err());
    });
}

#[test]
fn clsact_qdisc_is_removed_only_when_empty() {
    in_netns(|| async {
        let (host, _other) = start();
        let u1 = host.link_by_name("u1").await.expect("links").expect("u1").index;
        host.delete_idle_clsact(u1).await.expect("nothing to do");
        run("tc qdisc add dev u1 clsact");
        run_words(&["tc", "filter", "add", "dev", "u1", "egress", "bpf", "da", "bytecode", "1,6 0 0 4294967295"]);
        host.delete_idle_clsact(u1).await.expect("nothing to do");
        assert!(run("tc qdisc show dev u1").contains("clsact"));
        run("tc filter delete dev u1 egress");
        host.delete_idle_clsact(u1).await.expect("removed");
        assert!(!run("tc qdisc show dev u1").contains("clsact"));
        host.delete_idle_clsact(4_000_000).await.expect("nothing to do");
    });
}

#[test]
fn clsact_filters_are_looked_up_in_their_own_netns() {
    in_netns(|| async {
        let container = Container::new();
        container.run("tc qdisc add dev lo clsact");
        container.run("tc filter add dev lo ingress protocol ip u32 match u32 0 0 flowid 1:1");
        let inside = Host::open_in(&Netns::open(&container.path()).expect("a namespace")).expect("netlink");
        inside.delete_idle_clsact(1).await.expect("nothing to do");
        assert!(container.run("tc qdisc show dev lo").contains("clsact"));
        container.run("tc filter delete dev lo ingress");
        inside.delete_idle_clsact(1).await.expect("removed");
        assert!(!container.run("tc qdisc show dev lo").contains("clsact"));
    });
}

#[test]
fn failed_list_is_an_error_and_missing_interface_has_no_addresses() {
    in_netns(|| async {
        let (host, _other) = start();
        let u1 = host.link_by_name("u1").await.expect("links").expect("u1").index;
        assert_eq!(host.addresses(Some(u1), None).await.expect("addresses").len(), 1);
        assert_eq!(host.addresses(Some(4_000_000), None).await.expect("no interface"), []);
        // An unknown netns id: the kernel reports the error at the end of the dump.
        assert!(matches!(host.addresses(None, Some(77)).await, Err(KernelError::Netlink { .. })));
    });
}

#[test]
fn checksum_offload_of_veth_is_detected() {
    in_netns(|| async {
        let (_host, _other) = start();
        assert!(tx_checksum("u1").expect("a feature"));
        run("ethtool -K u1 tx off");
        assert!(!tx_checksum("u1").expect("a feature"));
        assert!(tx_checksum("no-such-device").is_err());
    });
}
