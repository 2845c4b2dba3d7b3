//! `RTA_*` of the answer to a route lookup (`include/uapi/linux/rtnetlink.h`).

use super::table::{Roles, Row, honoured, irrelevant};

const NONE: Roles = Roles::NONE;
const REQUEST: &str = "part of the question";
const OBSTACLE: &str = "a VTEP behind such a route takes the kernel path";
const NONE_HAS: &str = "no answer for a unicast IPv4 route has it; with it the VTEP takes the kernel path";
const LOOKUP: &str = "udp_tunnel_dst_lookup, net/ipv4/udp_tunnel_core.c";
const FILL: &str = "rt_fill_info, net/ipv4/route.c";

pub(super) const ROWS: &[Row] = &[
    honoured(1, "RTA_DST", NONE, "the VTEP", LOOKUP),
    irrelevant(2, "RTA_SRC", NONE, REQUEST, FILL),
    honoured(3, "RTA_IIF", NONE, NONE_HAS, FILL),
    honoured(4, "RTA_OIF", NONE, "the egress device", LOOKUP),
    honoured(5, "RTA_GATEWAY", NONE, "the next hop", "ip_neigh_for_gw, include/net/route.h"),
    irrelevant(6, "RTA_PRIORITY", NONE, "the kernel has applied it to its answer", FILL),
    honoured(7, "RTA_PREFSRC", NONE, "the outer source address of a device without `local`", LOOKUP),
    honoured(8, "RTA_METRICS", NONE, "the MTU and the hop limit", "ip_dst_mtu_maybe_forward, include/net/ip.h"),
    honoured(9, "RTA_MULTIPATH", NONE, "the next hop that the addresses select; see limits", "fib_select_multipath"),
    honoured(10, "RTA_PROTOINFO", NONE, NONE_HAS, ""),
    honoured(11, "RTA_FLOW", NONE, OBSTACLE, FILL),
    honoured(12, "RTA_CACHEINFO", NONE, "an error of the route; its times do not matter", FILL),
    honoured(13, "RTA_SESSION", NONE, NONE_HAS, ""),
    honoured(14, "RTA_MP_ALGO", NONE, NONE_HAS, ""),
    honoured(15, "RTA_TABLE", NONE, "selects the rules that are compared with the answer", "fib_rules_lookup"),
    honoured(16, "RTA_MARK", NONE, NONE_HAS, FILL),
    honoured(17, "RTA_MFC_STATS", NONE, NONE_HAS, FILL),
    honoured(18, "RTA_VIA", NONE, OBSTACLE, "ip_neigh_for_gw, include/net/route.h"),
    honoured(19, "RTA_NEWDST", NONE, NONE_HAS, FILL),
    honoured(20, "RTA_PREF", NONE, NONE_HAS, FILL),
    honoured(21, "RTA_ENCAP_TYPE", NONE, OBSTACLE, "lwtunnel_output, net/core/lwtunnel.c"),
    honoured(22, "RTA_ENCAP", NONE, OBSTACLE, "lwtunnel_output, net/core/lwtunnel.c"),
    honoured(23, "RTA_EXPIRES", NONE, NONE_HAS, FILL),
    honoured(24, "RTA_PAD", NONE, NONE_HAS, ""),
    irrelevant(25, "RTA_UID", NONE, REQUEST, FILL),
    honoured(26, "RTA_TTL_PROPAGATE", NONE, NONE_HAS, FILL),
    honoured(27, "RTA_IP_PROTO", NONE, NONE_HAS, FILL),
    honoured(28, "RTA_SPORT", NONE, NONE_HAS, FILL),
    honoured(29, "RTA_DPORT", NONE, NONE_HAS, FILL),
    honoured(30, "RTA_NH_ID", NONE, "the nexthop object is read", "nexthop_select_path, net/ipv4/nexthop.c"),
    honoured(31, "RTA_FLOWLABEL", NONE, NONE_HAS, FILL),
];
