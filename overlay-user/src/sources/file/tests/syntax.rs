//! Errors found before the model's rules apply, with complete messages.

use super::{ENDPOINT, NETWORK, assert_refused};
use crate::sources::file::{load, parse};

#[test]
fn invalid_toml_is_refused_with_its_line() {
    let cases = [
        (
            "[[hosts]]\nname = \"a\"\naddress = 192.168.1.9\n",
            "3: syntax: a string needs quotes; correct the line `address = 192.168.1.9`",
        ),
        ("[[hosts]]\nname = \"a\"\nname = \"b\"\n", "3: syntax: duplicate key; correct the line `name = \"b\"`"),
        ("[[hosts]]\nname = \"a\n\n", "2: syntax: invalid basic string, expected `\"`; correct the line `name = \"a`"),
        (
            "[[hosts]]\nname = \"a\"\n[[hosts\n",
            "3: syntax: unclosed array table, expected `]]`; correct the line `[[hosts`",
        ),
    ];
    for (text, message) in cases {
        assert_refused(text, &[message]);
    }
}

#[test]
fn unknown_keys_are_refused_and_known_keys_listed() {
    assert_refused(
        &format!("{NETWORK}\nprot = 4789\n"),
        &["9: network \"red\": key \"prot\" is unknown; \
           the known keys are name, vni, subnet, gateway, mtu, port, strict, overlap"],
    );
    assert_refused(
        &format!("{NETWORK}{ENDPOINT}namespace = \"a\"\n"),
        &["13: endpoint \"red/a\": key \"namespace\" is unknown; \
           the known keys are network, name, ip, mac, host, netns, port"],
    );
    assert_refused(
        "[[hosts]]\nname = \"a\"\naddress = \"192.168.1.1\"\nvtep = 1\n[[nets]]\n",
        &[
            "4: host \"a\": key \"vtep\" is unknown; the known keys are name, address, rx",
            "5: file: key \"nets\" is unknown; the known keys are rx, fdb_size, hosts, networks, endpoints, discover",
        ],
    );
}

#[test]
fn missing_keys_are_shown_by_example() {
    assert_refused(
        "[[hosts]]\n[[networks]]\n[[endpoints]]\n",
        &[
            "1: host number 1: name is missing; add a line like name = \"node01\"",
            "1: host number 1: address is missing; add a line like address = \"192.168.1.9\"",
            "2: network number 1: name is missing; add a line like name = \"my-overlay-network\"",
            "2: network number 1: vni is missing; add a line like vni = 4097",
            "2: network number 1: subnet is missing; add a line like subnet = \"10.0.1.0/24\"",
            "3: endpoint number 1: network is missing; add a line like network = \"my-overlay-network\"",
            "3: endpoint number 1: name is missing; add a line like name = \"gindemo1\"",
            "3: endpoint number 1: ip is missing; add a line like ip = \"10.0.1.2\"",
            "3: endpoint number 1: host is missing; add a line like host = \"node01\"",
        ],
    );
}

#[test]
fn values_of_wrong_type_are_refused() {
    let cases = [
        ("vni = 1", "vni = \"1\"", "6: network \"red\": vni is a string; write a number from 1 to 16777215"),
        (
            "subnet = \"10.0.1.0/24\"",
            "subnet = \"10.0.1.0\"",
            "7: network \"red\": subnet \"10.0.1.0\" is not an IPv4 subnet; write one like \"10.0.1.0/24\"",
        ),
        (
            "subnet = \"10.0.1.0/24\"",
            "subnet = \"fd00::/64\"",
            "7: network \"red\": subnet \"fd00::/64\" is not an IPv4 subnet; write one like \"10.0.1.0/24\"",
        ),
        (
            "address = \"192.168.1.9\"",
            "address = \"node01.example\"",
            "3: host \"node01\": address \"node01.example\" is not an IPv4 address; write one like \"10.0.1.2\"",
        ),
        (
            "name = \"red\"",
            "name = \"red\"\nstrict = \"yes\"",
            "6: network \"red\": strict is a string; write true or false, without quotes",
        ),
        (
            "name = \"red\"",
            "name = \"red\"\nport = \"4789\"",
            "6: network \"red\": port is a string; write a UDP port number, without quotes",
        ),
        (
            "ip = \"10.0.1.2\"",
            "ip = \"10.0.1.2\"\nmac = \"0242.0a00.0102\"",
            "12: endpoint \"red/a\": mac \"0242.0a00.0102\" is not a MAC address; \
             write six pairs of hexadecimal digits like \"02:42:0a:00:01:02\"",
        ),
        (
            "ip = \"10.0.1.2\"",
            "ip = \"10.0.1.2\"\nnetns = \"a/b\"",
            "12: endpoint \"red/a\": netns \"a/b\" is not a network namespace; \
             write a name in `ip netns` like \"gindemo1\", or an absolute path",
        ),
        (
            "address = \"192.168.1.9\"",
            "address = \"192.168.1.9\"\nrx = \"XDP\"",
            "4: host \"node01\": rx \"XDP\" is not a receive hook; write \"tc\" or \"xdp\"",
        ),
        (
            "name = \"red\"",
            "name = \"red\"\nmtu = 1450.0",
            "6: network \"red\": mtu is a float; write a number of bytes",
        ),
    ];
    for (old, new, message) in cases {
        assert_refused(&format!("{NETWORK}{ENDPOINT}").replacen(old, new, 1), &[message]);
    }
}

#[test]
fn endpoint_needs_existing_network_and_host() {
    assert_refused(
        &format!("{NETWORK}{ENDPOINT}").replace("network = \"red\"", "network = \"blue\""),
        &["9: endpoint \"blue/a\": there is no network \"blue\"; \
           add it as [[networks]], or correct the endpoint's network"],
    );
    assert_refused(
        &format!("{NETWORK}{ENDPOINT}").replace("host = \"node01\"", "host = \"192.168.1.10\""),
        &["12: endpoint \"red/a\": there is no host with name or address \"192.168.1.10\"; \
           add it as [[hosts]], or correct the endpoint's host"],
    );
}

#[test]
fn endpoint_has_netns_or_port_not_both() {
    assert_refused(
        &format!("{NETWORK}{ENDPOINT}netns = \"a\"\nport = \"tap0\"\n"),
        &["14: endpoint \"red/a\": netns and port are both given; \
           keep netns to create a veth, or port to use an existing interface"],
    );
}

#[test]
fn table_in_single_brackets_is_refused() {
    assert_refused(
        "[hosts]\nname = \"node01\"\naddress = \"192.168.1.9\"\n",
        &["1: file: hosts is not an array of tables; write [[hosts]], in two brackets, before each host"],
    );
}

#[test]
fn empty_file_is_refused() {
    let message =
        "1: file: there are no hosts; add a [[hosts]] table with name and address for each host, or [discover]";
    assert_refused("", &[message]);
    assert_refused("hosts = []\n", &[message]);
}

#[test]
fn one_error_neither_hides_nor_causes_others() {
    // The endpoint of an unreadable network is not an error. The host's error is reported too.
    assert_refused(
        &format!("{NETWORK}{ENDPOINT}").replace("vni = 1", "vni = 0").replace("192.168.1.9", "0.0.0.0"),
        &[
            "3: host \"node01\": address 0.0.0.0 is unspecified; use the unicast address of the host's underlay device",
            "6: network \"red\": 0 is not a VNI: a VNI has 24 bits and is not 0, so use 1 to 16777215",
        ],
    );
}

#[test]
fn long_error_list_is_truncated() {
    let text = NETWORK.to_owned() + &"[[hosts]]\nname = \"b\"\naddress = 1\n".repeat(60);
    let message = parse(&text, "cluster.toml").unwrap_err().to_string();
    assert_eq!(message.lines().count(), 51);
    assert_eq!(message.lines().last(), Some("cluster.toml: file: 10 more errors; fix these first"));
}

#[test]
fn unreadable_file_is_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    let name = path.display();
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!(
            "{name}: file: cannot be read (No such file or directory (os error 2)); \
             create it, or give the path of the configuration"
        )
    );
    std::fs::write(&path, b"# ok\n# caf\xe9\n").unwrap();
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!("{name}:2: file: the text is not UTF-8; save the file as UTF-8")
    );
}
