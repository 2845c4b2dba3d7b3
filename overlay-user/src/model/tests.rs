//! Clusters and views, and rules that a configuration file cannot violate, because parsing refuses it first. The other
//! rules and their messages are tested through the file: `sources/file/tests/rules.rs`.

use std::net::Ipv4Addr;

use overlay_common::{MacAddr, Vni, VtepAddr};

use super::{Attachment, Cluster, Endpoint, Findings, Host, NetworkSpec, Parts, Rx, discovery::Settings};

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

fn parts(endpoints: Vec<Endpoint>) -> Parts {
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
    Parts { hosts, networks: vec![network], endpoints, ..Parts::default() }
}

fn cluster(endpoint: Endpoint) -> Result<Cluster, String> {
    Cluster::new(parts(vec![endpoint])).map_err(|violations| <Findings>::from(violations).to_string())
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

/// As in the kernel (`dev_valid_name`).
#[test]
fn port_is_a_name_that_the_kernel_accepts() {
    let found = |name: &str| cluster(Endpoint { attachment: Attachment::Port(name.into()), ..endpoint() });
    for name in ["tap0", "...", "é", "abcdefghijklmno"] {
        assert!(found(name).is_ok(), "{name:?}");
    }
    for name in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\nb", "a\u{b}b", "abcdefghijklmnop"] {
        let message = format!(
            "endpoint \"my-overlay-network/gindemo1\": port {name:?} is not a valid interface name; \
             use 1 to 15 characters without spaces, '/' and ':'"
        );
        assert_eq!(found(name), Err(message));
    }
}

#[test]
fn each_violation_is_printed_on_its_own_line() {
    let endpoint = Endpoint { name: String::new(), mac: MacAddr::default(), ..endpoint() };
    let found = Cluster::new(parts(vec![endpoint])).unwrap_err();
    let message = found.to_string();
    assert_eq!(message.lines().count(), 2, "{message}");
    assert_eq!(<Findings>::from(found).to_string(), message);
}

#[test]
fn cluster_with_nothing_but_settings_is_discovery_only() {
    let all = Parts { discover: Some(Settings::default()), ..parts(vec![endpoint()]) };
    let settings = || Parts { discover: all.discover.clone(), ..Parts::default() };
    let others = [
        Parts::default(),
        Parts { hosts: all.hosts.clone(), ..settings() },
        Parts { networks: all.networks.clone(), ..settings() },
        Parts { endpoints: all.endpoints.clone(), ..settings() },
    ];
    assert!(Cluster(settings()).is_discovery_only());
    for parts in others {
        assert!(!Cluster(parts.clone()).is_discovery_only(), "{parts:?}");
    }
}

#[test]
fn cluster_changes_only_in_its_settings_or_endpoints() {
    let all = Parts { fdb_size: Some(7), discover: Some(Settings::default()), ..parts(vec![endpoint()]) };
    let cluster = || Cluster::new(all.clone()).unwrap();
    assert_eq!(Parts::from(cluster().without_endpoints()), Parts { endpoints: Vec::new(), ..all.clone() });
    assert_eq!(Parts::from(cluster().with_discovery(None)), Parts { discover: None, ..all.clone() });
}

#[test]
fn network_without_local_endpoints_stays_in_its_view() {
    let ip = Ipv4Addr::new(10, 0, 1, 3);
    let other = Endpoint { name: "gindemo2".into(), ip, mac: MacAddr::from_ipv4(ip.octets()), ..endpoint() };
    let mut view = Cluster::new(parts(vec![endpoint(), other])).unwrap().view(HOST).unwrap();
    view.retain_local(|network, endpoint| network.name == "my-overlay-network" && endpoint.name == "gindemo1");
    assert_eq!(view.networks()[&endpoint().vni].local(), [endpoint()]);
    view.retain_local(|_, _| false);
    assert_eq!(view.networks()[&endpoint().vni].local(), []);
}
