//! Tests of the static control plane.

use std::net::Ipv4Addr;

use overlay_common::{MacAddr, VtepAddr};

use super::{load, parse};
use crate::model::{Attachment, Parts, Rx};

mod discover;
mod properties;
mod rules;
mod syntax;
mod watch;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cluster.example.toml");

/// Lines 1 to 7: one host and one network.
const NETWORK: &str = r#"[[hosts]]
name = "node01"
address = "192.168.1.9"
[[networks]]
name = "red"
vni = 1
subnet = "10.0.1.0/24"
"#;

/// Lines 8 to 12: one endpoint.
const ENDPOINT: &str = r#"[[endpoints]]
network = "red"
name = "a"
ip = "10.0.1.2"
host = "node01"
"#;

/// Checks the complete message for an invalid `text`.
fn assert_refused(text: &str, expected: &[&str]) {
    let message = parse(text, "cluster.toml").expect_err(text).to_string();
    let lines: Vec<_> = message.lines().collect();
    let expected: Vec<_> = expected.iter().map(|line| format!("cluster.toml:{line}")).collect();
    assert_eq!(lines, expected, "{text}");
}

#[test]
fn documented_example_parses() {
    let cluster = load(EXAMPLE).unwrap();
    let hosts: Vec<_> = cluster.hosts.iter().map(|host| (host.name.as_str(), host.address)).collect();
    assert_eq!(hosts, [("node01", VtepAddr::from([192, 168, 1, 9])), ("node02", VtepAddr::from([192, 168, 1, 10]))]);

    let network = &cluster.networks[0];
    assert_eq!((network.name.as_str(), network.vni.get(), network.port), ("my-overlay-network", 4097, 4789));
    assert_eq!(network.gateway, Ipv4Addr::new(10, 0, 1, 1));
    assert_eq!((network.mtu, network.strict, network.overlap), (None, false, false));

    let [one, two] = cluster.endpoints.as_slice() else { panic!("two endpoints") };
    assert_eq!((one.name.as_str(), one.ip, one.host), ("gindemo1", Ipv4Addr::new(10, 0, 1, 2), hosts[0].1));
    assert_eq!(one.mac, MacAddr([0x02, 0x42, 0x0a, 0, 1, 2]));
    assert_eq!(one.attachment, Attachment::Netns("/run/netns/gindemo1".into()));
    assert_eq!((two.name.as_str(), two.ip, two.host), ("gindemo2", Ipv4Addr::new(10, 0, 1, 6), hosts[1].1));
}

#[test]
fn example_comments_show_real_keys_and_defaults() {
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let defaults = ["rx = \"tc\" ", "fdb_size", "mtu", "port = 4789", "strict", "overlap", "mac"];
    let mut shown = text.clone();
    for key in defaults {
        assert!(shown.contains(&format!("# {key}")), "{key}");
        shown = shown.replacen(&format!("# {key}"), key, 1);
    }
    let [mut shown, plain] = [&shown, &text].map(|text| Parts::from(parse(text, "cluster.toml").unwrap()));
    assert_eq!((shown.fdb_size.take(), shown.networks[0].mtu.take()), (Some(131_072), Some(1450)));
    assert_eq!(shown, plain);
}

#[test]
fn host_overrides_receive_hook_of_file() {
    let text = "rx = \"xdp\"\n[[hosts]]\nname = \"a\"\naddress = \"192.168.1.1\"\n\
                [[hosts]]\nname = \"b\"\naddress = \"192.168.1.2\"\nrx = \"tc\"\n";
    let cluster = parse(text, "cluster.toml").unwrap();
    assert_eq!([cluster.hosts[0].rx, cluster.hosts[1].rx], [Rx::Xdp, Rx::Tc]);
}

#[test]
fn endpoint_host_is_name_or_address() {
    let by_name = parse(&format!("{NETWORK}{ENDPOINT}"), "x").unwrap();
    let by_address =
        parse(&format!("{NETWORK}{ENDPOINT}").replace("host = \"node01\"", "host = \"192.168.1.9\""), "x").unwrap();
    assert_eq!(by_name, by_address);
    assert_eq!(by_name.endpoints[0].attachment, Attachment::Unspecified);
}

#[test]
fn netns_is_name_or_path() {
    for (netns, path) in [("demo", "/run/netns/demo"), ("/var/run/docker/netns/1-abc", "/var/run/docker/netns/1-abc")] {
        let cluster = parse(&format!("{NETWORK}{ENDPOINT}netns = {netns:?}\n"), "x").unwrap();
        assert_eq!(cluster.endpoints[0].attachment, Attachment::Netns(path.into()));
    }
}

#[test]
fn networks_with_overlap_share_addresses_and_macs() {
    let text = format!(
        "{NETWORK}overlap = true\n{ENDPOINT}[[networks]]\nname = \"blue\"\nvni = 2\nsubnet = \"10.0.1.0/24\"\n\
         overlap = true\n{}",
        ENDPOINT.replace("red", "blue")
    );
    assert_eq!(parse(&text, "x").unwrap().endpoints.len(), 2);
}
