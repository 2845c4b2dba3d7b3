//! The host's firewall on outer packets: what the programs send and receive equals what the kernel's VXLAN device sends and
//! receives behind the same rules.
//!
//! Each direction has two frames: an IPv4 packet, which the fast path may take, and a frame of another EtherType, which
//! always takes the kernel path. The rules are those of node01, for packets to and from node02.

use std::time::{Duration, Instant};

use overlay_common::Reason;

use super::routes::{Expected, Fast, GINDEMO1, GINDEMO2, Kernel, Kind, OTHER, World, for_both, received, received_of};

/// Rules in the daemon's namespace, and the expected paths.
struct Case<'a> {
    rules: &'a [&'a str],
    send: Expected,
    /// The NIC and the TTL do not count.
    receive: Expected,
}

const FAST: Expected = Fast(0, 64);
const PLAIN: Case<'_> = Case { rules: &[], send: FAST, receive: FAST };

/// Removes all rules that a case can have made.
const RESET: &str = "nft flush ruleset
    sysctl -q -w net.ipv4.conf.all.rp_filter=0
    sysctl -q -w net.ipv4.conf.enp0s3.rp_filter=0";

/// Both kinds of networks. Their bridges pass no frames to the rules.
fn for_hosts(test: impl Fn(&World)) {
    for_both(|world| {
        for version in ["iptables", "ip6tables"] {
            // Without the module, there is no such sysctl.
            let _ = world.host().sysctl(&format!("net.bridge.bridge-nf-call-{version}"), "0");
        }
        test(world);
    });
}

/// Received frames of the kernel and of the programs: 5 of each were sent.
fn receive(world: &World) -> [usize; 2] {
    let other = [&GINDEMO1[..], &GINDEMO2, &OTHER.to_be_bytes(), &[0; 46]].concat();
    [received_of(world, &other), received(world)]
}

impl Case<'_> {
    /// Whether both frames are received as expected.
    fn is_received(&self, world: &World) -> Result<bool, String> {
        let before = world.counted(Reason::Decap);
        let [kernel, programs] = receive(world);
        let fast = world.counted(Reason::Decap) - before;
        let is_path = match self.receive {
            Fast(..) => fast == 5,
            Kernel(words) => fast == 0 && world.problems().contains(words),
        };
        if is_path && kernel == programs {
            return Ok(true);
        }
        Err(format!("kernel {kernel}, programs {programs}, {fast} on the fast path; {}", world.problems()))
    }

    /// Adds the rules, and checks both directions.
    #[track_caller]
    fn apply(&self, world: &World) {
        let text = self.rules.join("\n");
        world.host().try_script(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        self.converge(world, &text);
    }

    #[track_caller]
    fn converge(&self, world: &World, text: &str) {
        world.until(text, self.send);
        self.until_received(world, text);
    }

    /// [`Self::apply`]; then without the rules.
    #[track_caller]
    fn check(&self, world: &World) {
        self.apply(world);
        world.host().try_script(RESET).unwrap();
        PLAIN.converge(world, &format!("after {}", self.rules.join("; ")));
    }

    #[track_caller]
    fn until_received(&self, world: &World, text: &str) {
        let (start, mut right, mut last) = (Instant::now(), 0, Ok(false));
        while right < 3 && start.elapsed() < Duration::from_secs(20) && (right == 0 || last.is_ok()) {
            last = self.is_received(world);
            right += usize::from(last == Ok(true));
        }
        let expected = self.receive;
        assert!(right == 3, "{:?}, {text}: expected {expected:?}, {right} times; {last:?}", world.kind);
    }
}

/// A chain of nftables at a hook, with rules and, after them, a policy: the daemon sees each change.
macro_rules! chain {
    ($hook:literal, $policy:literal $(, $rule:literal)*) => {
        &[
            "nft add table inet fw",
            concat!("nft add chain inet fw c { type filter hook ", $hook, " priority 0; }"),
            $(concat!("nft add rule inet fw c ", $rule),)*
            concat!("nft add chain inet fw c { policy ", $policy, "; }"),
        ]
    };
}

#[test]
fn rules_that_drop_received_packets_are_not_bypassed() {
    for_hosts(|world| {
        let cases: [(&[&str], &str); 10] = [
            (
                &["iptables-nft -I INPUT -p udp --dport 4789 -s 192.168.1.10 -j DROP"],
                "VTEP 192.168.1.10: rule 1 in chain INPUT of iptables table filter drops packets from it",
            ),
            (
                &["iptables-nft -t raw -A PREROUTING -i enp0s3 -m comment --comment x -s 192.168.1.0/24 -j DROP"],
                "rule 1 in chain PREROUTING of iptables table raw drops packets from it",
            ),
            (
                &[
                    "iptables-nft -t mangle -N X",
                    "iptables-nft -t mangle -A X -p 17 -j DROP",
                    "iptables-nft -t mangle -A INPUT -g X",
                ],
                "rule 1 in chain X of iptables table mangle drops packets from it",
            ),
            (
                &[
                    "nft add table netdev fw",
                    "nft add chain netdev fw in { type filter hook ingress device enp0s3 priority 0; }",
                    "nft add rule netdev fw in ip saddr 192.168.1.10 udp dport 4789 counter drop",
                ],
                "rule 1 in chain in of nft table netdev fw drops packets from it",
            ),
            (
                &[
                    "nft add table inet fw",
                    "nft add set inet fw blocked { type ipv4_addr . inet_service; }",
                    "nft add element inet fw blocked { 192.168.1.7 . 4789, 192.168.1.10 . 4789 }",
                    "nft add chain inet fw c { type filter hook input priority -10; }",
                    "nft add rule inet fw c ip saddr . udp dport @blocked drop",
                ],
                "rule 1 in chain c of nft table inet fw drops packets from it",
            ),
            (
                chain!(
                    "input",
                    "drop",
                    "ct state vmap { established : accept, related : accept, invalid : drop }",
                    "udp dport { 53, 4790-4800 } accept",
                    "udp dport 4789 ip saddr { 192.168.1.20-192.168.1.30 } accept"
                ),
                "the policy of chain c of nft table inet fw drops packets from it",
            ),
            (
                chain!("input", "accept", "udp dport 4789 limit rate over 1000/second drop"),
                "rule 1 in chain c of nft table inet fw can drop packets from it",
            ),
            (
                chain!("prerouting", "accept", "udp dport 4789 meta length > 1400 drop"),
                "rule 1 in chain c of nft table inet fw can drop packets from it",
            ),
            (
                chain!("input", "drop", "ct state established accept", "udp dport 4789 ct state != new accept"),
                "the policy of chain c of nft table inet fw drops packets from it",
            ),
            (
                chain!("prerouting", "accept", "fib saddr . iif oif missing drop"),
                "rule 1 in chain c of nft table inet fw can drop packets from it",
            ),
        ];
        for (rules, words) in cases {
            Case { rules, send: FAST, receive: Kernel(words) }.check(world);
        }
    });
}

#[test]
fn rules_that_drop_or_change_sent_packets_are_not_bypassed() {
    for_hosts(|world| {
        let cases: [(&[&str], &str); 8] = [
            (
                &["iptables-nft -A OUTPUT -p udp -m multiport --dports 53,4780:4790 -d 192.168.1.10 -j DROP"],
                "VTEP 192.168.1.10: rule 1 in chain OUTPUT of iptables table filter drops packets to it",
            ),
            (
                chain!("output", "accept", "oifname enp0s3 ip daddr 192.168.1.10 reject"),
                "rule 1 in chain c of nft table inet fw drops packets to it",
            ),
            (
                &[
                    "nft add table ip fw",
                    "nft add chain ip fw c { type nat hook postrouting priority 100; }",
                    "nft add rule ip fw c udp dport 4789 snat to 192.168.1.99",
                ],
                "rule 1 in chain c of nft table ip fw (nat) can change packets to it",
            ),
            (
                &[
                    "ip addr add 192.168.1.77/24 dev enp0s3",
                    "nft add table ip fw",
                    "nft add chain ip fw c { type nat hook postrouting priority 100; }",
                    "nft add rule ip fw c oif enp0s3 masquerade",
                ],
                "rule 1 in chain c of nft table ip fw masquerades packets to it",
            ),
            (
                &["iptables-nft -t mangle -A POSTROUTING -p udp --dport 4789 -j DSCP --set-dscp 10"],
                "rule 1 in chain POSTROUTING of iptables table mangle (DSCP) changes packets to it",
            ),
            (
                chain!("postrouting", "accept", "udp dport 4789 ip ttl set 9"),
                "rule 1 in chain c of nft table inet fw (payload) can change packets to it",
            ),
            (
                &[
                    "nft add table netdev fw",
                    "nft add chain netdev fw out { type filter hook egress device enp0s3 priority 0; }",
                    "nft add rule netdev fw out ip daddr 192.168.1.10 udp dport 4789 drop",
                ],
                "rule 1 in chain out of nft table netdev fw drops packets to it",
            ),
            (
                chain!("output", "drop", "oif != enp0s3 accept"),
                "the policy of chain c of nft table inet fw drops packets to it",
            ),
        ];
        for (rules, words) in cases {
            Case { rules, send: Kernel(words), receive: FAST }.check(world);
            let _ = world.host().try_script("ip addr del 192.168.1.77/24 dev enp0s3");
        }
    });
}

/// In a managed network: in a discovered one, a mark can mean encryption.
#[test]
fn mark_that_selects_a_route_is_not_bypassed() {
    let world = World::new(Kind::Managed);
    let mark = |mark| format!("iptables-nft -t mangle -A OUTPUT -p udp -j MARK --set-mark {mark}");
    let words = "netfilter rules mark packets to it, and the routing rule 99 selects by marks";
    for (rules, send) in [
        ([&mark(7), "ip rule add fwmark 7 lookup 100 pref 99"], Kernel(words)),
        ([&mark(8), "ip rule add fwmark 7 lookup 100 pref 99"], FAST),
        ([&mark(7), "ip rule add not fwmark 7/0xf lookup 100 pref 99"], Kernel(words)),
    ] {
        Case { rules: &rules, send, receive: FAST }.apply(&world);
        world.host().try_script(&format!("ip rule del pref 99\n{RESET}")).unwrap();
        PLAIN.converge(&world, "without the rules");
    }
}

/// Rules of usual firewalls, which accept VXLAN.
#[test]
fn accepted_packets_stay_on_the_fast_path() {
    let cases: [&[&str]; 9] = [
        chain!(
            "input",
            "drop",
            "ct state vmap { established : accept, related : accept, invalid : drop }",
            "iif lo accept",
            "tcp dport { 22, 2377, 7946 } accept",
            "udp dport { 4789, 7946 } counter accept"
        ),
        chain!(
            "input",
            "drop",
            "ct state established,related accept",
            "ct state invalid drop",
            "ip saddr 192.168.1.0/24 udp dport 4789 ct state new accept",
            "log prefix x counter reject"
        ),
        chain!("output", "drop", "oifname vmap { lo : accept, enp0s3 : accept }"),
        chain!(
            "prerouting",
            "accept",
            "udp sport 9 limit rate 5/second meta mark set 0x7",
            "ct state untracked accept"
        ),
        // With one address, its source stays the same.
        &[
            "nft add table ip nat",
            "nft add chain ip nat post { type nat hook postrouting priority 100; }",
            "nft add rule ip nat post oifname enp0s3 masquerade",
            "nft add rule ip nat post ip saddr 172.17.0.0/16 oifname != docker0 masquerade",
        ],
        // Docker and kube-proxy.
        &[
            "iptables-nft -t nat -N DOCKER",
            "iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            "iptables-nft -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
            "iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
            "iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
            "iptables-nft -t nat -N KUBE-POSTROUTING",
            "iptables-nft -t nat -A POSTROUTING -j KUBE-POSTROUTING",
            "iptables-nft -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "iptables-nft -t nat -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
            "iptables-nft -t nat -A KUBE-POSTROUTING -j MASQUERADE --random-fully",
            "iptables-nft -N KUBE-FIREWALL",
            "iptables-nft -A INPUT -j KUBE-FIREWALL",
            "iptables-nft -A OUTPUT -j KUBE-FIREWALL",
            "iptables-nft -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
            "iptables-nft -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
        ],
        // ufw.
        &[
            "iptables-nft -N ufw-before-input",
            "iptables-nft -N ufw-user-input",
            "iptables-nft -N ufw-not-local",
            "iptables-nft -A INPUT -j ufw-before-input",
            "iptables-nft -A ufw-before-input -i lo -j ACCEPT",
            "iptables-nft -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables-nft -A ufw-before-input -m conntrack --ctstate INVALID -j DROP",
            "iptables-nft -A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT",
            "iptables-nft -A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT",
            "iptables-nft -A ufw-before-input -j ufw-not-local",
            "iptables-nft -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN",
            "iptables-nft -A ufw-not-local -m limit --limit 3/min -j LOG",
            "iptables-nft -A ufw-not-local -j DROP",
            "iptables-nft -A ufw-before-input -j ufw-user-input",
            "iptables-nft -A ufw-user-input -p udp -m udp --dport 4789 -j ACCEPT",
            "iptables-nft -A INPUT -j LOG",
            "iptables-nft -P INPUT DROP",
        ],
        // The encryption of another network of Docker Swarm.
        &[
            "iptables-nft -A INPUT -m policy --dir in --pol none -p udp --dport 4789 -m u32 \
             --u32 0>>22&0x3C@12&0xFFFFFF00=0x9900 -j DROP",
            "iptables-nft -t mangle -A OUTPUT -p udp --dport 4789 -m u32 --u32 0>>22&0x3C@12&0xFFFFFF00=0x9900 \
             -j MARK --set-mark 13681891",
            "sysctl -q -w net.ipv4.conf.all.rp_filter=1",
        ],
        &[
            "iptables-nft -t raw -A PREROUTING -p udp --dport 4789 -j NOTRACK",
            "iptables-nft -A INPUT -m conntrack --ctstate INVALID -j DROP",
            "iptables-nft -A INPUT -p udp -m udp ! --dport 4789 -j DROP",
            "iptables-nft -A INPUT -m iprange --src-range 192.168.1.1-192.168.1.9 -j DROP",
            "iptables-nft -A INPUT -m pkttype --pkt-type broadcast -j DROP",
        ],
    ];
    for_hosts(|world| {
        for rules in cases {
            Case { rules, send: FAST, receive: FAST }.check(world);
        }
    });
}

/// The tables of iptables-legacy have no events; the daemon reads them at least every 5 s.
#[test]
fn rules_of_iptables_legacy_are_not_bypassed() {
    for_hosts(|world| {
        for (rules, send, receive) in [
            (
                &["iptables-legacy -I INPUT -p udp --dport 4789 -s 192.168.1.10 -j DROP"][..],
                FAST,
                Kernel("rule 1 in chain INPUT of iptables-legacy table filter drops packets from it"),
            ),
            (
                &[
                    "iptables-legacy -t raw -N X",
                    "iptables-legacy -t raw -A X -p tcp -j ACCEPT",
                    "iptables-legacy -t raw -A X -p udp -m multiport ! --dports 53,123 -j DROP",
                    "iptables-legacy -t raw -A PREROUTING -i enp+ -j X",
                ],
                FAST,
                Kernel("rule 2 in chain X of iptables-legacy table raw drops packets from it"),
            ),
            (
                &["iptables-legacy -A OUTPUT -o enp0s3 -m addrtype --src-type LOCAL -m length --length 100 -j REJECT"],
                Kernel("rule 1 in chain OUTPUT of iptables-legacy table filter can drop packets to it"),
                FAST,
            ),
            (
                &["iptables-legacy -t mangle -A POSTROUTING -d 192.168.1.10 -j TOS --set-tos 0x10"],
                Kernel("rule 1 in chain POSTROUTING of iptables-legacy table mangle (TOS) changes packets to it"),
                FAST,
            ),
            (
                &[
                    "iptables-legacy -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                    "iptables-legacy -A INPUT -m conntrack --ctstate INVALID -j DROP",
                    "iptables-legacy -A INPUT -m mark --mark 0x8000/0x8000 -j DROP",
                    "iptables-legacy -t mangle -A OUTPUT -m u32 --u32 0>>22&0x3C@12&0xFFFFFF00=0x9900 -j DROP",
                    "iptables-legacy -A INPUT -m udp -p udp --dport 4789 -j ACCEPT",
                    "iptables-legacy -P INPUT DROP",
                ],
                FAST,
                FAST,
            ),
        ] {
            Case { rules, send, receive }.apply(world);
            let tables = ["filter", "raw", "mangle"];
            let reset = tables.map(|table| format!("iptables-legacy -t {table} -F\niptables-legacy -t {table} -X\n"));
            world.host().try_script("iptables-legacy -P INPUT ACCEPT").unwrap();
            world.host().try_script(&reset.concat()).unwrap();
            PLAIN.converge(world, "after the rules of iptables-legacy");
        }
    });
}

/// The fastest change takes less than the interval between two periodic reads, 5 s: by an event.
#[test]
fn changes_are_followed_by_event() {
    for_hosts(|world| {
        world.host().try_script(&chain!("input", "accept").join("\n")).unwrap();
        let fastest = |drop: &str, accept: &str| {
            let changes = [(drop, Kernel(" drops packets from it")), (accept, FAST)].repeat(2);
            let times = changes.into_iter().map(|(command, receive)| {
                let start = Instant::now();
                world.host().try_script(command).unwrap();
                Case { receive, ..PLAIN }.until_received(world, command);
                start.elapsed()
            });
            times.min().unwrap()
        };
        let rule = fastest("nft add rule inet fw c udp dport 4789 drop", "nft flush chain inet fw c");
        world.host().try_script("ip route add 192.168.1.10 via 192.168.2.1").unwrap();
        let filter = |mode| format!("sysctl -q -w net.ipv4.conf.all.rp_filter={mode}");
        let reverse = fastest(&filter(1), &filter(0));
        assert!(rule.max(reverse) < Duration::from_millis(2500), "{rule:?}, {reverse:?}");
    });
}

/// A peer of a strict network whose packets take the kernel path is still a known one, and its sources are checked.
#[test]
fn strict_network_checks_peers_whose_packets_take_the_kernel_path() {
    let world = World::strict();
    let rules = chain!("input", "accept", "udp dport 4789 meta length > 1400 drop");
    let words = "rule 1 in chain c of nft table inet fw can drop packets from it";
    let case = Case { rules, send: FAST, receive: Kernel(words) };
    case.apply(&world);
    assert_eq!(receive(&world), [5, 5]);
    let spoofed = [&GINDEMO1[..], &[2, 0, 0, 0, 0, 99], &OTHER.to_be_bytes(), &[0; 46]].concat();
    let before = world.counted(Reason::StrictVtep);
    assert_eq!(received_of(&world, &spoofed), 0);
    assert_eq!(world.counted(Reason::StrictVtep) - before, 5);
}

#[test]
fn reverse_path_filter_is_not_bypassed() {
    for_hosts(|world| {
        let strict =
            Kernel("the reverse-path filter of enp0s3 drops packets from it: packets to it take another device");
        let ports = Kernel("the reverse-path filter of enp0s3 drops packets from it: routing rules select by protocol");
        let (route, back) = ("ip route add 192.168.1.10 via 192.168.2.1", "ip route del 192.168.1.10");
        let (rule, no_rule) = ("ip rule add ipproto udp dport 9 lookup main pref 99", "ip rule del pref 99");
        for (change, undo, mode, send, receive) in [
            (route, back, 1, Fast(1, 64), strict),
            (route, back, 2, Fast(1, 64), FAST),
            (rule, no_rule, 1, FAST, ports),
            ("ip route add 192.168.1.11 via 192.168.2.1", "ip route del 192.168.1.11", 1, FAST, FAST),
        ] {
            let filter = format!("sysctl -q -w net.ipv4.conf.enp0s3.rp_filter={mode}");
            Case { rules: &[change, &filter], send, receive }.apply(world);
            world.host().try_script(undo).unwrap();
            PLAIN.converge(world, &format!("after {change}"));
            world.host().try_script(RESET).unwrap();
        }
    });
}

/// The kernel delivers what its input routes deliver, whatever the addresses of its devices.
#[test]
fn input_routes_are_not_bypassed() {
    for_hosts(|world| {
        let undelivered = Kernel("the routes and routing rules of this host do not deliver packets from it");
        let local = "dev enp0s3 table local proto kernel scope host src 192.168.1.9";
        let (gone, back) =
            (format!("ip route del local 192.168.1.9 {local}"), format!("ip route add local 192.168.1.9 {local}"));
        // As Cilium does, the rule for local addresses is not the first.
        let later = "ip rule add pref 200 lookup local
            ip rule del pref 0";
        let first = "ip rule add pref 0 lookup local
            ip rule del pref 200";
        let ahead =
            |rule: &str| (format!("{later}\nip rule add pref 100 {rule}"), format!("{first}\nip rule del pref 100"));
        let source_port = Kernel("the routing rule 100 selects by the source ports 5 to 9");
        for ((change, undo), receive) in [
            ((gone, back), undelivered),
            (ahead("iif enp0s3 from 192.168.1.10 blackhole"), undelivered),
            (ahead("ipproto udp dport 4789 prohibit"), undelivered),
            (ahead("ipproto udp sport 5-9 prohibit"), source_port),
            (ahead("from 192.168.1.11 blackhole"), FAST),
            // Its packets then come from an address of this host.
            (
                ("ip route add local 192.168.1.10 dev lo".into(), "ip route del local 192.168.1.10 dev lo".into()),
                undelivered,
            ),
        ] {
            world.host().try_script(&change).unwrap();
            Case { rules: &[], send: FAST, receive }.until_received(world, &change);
            world.host().try_script(&undo).unwrap();
            PLAIN.converge(world, &format!("after {change}"));
        }
    });
}
