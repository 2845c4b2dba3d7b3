//! Rules that a configuration file cannot violate, because parsing refuses it first. The other rules and their messages
//! are tested through the file: `sources/file/tests/rules.rs`.

use std::net::Ipv4Addr;

use overlay_common::{MacAddr, Vni, VtepAddr};

use super::{Attachment, Cluster, Endpoint, Host, NetworkSpec, Parts, Rx};

const HOST: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 9));

fn endpoint() -> Endpoint {
    let ip = Ipv4Addr::new(10, 0, 1, 2);
    Endpoint {
        name: "gindemo1".into(),
        vni: Vni::new(4097).unwrap(),
        ip,
        mac: MacAddr::from_ipv4(ip.octets()),
        host: HOST,
        attachment: Attachment::Netns("/run/netns/gindemo1".into()),
    }
}

fn cluster(endpoint: Endpoint) -> Result<Cluster, String> {
    let hosts = vec![Host { name: "node01".into(), address: HOST, rx: Rx::Tc }];
    let network = NetworkSpec {
        name: "my-overlay-network".into(),
        vni: Vni::new(4097).unwrap(),
        subnet: "10.0.1.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 0, 1, 1),
        mtu: Some(1450),
        port: 4789,
        strict: false,
        overlap: false,
    };
    let parts = Parts { hosts, networks: vec![network], endpoints: vec![endpoint], ..Parts::default() };
    Cluster::new(parts).map_err(|violations| violations.to_string())
}

#[test]
fn example_cluster_is_valid() {
    assert!(cluster(endpoint()).is_ok());
    assert_eq!(Cluster::default().validate(), Ok(()));
}

#[test]
fn network_and_host_of_endpoint_must_exist() {
    assert_eq!(
        cluster(Endpoint { vni: Vni::MAX, ..endpoint() }).unwrap_err(),
        "endpoint \"gindemo1\": there is no network with VNI 16777215; add the network, or correct the endpoint"
    );
    assert_eq!(
        cluster(Endpoint { host: [192, 168, 1, 10].into(), ..endpoint() }).unwrap_err(),
        "endpoint \"my-overlay-network/gindemo1\": there is no host with address 192.168.1.10; \
         add the host, or correct the endpoint"
    );
}

#[test]
fn netns_path_must_be_absolute() {
    assert_eq!(
        cluster(Endpoint { attachment: Attachment::Netns("gindemo1".into()), ..endpoint() }).unwrap_err(),
        "endpoint \"my-overlay-network/gindemo1\": netns \"gindemo1\" is not an absolute path; \
         write a path like /run/netns/gindemo1"
    );
}

#[test]
fn each_violation_is_printed_on_its_own_line() {
    let message = cluster(Endpoint { name: String::new(), mac: MacAddr::default(), ..endpoint() }).unwrap_err();
    assert_eq!(message.lines().count(), 2, "{message}");
}
