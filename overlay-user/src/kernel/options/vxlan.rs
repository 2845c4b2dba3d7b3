//! `IFLA_VXLAN_*` (`include/uapi/linux/if_link.h`).

use super::table::{Must, Roles, Row, Show, absent, differs, honoured, irrelevant, must, off, zero};

const DEVICE: Roles = Roles::VXLAN;
const IPV6: &str = "applies to an IPv6 underlay, which is refused";
const MISS: &str = "frames to unknown addresses take the kernel path";
const ONE: &str = "vxlan_xmit_one, drivers/net/vxlan/vxlan_core.c";
const XMIT: &str = "vxlan_xmit, drivers/net/vxlan/vxlan_core.c";
const RCV: &str = "vxlan_rcv, drivers/net/vxlan/vxlan_core.c";
const SKB: &str = "vxlan_build_skb, drivers/net/vxlan/vxlan_core.c";
const RECREATE: &str = "create {dev} without the option";

pub(super) const ROWS: &[Row] = &[
    honoured(1, "IFLA_VXLAN_ID", DEVICE, "the VNI", "vxlan_vs_find_vni, drivers/net/vxlan/vxlan_core.c"),
    must(
        2,
        "IFLA_VXLAN_GROUP",
        DEVICE,
        Must {
            wanted: "a unicast address, or absent",
            accepts: |value, _| value.first().is_none_or(|first| first >> 4 != 14),
            problem: "{dev} uses a multicast group as its default destination",
            show: Show::Bytes,
            remedy: "create {dev} with `remote` instead of `group`, or with entries for each VTEP",
        },
        "vxlan_multicast_join, drivers/net/vxlan/vxlan_multicast.c",
    ),
    honoured(3, "IFLA_VXLAN_LINK", DEVICE, "a route through another device refuses the network", ONE),
    honoured(4, "IFLA_VXLAN_LOCAL", DEVICE, "the outer source address", ONE),
    honoured(5, "IFLA_VXLAN_TTL", DEVICE, "the outer TTL; 0: net.ipv4.ip_default_ttl", ONE),
    must(
        6,
        "IFLA_VXLAN_TOS",
        DEVICE,
        Must {
            wanted: "0",
            accepts: |value, _| value == [0],
            problem: "{dev} sends with the traffic class {value} (1: of the inner packet)",
            show: Show::Number,
            remedy: "ip link set {dev} type vxlan tos 0",
        },
        ONE,
    ),
    honoured(
        7,
        "IFLA_VXLAN_LEARNING",
        DEVICE,
        "packets whose source is not a static entry take the kernel path, and learned entries are not used",
        "vxlan_snoop, drivers/net/vxlan/vxlan_core.c",
    ),
    irrelevant(
        8,
        "IFLA_VXLAN_AGEING",
        DEVICE,
        "entries that the device has learned are not used",
        "vxlan_cleanup, drivers/net/vxlan/vxlan_core.c",
    ),
    irrelevant(
        9,
        "IFLA_VXLAN_LIMIT",
        DEVICE,
        "limits new entries; existing ones are used",
        "vxlan_fdb_create, drivers/net/vxlan/vxlan_core.c",
    ),
    honoured(
        10,
        "IFLA_VXLAN_PORT_RANGE",
        DEVICE,
        "the outer source ports, by the kernel's hash",
        "udp_flow_src_port, include/net/udp.h",
    ),
    irrelevant(
        11,
        "IFLA_VXLAN_PROXY",
        DEVICE,
        "ARP and neighbour discovery take the kernel path",
        "arp_reduce, drivers/net/vxlan/vxlan_core.c",
    ),
    must(
        12,
        "IFLA_VXLAN_RSC",
        DEVICE,
        off("{dev} has route short-circuiting (rsc)", RECREATE),
        "route_shortcircuit, drivers/net/vxlan/vxlan_core.c",
    ),
    irrelevant(13, "IFLA_VXLAN_L2MISS", DEVICE, MISS, XMIT),
    irrelevant(14, "IFLA_VXLAN_L3MISS", DEVICE, MISS, "arp_reduce, drivers/net/vxlan/vxlan_core.c"),
    honoured(15, "IFLA_VXLAN_PORT", DEVICE, "the UDP port", ONE),
    must(16, "IFLA_VXLAN_GROUP6", DEVICE, ipv6(), ONE),
    must(17, "IFLA_VXLAN_LOCAL6", DEVICE, ipv6(), ONE),
    differs(18, "IFLA_VXLAN_UDP_CSUM", DEVICE, "the fast path sends the UDP checksum 0 in super-packets only", ONE),
    irrelevant(19, "IFLA_VXLAN_UDP_ZERO_CSUM6_TX", DEVICE, IPV6, ONE),
    irrelevant(20, "IFLA_VXLAN_UDP_ZERO_CSUM6_RX", DEVICE, IPV6, "udp6_csum_init, net/ipv6/ip6_checksum.c"),
    must(21, "IFLA_VXLAN_REMCSUM_TX", DEVICE, off("{dev} has the option remcsumtx", RECREATE), SKB),
    must(22, "IFLA_VXLAN_REMCSUM_RX", DEVICE, off("{dev} has the option remcsumrx", RECREATE), RCV),
    must(23, "IFLA_VXLAN_GBP", DEVICE, absent("{dev} has the option gbp", RECREATE), SKB),
    irrelevant(24, "IFLA_VXLAN_REMCSUM_NOPARTIAL", DEVICE, "the device reads it with remcsumrx only", RCV),
    must(
        25,
        "IFLA_VXLAN_COLLECT_METADATA",
        DEVICE,
        off("{dev} is in collect-metadata mode (external)", RECREATE),
        XMIT,
    ),
    irrelevant(26, "IFLA_VXLAN_LABEL", DEVICE, IPV6, ONE),
    must(27, "IFLA_VXLAN_GPE", DEVICE, absent("{dev} has the option gpe", RECREATE), SKB),
    must(
        28,
        "IFLA_VXLAN_TTL_INHERIT",
        DEVICE,
        off("{dev} sends with the TTL of the inner packet (ttl inherit)", "ip link set {dev} type vxlan ttl 64"),
        ONE,
    ),
    must(
        29,
        "IFLA_VXLAN_DF",
        DEVICE,
        zero("{dev} sets DF (df {value}; 1: set, 2: inherit)", "ip link set {dev} type vxlan df unset"),
        ONE,
    ),
    must(
        30,
        "IFLA_VXLAN_VNIFILTER",
        DEVICE,
        off("{dev} has the option vnifilter", RECREATE),
        "vxlan_vs_find_vni, drivers/net/vxlan/vxlan_core.c",
    ),
    irrelevant(
        31,
        "IFLA_VXLAN_LOCALBYPASS",
        DEVICE,
        "frames to a VTEP with an address of this host take the kernel path",
        "encap_bypass_if_local, drivers/net/vxlan/vxlan_core.c",
    ),
    irrelevant(32, "IFLA_VXLAN_LABEL_POLICY", DEVICE, IPV6, ONE),
    irrelevant(
        33,
        "IFLA_VXLAN_RESERVED_BITS",
        DEVICE,
        "received packets with a reserved bit set take the kernel path; sent packets have none",
        RCV,
    ),
    irrelevant(
        34,
        "IFLA_VXLAN_MC_ROUTE",
        DEVICE,
        "applies to multicast groups, which are refused",
        "vxlan_xmit_one, drivers/net/vxlan/vxlan_core.c",
    ),
];

const fn ipv6() -> Must {
    Must {
        wanted: "absent, or ::",
        accepts: |value, _| value.iter().all(|byte| *byte == 0),
        problem: "{dev} has an IPv6 underlay",
        show: Show::Bytes,
        remedy: "use IPv4 addresses of the hosts, or keep the kernel path",
    }
}
