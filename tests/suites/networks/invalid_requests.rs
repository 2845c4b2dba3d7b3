//! Invalid requests are refused with exit code 2 and change nothing.

use crate::setup::{Single, ok};

#[test]
fn invalid_networks_are_refused() {
    let single = Single::start();
    single.json(&["network", "create", "blue", "--subnet", "10.0.1.0/24"]);
    let invalid: [(&[&str], &[&str]); 13] = [
        (&["blue"], &["blue", "already"]),
        (&["-/-"], &[]),
        (&["a b"], &["network \"a b\"", "name"]),
        (&["red", "--subnet", "10.0.1.128/25"], &["overlaps 10.0.1.0/24", "another subnet"]),
        (&["red", "--subnet", "10.0.2.1/24"], &["write 10.0.2.0/24"]),
        (&["red", "--subnet", "10.0.2.0/31"], &["prefix length of 31"]),
        (&["red", "--subnet", "224.0.0.0/24"], &["not unicast"]),
        (&["red", "--subnet", "10.0.2.0/24", "--gateway", "10.0.3.1"], &["outside the subnet"]),
        (&["red", "--subnet", "10.0.2.0/24", "--gateway", "10.0.2.255"], &["10.0.2.255"]),
        (&["red", "--vni", "0"], &["0 is not a VNI"]),
        (&["red", "--vni", "16777216"], &["not a VNI"]),
        (&["red", "--vni", "4096"], &["4096"]),
        (&["red", "--mtu", "100"], &["mtu 100 is out of range"]),
    ];
    for (words, parts) in invalid {
        single.assert_refused(&[&["network", "create"], words].concat(), parts);
    }
    single.assert_refused(&["network", "rm", "red"], &["network \"red\"", "does not exist"]);
    single.assert_refused(&["network", "inspect", "red"], &["network \"red\"", "does not exist"]);
}

#[test]
fn invalid_endpoints_are_refused() {
    let single = Single::start();
    single.json(&["network", "create", "blue", "--subnet", "10.0.1.0/24"]);
    ok(&single.add("blue", "one", "gindemo1", &[]));
    let netns = single.container("spare").path().to_str().unwrap().to_owned();
    let host_netns = single.lab.host(1).path().to_str().unwrap().to_owned();
    let invalid: [(&[&str], &[&str]); 13] = [
        (&["red", "two", "--netns", &netns], &["network \"red\"", "does not exist"]),
        (&["blue", "one", "--netns", &netns], &["blue/one"]),
        (&["blue", "a/b", "--netns", &netns], &["a/b", "name"]),
        (&["blue", "two", "--netns", &netns, "--ip", "10.0.2.2"], &["outside the subnet 10.0.1.0/24"]),
        (&["blue", "two", "--netns", &netns, "--ip", "10.0.1.1"], &["gateway"]),
        (&["blue", "two", "--netns", &netns, "--ip", "10.0.1.255"], &["10.0.1.255"]),
        (&["blue", "two", "--netns", &netns, "--ip", "10.0.1.2"], &["10.0.1.2", "blue/one"]),
        (&["blue", "two", "--netns", &netns, "--mac", "02:42:0a:00:01:02"], &["blue/one"]),
        (&["blue", "two", "--netns", &netns, "--mac", "01:00:5e:00:00:01"], &["group address"]),
        (&["blue", "two", "--netns", &netns, "--mac", "forty"], &["\"forty\" is not a MAC address"]),
        (
            &["blue", "two", "--netns", "/run/netns/no-such"],
            &["network namespace /run/netns/no-such does not exist", "create it"],
        ),
        (&["blue", "two", "--netns", "/etc/passwd"], &["/etc/passwd is not a network namespace"]),
        (&["blue", "two", "--netns", &host_netns], &["blue/two"]),
    ];
    for (words, parts) in invalid {
        single.assert_refused(&[&["endpoint", "add"], words].concat(), parts);
    }
    single.assert_refused(&["endpoint", "rm", "blue", "two"], &["blue/two", "does not exist"]);
    single.assert_refused(&["endpoint", "ls", "red"], &["network \"red\"", "does not exist"]);
}
