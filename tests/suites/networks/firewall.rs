//! Rules of the host that do not plainly accept frames of a managed network: `network create`, `endpoint add`, `check` and
//! `status` print the rule to add, and nothing once it is added.

use overlay_tests::{
    check::until,
    lab::{Host, firewall},
};
use serde_json::Value;

use crate::setup::{Single, ok};

/// Rules of one host: a command per line, where `TOOL` is the command, like `iptables-nft`.
struct Case {
    rules: &'static str,
    /// The commands of the remedies; `TOOL` as in `rules`.
    commands: &'static [&'static str],
}

const fn case(rules: &'static str, commands: &'static [&'static str]) -> Case {
    Case { rules, commands }
}

const FORWARD: &str = "TOOL -I FORWARD -i ovlbr4097 -o ovlbr4097 -j ACCEPT";
const DOCKER_USER: &str = "TOOL -I DOCKER-USER -i ovlbr4097 -o ovlbr4097 -j ACCEPT";

/// For each variant of iptables. The network is 10.0.9.0/24 with VNI 4097.
const IPTABLES: [Case; 24] = [
    case("TOOL -P FORWARD ACCEPT", &[]),
    case("TOOL -P FORWARD DROP", &[FORWARD]),
    case("TOOL -A FORWARD -j REJECT", &[FORWARD]),
    // As Docker does it.
    case(
        "TOOL -P FORWARD DROP
         TOOL -N DOCKER-USER
         TOOL -N DOCKER-FORWARD
         TOOL -N DOCKER-BRIDGE
         TOOL -A FORWARD -j DOCKER-USER
         TOOL -A FORWARD -j DOCKER-FORWARD
         TOOL -A DOCKER-USER -j RETURN
         TOOL -A DOCKER-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         TOOL -A DOCKER-FORWARD -o docker0 -j DOCKER-BRIDGE
         TOOL -A DOCKER-FORWARD -i docker0 -j ACCEPT
         TOOL -A DOCKER-BRIDGE ! -i docker0 -o docker0 -j DROP",
        &[DOCKER_USER],
    ),
    case(
        "TOOL -N DOCKER-USER
         TOOL -A FORWARD -m conntrack --ctstate INVALID -j DROP
         TOOL -A FORWARD -j DOCKER-USER",
        &[FORWARD],
    ),
    case(
        "TOOL -N DOCKER-ISOLATION
         TOOL -A FORWARD -i docker0 ! -o docker0 -j DOCKER-ISOLATION
         TOOL -A DOCKER-ISOLATION -o docker0 -j DROP
         TOOL -A FORWARD -i eth0 -j DROP",
        &[],
    ),
    case("TOOL -A FORWARD ! -i docker0 -j DROP", &[FORWARD]),
    case("TOOL -A FORWARD ! -i ovlbr+ -j DROP", &[]),
    case("TOOL -P FORWARD DROP\nTOOL -A FORWARD -i ovlbr+ -o ovlbr+ -j ACCEPT", &[]),
    case("TOOL -P FORWARD DROP\nTOOL -A FORWARD -i ovlbr409 -j ACCEPT", &[FORWARD]),
    case("TOOL -P FORWARD DROP\nTOOL -A FORWARD -m physdev --physdev-is-bridged -j ACCEPT", &[]),
    case("TOOL -P FORWARD DROP\nTOOL -A FORWARD -m physdev ! --physdev-is-bridged -j ACCEPT", &[FORWARD]),
    case("TOOL -P FORWARD DROP\nTOOL -A FORWARD -m comment --comment all -j ACCEPT", &[]),
    case("TOOL -A FORWARD -p tcp --dport 25 -j DROP", &[FORWARD]),
    case("TOOL -A FORWARD -m conntrack --ctstate INVALID -j DROP", &[FORWARD]),
    case("TOOL -A FORWARD -j NFQUEUE --queue-num 1", &[FORWARD]),
    case("TOOL -A FORWARD -j LOG\nTOOL -A FORWARD -m mark --mark 1 -j ACCEPT", &[]),
    case("TOOL -N drop\nTOOL -A drop -j DROP\nTOOL -N empty\nTOOL -A FORWARD -g empty\nTOOL -A FORWARD -j drop", &[]),
    case(
        "TOOL -N drop\nTOOL -A drop -j DROP\nTOOL -N empty\nTOOL -A FORWARD -j empty\nTOOL -A FORWARD -g drop",
        &[FORWARD],
    ),
    case("TOOL -N empty\nTOOL -A empty -j RETURN\nTOOL -A empty -j DROP\nTOOL -A FORWARD -j empty", &[]),
    case("TOOL -t raw -A PREROUTING -i ovlbr4097 -j DROP", &["TOOL -t raw -I PREROUTING -i ovlbr4097 -j ACCEPT"]),
    case("TOOL -t mangle -A POSTROUTING -o ovlbr+ -j DROP", &["TOOL -t mangle -I POSTROUTING -o ovlbr4097 -j ACCEPT"]),
    case("TOOL -A INPUT -j DROP\nTOOL -A OUTPUT -j DROP", &[]),
    case(
        "TOOL -t mangle -A FORWARD -p udp -j MARK --set-mark 7",
        &["TOOL -t mangle -I FORWARD -i ovlbr4097 -o ovlbr4097 -j ACCEPT"],
    ),
];

/// For IPv4 only. Containers can send packets with any address.
const ADDRESSES: [Case; 2] = [
    case("TOOL -P FORWARD DROP\nTOOL -A FORWARD -s 10.0.9.0/24 -d 10.0.9.0/24 -j ACCEPT", &[FORWARD]),
    case("TOOL -A FORWARD ! -s 10.0.9.0/24 -j DROP", &[FORWARD]),
];

const NFT_FORWARD: &str = "nft insert rule inet fw forward iifname ovlbr4097 oifname ovlbr4097 accept";

/// For nft, in the table `inet fw` with the chain `forward`.
const NFT: [Case; 9] = [
    case("policy drop;", &[NFT_FORWARD]),
    case("policy drop; iifname \"ovlbr*\" oifname \"ovlbr*\" accept", &[]),
    case("policy drop; iifname \"ovlbr4097\" accept", &[]),
    case("iifname != \"docker0\" counter drop", &[NFT_FORWARD]),
    case("iifname \"eth0\" reject", &[]),
    case("ct state vmap { established : accept, related : accept, invalid : drop }", &[NFT_FORWARD]),
    case("ct state invalid drop", &[NFT_FORWARD]),
    case("iifname vmap { docker0 : drop }", &[]),
    case("policy drop; meta nfproto ipv6 accept; meta protocol ip accept", &[]),
];

/// The warnings of `network create`; the network is removed again.
fn warnings(single: &Single) -> Vec<Value> {
    let created = single.json(&["network", "create", "blue", "--vni", "4097", "--subnet", "10.0.9.0/24"]);
    single.json(&["network", "rm", "blue"]);
    created["warnings"].as_array().cloned().unwrap_or_default()
}

/// The commands of the warnings.
fn commands(single: &Single) -> Vec<String> {
    warnings(single).iter().flat_map(firewall::commands).collect()
}

/// With the rules, the warnings have exactly the commands. After these, there are no warnings. Otherwise the difference.
fn difference(single: &Single, rules: &str, expected: &[String]) -> Option<String> {
    let host = single.lab.host(1);
    host.try_script(rules).unwrap();
    let found = commands(single);
    for command in &found {
        firewall::run(host, command);
    }
    let left = commands(single);
    (found != expected || !left.is_empty())
        .then(|| format!("{rules}\nfound {found:?}\nexpected {expected:?}\nleft {left:?}"))
}

/// Removes all rules of a tool.
fn flush(host: &Host, tool: &str) {
    if !tool.ends_with("-legacy") {
        host.run(&["nft", "flush", "ruleset"]);
        return;
    }
    for table in ["filter", "raw", "mangle"] {
        host.try_script(&format!("{tool} -t {table} -F\n{tool} -t {table} -X")).unwrap();
    }
    host.run(&[tool, "-P", "FORWARD", "ACCEPT"]);
}

#[test]
fn rules_that_drop_packets_are_found_until_the_printed_rule_is_added() {
    let single = Single::start();
    let host = single.lab.host(1);
    // The command of the rules, and that of the remedies.
    let tools = [
        ("iptables-nft", "iptables"),
        ("iptables-legacy", "iptables-legacy"),
        ("ip6tables-nft", "ip6tables"),
        ("ip6tables-legacy", "ip6tables-legacy"),
    ];
    let mut different = Vec::new();
    for (tool, printed) in tools {
        let addresses = if tool.starts_with("iptables") { &ADDRESSES[..] } else { &[] };
        for case in IPTABLES.iter().chain(addresses) {
            let expected: Vec<_> =
                case.commands.iter().map(|command| command.replace("TOOL ", &format!("{printed} "))).collect();
            different.extend(difference(&single, &case.rules.replace("TOOL ", &format!("{tool} ")), &expected));
            flush(host, tool);
        }
    }
    for case in NFT {
        let rules: String = case.rules.split("; ").map(|rule| format!("{};", rule.trim_end_matches(';'))).collect();
        let rules =
            format!("add table inet fw {{ chain forward {{ type filter hook forward priority 0; {rules} }}; }}");
        let expected: Vec<_> = case.commands.iter().map(|command| (*command).to_owned()).collect();
        let file = std::env::temp_dir().join(format!("overlay-nft-{}", std::process::id()));
        std::fs::write(&file, rules).unwrap();
        let found = difference(&single, &format!("nft -f {}", file.display()), &expected);
        different.extend(found.map(|text| format!("{}\n{text}", case.rules)));
        std::fs::remove_file(file).unwrap();
        flush(host, "nft");
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}

#[test]
fn rules_are_ignored_without_bridge_netfilter() {
    let single = Single::start();
    let host = single.lab.host(1);
    host.try_script("iptables-nft -P FORWARD DROP\nip6tables-nft -P FORWARD DROP").unwrap();
    let of = |command| FORWARD.replace("TOOL ", command);
    assert_eq!(commands(&single), [of("iptables "), of("ip6tables ")]);
    host.sysctl("net.bridge.bridge-nf-call-iptables", "0").unwrap();
    assert_eq!(commands(&single), [of("ip6tables ")]);
    host.sysctl("net.bridge.bridge-nf-call-ip6tables", "0").unwrap();
    assert_eq!(commands(&single), [""; 0]);

    single.json(&["network", "create", "blue", "--vni", "4097"]);
    ok(&single.add("blue", "one", "gindemo1", &[]));
    assert_eq!(problems(&single), [""; 0]);
    // An option of the bridge has the same effect.
    host.run(&["ip", "link", "set", "ovlbr4097", "type", "bridge", "nf_call_iptables", "1"]);
    until("the rules are found", || !problems(&single).is_empty());
}

/// The commands in `overlay status`.
fn problems(single: &Single) -> Vec<String> {
    let report = single.json(&["status"]);
    let networks = report["networks"].as_array().unwrap().iter();
    networks.map(|network| &network["finding"]).filter(|found| !found.is_null()).flat_map(firewall::commands).collect()
}

#[test]
fn commands_and_status_print_the_rule_to_add() {
    let single = Single::start();
    let host = single.lab.host(1);
    host.try_script("iptables-nft -P FORWARD DROP").unwrap();
    let warning = "warning: network \"blue\": chain FORWARD of iptables table filter drops its packets; run \
                   `iptables -I FORWARD -i ovlbr4097 -o ovlbr4097 -j ACCEPT`, or set \
                   net.bridge.bridge-nf-call-iptables and -ip6tables to 0\n";
    let create = single.daemon.output(&["network", "create", "blue", "--vni", "4097"]).unwrap();
    assert!(create.status.success(), "{create:?}");
    assert_eq!(String::from_utf8_lossy(&create.stderr), warning);
    assert!(create.stdout.starts_with(b"blue: VNI 4097"), "{create:?}");

    let path = single.container("gindemo1").path().to_str().unwrap().to_owned();
    let add = single.daemon.output(&["endpoint", "add", "blue", "one", "--netns", &path]).unwrap();
    assert!(add.status.success(), "{add:?}");
    assert_eq!(String::from_utf8_lossy(&add.stderr), warning);
    let added = ok(&single.add("blue", "two", "spare", &[]));
    assert_eq!(firewall::commands(&added["warnings"][0]), [FORWARD.replace("TOOL ", "iptables ")]);

    until("status has the rule", || problems(&single) == [FORWARD.replace("TOOL ", "iptables ")]);
    let status = single.daemon.output(&["status"]).unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("chain FORWARD of iptables table filter drops its packets"), "{status}");
    let network = &single.json(&["status"])["networks"][0];
    assert_eq!((&network["state"], &network["cause"]), (&"kernel".into(), &"filtered".into()));

    firewall::run(host, &problems(&single)[0]);
    until("the network is accelerated", || single.json(&["status"])["networks"][0]["state"] == "accelerated");
}
