//! Sysctls that the path of a packet reads.

use super::table::{Roles, Row, honoured, irrelevant};

const NONE: Roles = Roles::NONE;
const RULES: &str = "with 1 the rules of these hooks are read, and refuse the network";
const OUTER: &str = "see the bypassed hooks: the fast path receives the outer packet before the IP layer";
const MULTIPATH: &str = "unless 0, VTEPs behind routes with several next hops take the kernel path";
const BOTH: &str = "both paths pass it";

pub(super) const ROWS: &[Row] = &[
    honoured(
        0,
        "net.ipv4.ip_default_ttl",
        NONE,
        "the outer TTL of a device with ttl 0",
        "ip4_dst_hoplimit, net/route.h",
    ),
    honoured(
        0,
        "net.ipv4.ip_local_port_range",
        NONE,
        "the outer source ports of a device without a port range",
        "udp_flow_src_port, include/net/udp.h",
    ),
    irrelevant(
        0,
        "net.ipv4.ip_no_pmtu_disc",
        NONE,
        "DF follows from the device alone (IFLA_VXLAN_DF)",
        "vxlan_xmit_one, drivers/net/vxlan/vxlan_core.c",
    ),
    irrelevant(
        0,
        "net.ipv4.ip_forward",
        NONE,
        "bridged frames are not routed",
        "ip_route_input_slow, net/ipv4/route.c",
    ),
    honoured(0, "net.ipv4.fib_multipath_hash_policy", NONE, MULTIPATH, "fib_multipath_hash, net/ipv4/route.c"),
    honoured(0, "net.ipv4.fib_multipath_use_neigh", NONE, MULTIPATH, "fib_select_multipath"),
    honoured(
        0,
        "net.ipv4.conf.*.rp_filter",
        NONE,
        "packets of a VTEP that the filter drops take the kernel path",
        "fib_validate_source, net/ipv4/fib_frontend.c",
    ),
    irrelevant(0, "net.ipv4.conf.*.accept_local", NONE, OUTER, "fib_validate_source, net/ipv4/fib_frontend.c"),
    irrelevant(0, "net.ipv4.conf.*.src_valid_mark", NONE, OUTER, "fib_validate_source, net/ipv4/fib_frontend.c"),
    irrelevant(0, "net.ipv4.conf.*.route_localnet", NONE, OUTER, "ip_route_input_slow, net/ipv4/route.c"),
    irrelevant(0, "net.ipv4.conf.*.log_martians", NONE, "a log", "ip_handle_martian_source, net/ipv4/route.c"),
    irrelevant(0, "net.ipv4.udp_early_demux", NONE, "chooses how a socket is found", "ip_rcv_finish_core"),
    irrelevant(0, "net.ipv4.udp_mem", NONE, "sockets of encapsulation queue nothing", "udp_queue_rcv_skb"),
    honoured(0, "net.bridge.bridge-nf-call-iptables", NONE, RULES, "br_nf_pre_routing, br_netfilter_hooks.c"),
    honoured(0, "net.bridge.bridge-nf-call-ip6tables", NONE, RULES, "br_nf_pre_routing, br_netfilter_hooks.c"),
    irrelevant(
        0,
        "net.bridge.bridge-nf-call-arptables",
        NONE,
        "ARP takes the kernel path",
        "br_nf_forward_arp, br_netfilter_hooks.c",
    ),
    irrelevant(
        0,
        "net.bridge.bridge-nf-filter-vlan-tagged",
        NONE,
        "frames with a VLAN tag take the kernel path",
        "br_nf_pre_routing, br_netfilter_hooks.c",
    ),
    irrelevant(
        0,
        "net.bridge.bridge-nf-filter-pppoe-tagged",
        NONE,
        "PPPoE is not IP, and takes the kernel path",
        "br_nf_pre_routing, br_netfilter_hooks.c",
    ),
    irrelevant(
        0,
        "net.bridge.bridge-nf-pass-vlan-input-dev",
        NONE,
        "frames with a VLAN tag take the kernel path",
        "brnf_get_logical_dev, br_netfilter_hooks.c",
    ),
    irrelevant(0, "net.core.gro_normal_batch", NONE, BOTH, "gro_normal_one, include/net/gro.h"),
    irrelevant(
        0,
        "net.core.netdev_max_backlog",
        NONE,
        "the fast path passes fewer queues that can overflow",
        "enqueue_to_backlog, net/core/dev.c",
    ),
    irrelevant(0, "net.core.default_qdisc", NONE, "for new devices only", "attach_one_default_qdisc"),
];
