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
fn iptables_rule_called_by_bridge_refuses_network() {
    for command in ["iptables-nft", "iptables-legacy", "ip6tables-legacy"] {
        let make: &[&[&str]] = &[&[command, "-A", "FORWARD", "-j", "ACCEPT"]];
        refused_while(in_sandbox, make, &[command, "-F", "FORWARD"], "bridge-nf-call-iptables");
    }
    let make: &[&[&str]] = &[&["iptables-legacy", "-P", "FORWARD", "DROP"]];
    refused_while(in_sandbox, make, &["iptables-legacy", "-P", "FORWARD", "ACCEPT"], "bridge-nf-call-iptables");
    let make: &[&[&str]] = &[&["iptables-legacy", "-A", "FORWARD", "-j", "ACCEPT"]];
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
            let policy = "ip xfrm policy add src 192.168.1.9 dst 192.168.1.10 dir out mark 0xd0c4e3 tmpl proto esp";
            node.host.run(&policy.split(' ').collect::<Vec<_>>());
            node.host.run(&mark(command, VNI + 1, module));
            watched.always("the other network is accelerated", || watched.refusal().is_none());
            node.host.run(&mark(command, VNI, module));
            watched.until_refused("has a rule for VNI 4097");
            node.host.run(&[command, "-t", "mangle", "-F"]);
            watched.until_accelerated();
        }
    }
}

#[test]
fn mark_rule_without_vni_refuses_every_network() {
    for command in ["iptables-nft", "iptables-legacy"] {
        let make: &[&[&str]] =
            &[&[command, "-t", "mangle", "-A", "OUTPUT", "-p", "udp", "-j", "MARK", "--set-mark", "5"]];
        refused_while(on_host, make, &[command, "-t", "mangle", "-F"], "marks packets");
    }
}
