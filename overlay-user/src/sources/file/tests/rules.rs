//! The model's rules, with complete messages.

use super::{ENDPOINT, NETWORK, assert_refused, parse};

#[test]
fn invalid_hosts_are_refused() {
    let cases = [
        (
            "name = \"node01\"\naddress = \"192.168.1.10\"",
            "5: host \"node01\": its name is already used by another host (line 2); \
             give each host its own name",
        ),
        (
            "name = \"node02\"\naddress = \"192.168.1.9\"",
            "6: host \"node02\": address 192.168.1.9 is already used by host \"node01\" (line 3); \
             give each host its own address",
        ),
        (
            "name = \"node02\"\naddress = \"224.0.0.1\"",
            "6: host \"node02\": address 224.0.0.1 is a multicast address; \
             use the unicast address of the host's underlay device",
        ),
        (
            "name = \"node02\"\naddress = \"0.0.0.0\"",
            "6: host \"node02\": address 0.0.0.0 is unspecified; use the unicast address of the host's underlay device",
        ),
        (
            "name = \"node02\"\naddress = \"127.0.0.1\"",
            "6: host \"node02\": address 127.0.0.1 is a loopback address; \
             use the unicast address of the host's underlay device",
        ),
        (
            "name = \"node02\"\naddress = \"255.255.255.255\"",
            "6: host \"node02\": address 255.255.255.255 is the broadcast address; \
             use the unicast address of the host's underlay device",
        ),
        (
            "name = \"-a\"\naddress = \"192.168.1.10\"",
            "5: host \"-a\": name \"-a\" is not allowed; \
             use 1 to 63 letters, digits, '_', '-' and '.', beginning with a letter or a digit",
        ),
        (
            "name = \"192.168.1.9\"\naddress = \"192.168.1.10\"",
            "5: host \"192.168.1.9\": name \"192.168.1.9\" is an address other than the host's own; \
             choose a name that is not an address",
        ),
    ];
    for (host, message) in cases {
        let text = format!("[[hosts]]\nname = \"node01\"\naddress = \"192.168.1.9\"\n[[hosts]]\n{host}\n");
        assert_refused(&text, &[message]);
    }
}

#[test]
fn invalid_names_are_refused_in_every_object() {
    let rule = "is not allowed; use 1 to 63 letters, digits, '_', '-' and '.', beginning with a letter or a digit";
    let long = "a".repeat(64);
    for name in ["", "a b", "a/b", ".a", "é", long.as_str()] {
        let text = format!("{NETWORK}{ENDPOINT}").replace("\"red\"", &format!("{name:?}"));
        assert_refused(&text, &[&format!("5: network {name:?}: name {name:?} {rule}")]);
        let text = format!("{NETWORK}{ENDPOINT}").replace("\"a\"", &format!("{name:?}"));
        assert_refused(&text, &[&format!("10: endpoint {:?}: name {name:?} {rule}", format!("red/{name}"))]);
    }
}

#[test]
fn invalid_networks_are_refused() {
    let outside = "is outside the subnet 10.0.2.0/24; use an address inside it";
    let between = "use an address between the first and the last";
    let mtu = "is out of range; use 576 to 65485 bytes, or omit it for the underlay's MTU less 50";
    let port = "is not a UDP port; use 1 to 65535, or omit it for 4789";
    let cases = [
        (
            "vni = 1\nsubnet = \"10.0.2.0/24\"",
            "10: network \"blue\": vni 1 is already used by network \"red\" (line 6); give each network its own VNI"
                .into(),
        ),
        (
            "vni = 2\nsubnet = \"10.0.1.128/25\"",
            "11: network \"blue\": subnet 10.0.1.128/25 overlaps 10.0.1.0/24 of network \"red\" (line 7); \
             use another subnet, or set overlap = true in both networks"
                .into(),
        ),
        (
            "vni = 2\noverlap = true\nsubnet = \"10.0.0.0/16\"",
            "12: network \"blue\": subnet 10.0.0.0/16 overlaps 10.0.1.0/24 of network \"red\" (line 7); \
             use another subnet, or set overlap = true in both networks"
                .into(),
        ),
        (
            "vni = 2\nsubnet = \"10.0.2.0/31\"",
            "11: network \"blue\": subnet 10.0.2.0/31 has a prefix length of 31; use /8 to /30".into(),
        ),
        (
            "vni = 2\nsubnet = \"32.0.0.0/7\"",
            "11: network \"blue\": subnet 32.0.0.0/7 has a prefix length of 7; use /8 to /30".into(),
        ),
        (
            "vni = 2\nsubnet = \"10.0.2.1/24\"",
            "11: network \"blue\": subnet 10.0.2.1/24 has host bits set; write 10.0.2.0/24".into(),
        ),
        (
            "vni = 2\nsubnet = \"239.0.0.0/24\"",
            "11: network \"blue\": subnet 239.0.0.0/24 is not unicast; use a private range like 10.0.1.0/24".into(),
        ),
        (
            "vni = 2\nsubnet = \"10.0.2.0/24\"\ngateway = \"10.0.1.1\"",
            format!("12: network \"blue\": gateway 10.0.1.1 {outside}"),
        ),
        (
            "vni = 2\nsubnet = \"10.0.2.0/24\"\ngateway = \"10.0.2.0\"",
            format!("12: network \"blue\": gateway 10.0.2.0 is the network address of 10.0.2.0/24; {between}"),
        ),
        (
            "vni = 2\nsubnet = \"10.0.2.0/24\"\ngateway = \"10.0.2.255\"",
            format!("12: network \"blue\": gateway 10.0.2.255 is the broadcast address of 10.0.2.0/24; {between}"),
        ),
        ("vni = 2\nsubnet = \"10.0.2.0/24\"\nmtu = 575", format!("12: network \"blue\": mtu 575 {mtu}")),
        ("vni = 2\nsubnet = \"10.0.2.0/24\"\nmtu = 65486", format!("12: network \"blue\": mtu 65486 {mtu}")),
        ("vni = 2\nsubnet = \"10.0.2.0/24\"\nmtu = -1", format!("12: network \"blue\": mtu -1 {mtu}")),
        ("vni = 2\nsubnet = \"10.0.2.0/24\"\nport = 0", format!("12: network \"blue\": port 0 {port}")),
        ("vni = 2\nsubnet = \"10.0.2.0/24\"\nport = 65536", format!("12: network \"blue\": port 65536 {port}")),
    ];
    for (network, message) in cases {
        assert_refused(&format!("{NETWORK}[[networks]]\nname = \"blue\"\n{network}\n"), &[&message]);
    }
    assert_refused(
        &format!("{NETWORK}[[networks]]\nname = \"red\"\nvni = 2\nsubnet = \"10.0.2.0/24\"\n"),
        &["9: network \"red\": its name is already used by another network (line 5); give each network its own name"],
    );
}

#[test]
fn vni_has_24_bits_and_is_not_zero() {
    let rule = "is not a VNI: a VNI has 24 bits and is not 0, so use 1 to 16777215";
    for vni in ["0", "16777216", "4294967296"] {
        let text = NETWORK.replace("vni = 1", &format!("vni = {vni}"));
        assert_refused(&text, &[&format!("6: network \"red\": {vni} {rule}")]);
    }
    let text = NETWORK.replace("vni = 1", "vni = -1");
    assert_refused(&text, &["6: network \"red\": vni -1 is not a VNI; write a number from 1 to 16777215"]);
}

#[test]
fn fifth_udp_port_is_refused() {
    let mut text = NETWORK.to_owned();
    for vni in 2..=6u16 {
        // The last network's port is used before.
        let port = if vni == 6 { 4790 } else { 4788 + vni };
        text += &format!("[[networks]]\nname = \"n{vni}\"\nvni = {vni}\nsubnet = \"10.0.{vni}.0/24\"\nport = {port}\n");
    }
    assert_refused(
        &text,
        &[
            "27: network \"n5\": port 4793 exceeds the 4 UDP ports that a cluster supports (in use: 4789, 4790, 4791, 4792); \
           use one of these ports",
        ],
    );
}

#[test]
fn invalid_endpoints_are_refused() {
    let of_network = "is already used by endpoint \"red/a\"";
    let unicast = "use a unicast address like 02:42:0a:00:01:02";
    let cases = [
        (
            "name = \"a\"\nip = \"10.0.1.3\"",
            "16: endpoint \"red/a\": its name is already used by another endpoint (line 10); \
             give each endpoint of a network its own name"
                .to_owned(),
        ),
        (
            "name = \"b\"\nip = \"10.0.1.2\"",
            format!(
                "17: endpoint \"red/b\": ip 10.0.1.2 {of_network} (line 11); \
                 give each endpoint of a network its own IP address"
            ),
        ),
        (
            "name = \"b\"\nip = \"10.0.1.3\"\nmac = \"02:42:0a:00:01:02\"",
            format!(
                "18: endpoint \"red/b\": mac 02:42:0a:00:01:02 {of_network} (line 8); \
                 give each endpoint of a network its own MAC address"
            ),
        ),
        (
            "name = \"b\"\nip = \"10.0.2.3\"",
            "17: endpoint \"red/b\": ip 10.0.2.3 is outside the subnet 10.0.1.0/24; use an address inside it".into(),
        ),
        (
            "name = \"b\"\nip = \"10.0.1.0\"",
            "17: endpoint \"red/b\": ip 10.0.1.0 is the network address of 10.0.1.0/24; \
             use an address between the first and the last"
                .into(),
        ),
        (
            "name = \"b\"\nip = \"10.0.1.255\"",
            "17: endpoint \"red/b\": ip 10.0.1.255 is the broadcast address of 10.0.1.0/24; \
             use an address between the first and the last"
                .into(),
        ),
        (
            "name = \"b\"\nip = \"10.0.1.1\"",
            "17: endpoint \"red/b\": ip 10.0.1.1 is the gateway of network \"red\"; use another address of the subnet"
                .into(),
        ),
        (
            "name = \"b\"\nip = \"10.0.1.3\"\nmac = \"00:00:00:00:00:00\"",
            format!("18: endpoint \"red/b\": mac 00:00:00:00:00:00 is zero; {unicast}"),
        ),
        (
            "name = \"b\"\nip = \"10.0.1.3\"\nmac = \"01:42:0a:00:01:03\"",
            format!("18: endpoint \"red/b\": mac 01:42:0a:00:01:03 is a group address; {unicast}"),
        ),
        (
            "name = \"b\"\nip = \"10.0.1.3\"\nmac = \"02:42:0a:00:01:01\"",
            "18: endpoint \"red/b\": mac 02:42:0a:00:01:01 belongs to the gateway of network \"red\"; use another address"
                .into(),
        ),
        (
            "name = \"b\"\nip = \"10.0.1.3\"\nport = \"eth0:1\"",
            "18: endpoint \"red/b\": port \"eth0:1\" is not a valid interface name; \
             use 1 to 15 characters without spaces, '/' and ':'"
                .into(),
        ),
        (
            "name = \"b\"\nip = \"10.0.1.3\"\nport = \"tap0\"",
            "18: endpoint \"red/b\": port \"tap0\" is already used by endpoint \"red/a\" (line 13); \
             give each endpoint of a host its own interface"
                .into(),
        ),
    ];
    for (endpoint, message) in cases {
        let text = format!(
            "{NETWORK}{ENDPOINT}port = \"tap0\"\n[[endpoints]]\nnetwork = \"red\"\n{endpoint}\nhost = \"node01\"\n"
        );
        assert_refused(&text, &[&message]);
    }
}

#[test]
fn fdb_size_covers_all_endpoints() {
    for size in ["0", "16777217", "-1", "4294967296"] {
        let message = format!("1: file: fdb_size {size} is out of range; use 1 to 16777216 entries");
        assert_refused(&format!("fdb_size = {size}\n{NETWORK}"), &[&message]);
    }
    let second = ENDPOINT.replace("\"a\"", "\"b\"").replace("1.2", "1.3");
    assert_refused(
        &format!("\nfdb_size = 1\n{NETWORK}{ENDPOINT}{second}"),
        &["2: file: fdb_size 1 is less than the 2 endpoints; raise it to at least 2"],
    );
    assert!(parse(&format!("fdb_size = 2\n{NETWORK}{ENDPOINT}{second}"), "cluster.toml").is_ok());
}
