//! Kernel features on the packet path refuse a network for as long as they exist.

use overlay_tests::lab::NetNs;

use crate::node::{Node, VNI};

/// The network is refused after `make`, and accelerated again after `undo`.
#[track_caller]
fn refused_while(netns: impl Fn(&Node, &NetNs) -> NetNs, make: &[&[&str]], undo: &[&str], part: &str) {
    let (node, sandbox) = Node::with_sandbox();
    let netns = netns(&node, &sandbox.netns);
    let watched = node.watch();
    assert_eq!(watched.refusal(), None);
    for command in make {
        netns.run(command);
    }
    watched.until_refused(part);
    netns.run(undo);
    watched.until_accelerated();
}

fn in_sandbox(_: &Node, sandbox: &NetNs) -> NetNs {
    sandbox.clone()
}

fn on_host(node: &Node, _: &NetNs) -> NetNs {
    node.host.clone()
}

#[test]
fn nftables_rule_on_bridge_refuses_network() {
    let chain = "add chain bridge t f { type filter hook forward priority 0; }";
    let make: &[&[&str]] = &[&["nft", "add table bridge t"], &["nft", chain], &["nft", "add rule bridge t f counter"]];
    refused_while(in_sandbox, make, &["nft", "flush chain bridge t f"], "nft table bridge t has rules");
}

#[test]
fn nftables_drop_policy_refuses_network() {
    let chain = "add chain bridge t f { type filter hook forward priority 0; policy drop; }";
    let make: &[&[&str]] = &[&["nft", "add table bridge t"], &["nft", chain]];
    refused_while(in_sandbox, make, &["nft", "delete table bridge t"], "nft table bridge t has rules");
}

#[test]
fn empty_nftables_chain_does_not_refuse_network() {
    let (node, sandbox) = Node::with_sandbox();
    let watched = node.watch();
    sandbox.netns.run(&["nft", "add table bridge t"]);
    sandbox.netns.run(&["nft", "add chain bridge t f { type filter hook forward priority 0; }"]);
    watched.always("accelerated", || watched.refusal().is_none());
}

#[test]
fn iptables_rule_that_drops_frames_refuses_network() {
    for command in ["iptables-nft", "iptables-legacy", "ip6tables-legacy"] {
        let make: &[&[&str]] = &[&[command, "-A", "FORWARD", "-p", "tcp", "-j", "DROP"]];
        refused_while(in_sandbox, make, &[command, "-F", "FORWARD"], "bridge-nf-call-iptables");
    }
    let make: &[&[&str]] = &[&["iptables-legacy", "-P", "FORWARD", "DROP"]];
    refused_while(in_sandbox, make, &["iptables-legacy", "-P", "FORWARD", "ACCEPT"], "bridge-nf-call-iptables");
    let make: &[&[&str]] = &[&["iptables-legacy", "-A", "FORWARD", "-j", "DROP"]];
    let undo = ["sysctl", "-q", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0"];
    refused_while(in_sandbox, make, &undo, "bridge-nf-call-iptables");
}

#[test]
fn qdisc_on_vxlan_device_refuses_network() {
    let make: &[&[&str]] = &[&["tc", "qdisc", "add", "dev", "vxlan0", "root", "handle", "1:", "pfifo"]];
    refused_while(in_sandbox, make, &["tc", "qdisc", "del", "dev", "vxlan0", "root"], "pfifo queueing discipline");
}

#[test]
fn isolated_vxlan_port_refuses_network() {
    let set = |on| ["bridge", "link", "set", "dev", "vxlan0", "isolated", on];
    refused_while(in_sandbox, &[&set("on")], &set("off"), "isolated");
}

#[test]
fn xfrm_policy_without_docker_mark_refuses_network() {
    let add = "ip xfrm policy add src 192.168.1.9 dst 192.168.1.10 dir out tmpl proto esp";
    let add: Vec<_> = add.split(' ').collect();
    refused_while(on_host, &[&add], &["ip", "xfrm", "policy", "flush"], "XFRM");
}

#[test]
fn default_xfrm_block_policy_refuses_network() {
    let set_default = |action| ["ip", "xfrm", "policy", "setdefault", "out", action];
    refused_while(on_host, &[&set_default("block")], &set_default("accept"), "XFRM");
}

/// `0>>22&0x3C@12&0xFFFFFF00=VNI<<8`, as Docker marks an encrypted network's packets.
fn mark(command: &str, vni: u32, module: &str) -> Vec<String> {
    let mut words: Vec<_> = [command, "-t", "mangle", "-A", "OUTPUT", "-p", "udp", "--dport", "4789", "-m", module]
        .into_iter()
        .map(String::from)
        .collect();
    let value = vni << 8;
    match module {
        "u32" => words.extend(["--u32".into(), format!("0>>22&0x3C@12&0xFFFFFF00={value}")]),
        _ => words.extend([
            "--bytecode".into(),
            format!("6,177 0 0 0,64 0 0 12,84 0 0 4294967040,21 1 0 {value},6 0 0 0,6 0 0 4294967295"),
        ]),
    }
    words.extend(["-j".into(), "MARK".into(), "--set-mark".into(), "13681891".into()]);
    words
}

#[test]
fn docker_encryption_mark_refuses_only_its_own_network() {
    for command in ["iptables-nft", "iptables-legacy"] {
        for module in ["u32", "bpf"] {
            let (node, _sandbox) = Node::with_sandbox();
            let watched = node.watch();
            add_policy(&node.host, "0xd0c4e3");
            node.host.run(&mark(command, VNI + 1, module));
            watched.always("the other network is accelerated", || watched.refusal().is_none());
            node.host.run(&mark(command, VNI, module));
            watched.until_refused("has a rule for VNI 4097");
            node.host.run(&[command, "-t", "mangle", "-F"]);
            watched.until_accelerated();
        }
    }
}

/// Adds an XFRM policy for packets to node02 with a mark.
fn add_policy(host: &NetNs, mark: &str) {
    let policy = format!("ip xfrm policy add src 192.168.1.9 dst 192.168.1.10 dir out mark {mark} tmpl proto esp");
    host.run(&policy.split(' ').collect::<Vec<_>>());
}

#[test]
fn mark_rule_refuses_while_a_policy_selects_the_mark() {
    for command in ["iptables-nft", "iptables-legacy"] {
        let (node, _sandbox) = Node::with_sandbox();
        let watched = node.watch();
        let mark =
            |mark: &str| node.host.run(&[command, "-t", "mangle", "-A", "OUTPUT", "-j", "MARK", "--set-xmark", mark]);
        // As kube-proxy and kube-router do.
        mark("0x4000/0x4000");
        node.host.run(&[
            command,
            "-t",
            "mangle",
            "-A",
            "OUTPUT",
            "-j",
            "CONNMARK",
            "--restore-mark",
            "--mask",
            "0x8000",
        ]);
        add_policy(&node.host, "0xd0c4e3");
        add_policy(&node.host, "0x10000");
        watched.always("no policy selects these marks", || watched.refusal().is_none());
        for selected in ["0x4000", "0xc000"] {
            add_policy(&node.host, selected);
            watched.until_refused("marks packets");
            node.host.run(&["ip", "xfrm", "policy", "deleteall", "src", "192.168.1.9", "dst", "192.168.1.10"]);
            watched.until_accelerated();
        }
        add_policy(&node.host, "0x10000");
        watched.always("no rule sets this mark", || watched.refusal().is_none());
        mark("0x10000/0x10000");
        watched.until_refused("marks packets");
        node.host.run(&[command, "-t", "mangle", "-F"]);
        watched.until_accelerated();
    }
}

#[test]
fn nftables_of_docker_refuse_only_encrypted_vnis() {
    // Docker 29 with `--firewall-backend=nftables` (libnetwork, `drivers/overlay/encryption_nft_linux.go`).
    const RULES: &str = "add table ip docker-overlay
add set ip docker-overlay encrypted-vnis { typeof @th,96,24; }
add chain ip docker-overlay enc-out { type route hook output priority mangle; policy accept; }
add chain ip docker-overlay enc-in { type filter hook input priority raw; policy accept; }
add rule ip docker-overlay enc-out udp dport 4789 meta skuid 0-0xfffffffe counter goto { meta mark 0xd0c4e3 counter meta mark set 0; }
add rule ip docker-overlay enc-out udp dport 4789 @th,96,24 @encrypted-vnis counter meta mark set 0xd0c4e3
add rule ip docker-overlay enc-in meta secpath missing udp dport 4789 @th,96,24 @encrypted-vnis counter drop
";
    let (node, _sandbox) = Node::with_sandbox();
    let watched = node.watch();
    for line in RULES.lines() {
        node.host.run(&["nft", line]);
    }
    let change = |verb: &str, vni: u32| {
        node.host.run(&["nft", &format!("{verb} element ip docker-overlay encrypted-vnis {{ {vni:#08x} }}")]);
    };
    add_policy(&node.host, "0xd0c4e3");
    change("add", VNI + 1);
    watched.always("the other network is encrypted", || watched.refusal().is_none());
    for _ in 0..3 {
        change("add", VNI);
        watched.until_refused("nft table ip docker-overlay has a rule for VNI 4097");
        change("delete", VNI);
        watched.until_accelerated();
    }
    // Packets may add elements to a dynamic set, which the daemon does not follow.
    node.host.run(&["nft", "add set ip docker-overlay grown { typeof @th,96,24; flags dynamic; }"]);
    let rule = "add rule ip docker-overlay enc-out @th,96,24 @grown meta mark set 0xd0c4e3";
    node.host.run(&["nft", rule]);
    watched.until_refused("nft table ip docker-overlay marks packets");
}
