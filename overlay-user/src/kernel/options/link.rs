//! `ifi_flags` and `IFLA_*` (`include/uapi/linux/if_link.h`).

use super::table::{Must, Roles, Row, Show, absent, honoured, irrelevant, must, off, plain};
use crate::sys::netlink::attribute::{attribute, ne32};

const ALL: Roles = Roles::DEVICES;
/// The devices whose transmit path the fast path passes by.
const PASSED_BY: Roles = Roles::VXLAN.and(Roles::PORT);
const NAME: &str = "a name: devices are identified by index";
const REQUEST: &str = "a request only";
const COUNTER: &str = "a counter";
const REPORT: &str = "a report of the driver";
const HARDWARE: &str = "identifies hardware";
const UNUSED: &str = "not used for Ethernet devices";
const QUEUES: &str = "queues do not change packets";
const VF: &str = "virtual functions are separate devices";
const CARRIER: &str = "a bridge port without carrier is disabled (IFLA_BRPORT_STATE)";
const GRO: &str = "GRO on the NIC runs before both paths; behind the VXLAN device the kernel merges more packets";
const OWN_FRAMES: &str = "only frames that the device itself sends have it";
const FILL: &str = "rtnl_fill_ifinfo, net/core/rtnetlink.c";
const CARRIER_CHECK: &str = "br_port_carrier_check, net/bridge/br_if.c";
const FEATURES_CHECK: &str = "gso_features_check, net/core/dev.c";

/// `IFF_UP`.
pub(super) const UP: u16 = 1;
/// `IFLA_TSO_MAX_SIZE` and `IFLA_TSO_MAX_SEGS`: limits that a VXLAN device inherits from its lower device
/// (`netif_inherit_tso_max` in net/core/dev.c).
const TSO_MAX_SIZE: u16 = 59;
const TSO_MAX_SEGS: u16 = 60;
/// Sizes of a new device: `GSO_LEGACY_MAX_SIZE` and `GSO_MAX_SEGS` of include/linux/netdevice.h.
const GSO_SIZE: u32 = 65_536;
const GSO_SEGS: u32 = 65_535;

pub(super) const FLAGS: &[Row] = &[must(
    UP,
    "IFF_UP",
    Roles::VXLAN.and(Roles::BRIDGE).and(Roles::PORT),
    Must {
        wanted: "up",
        accepts: |value, _| value == [1],
        problem: "{dev} is down",
        show: Show::OnOff,
        remedy: "ip link set {dev} up",
    },
    "br_handle_frame, net/bridge/br_input.c; vxlan_open, drivers/net/vxlan/vxlan_core.c",
)];

pub(super) const ROWS: &[Row] = &[
    honoured(
        1,
        "IFLA_ADDRESS",
        Roles::CONTAINER,
        "the MAC address behind the port",
        "eth_type_trans, net/ethernet/eth.c",
    ),
    honoured(1, "IFLA_ADDRESS", Roles::NIC, "the outer source MAC address", "dev_hard_header, linux/netdevice.h"),
    honoured(
        1,
        "IFLA_ADDRESS",
        ALL.except(Roles::CONTAINER.and(Roles::NIC)),
        "addresses of the bridge itself (permanent entries) take the kernel path",
        "br_fdb_find_rcu, net/bridge/br_fdb.c",
    ),
    irrelevant(2, "IFLA_BROADCAST", ALL, "broadcast frames take the kernel path", "eth_type_trans, net/ethernet/eth.c"),
    irrelevant(3, "IFLA_IFNAME", ALL, NAME, FILL),
    honoured(
        4,
        "IFLA_MTU",
        Roles::VXLAN,
        "the network's MTU; larger packets take the kernel path",
        "is_skb_forwardable, net/core/dev.c",
    ),
    irrelevant(4, "IFLA_MTU", Roles::BRIDGE, OWN_FRAMES, "br_dev_queue_push_xmit, net/bridge/br_forward.c"),
    honoured(
        4,
        "IFLA_MTU",
        Roles::PORT,
        "a port with an MTU below the network's takes the kernel path",
        "is_skb_forwardable, net/core/dev.c",
    ),
    honoured(
        4,
        "IFLA_MTU",
        Roles::CONTAINER,
        "a port whose container has an MTU below the network's takes the kernel path",
        "veth_forward_skb, drivers/net/veth.c",
    ),
    honoured(4, "IFLA_MTU", Roles::NIC, "the MTU of the route to the VTEP", "ip_dst_mtu_maybe_forward, net/ip.h"),
    honoured(5, "IFLA_LINK", ALL, "the lower device, or the other end of a veth", "vxlan_xmit_one; veth_xmit"),
    honoured(
        6,
        "IFLA_QDISC",
        ALL.except(Roles::CONTAINER.and(Roles::NIC)),
        "a queueing discipline or a filter refuses the network or the port",
        "__dev_queue_xmit, net/core/dev.c",
    ),
    irrelevant(
        6,
        "IFLA_QDISC",
        Roles::CONTAINER.and(Roles::NIC),
        "both paths pass it",
        "__dev_queue_xmit, net/core/dev.c",
    ),
    irrelevant(7, "IFLA_STATS", ALL, COUNTER, FILL),
    irrelevant(8, "IFLA_COST", ALL, UNUSED, ""),
    irrelevant(9, "IFLA_PRIORITY", ALL, UNUSED, ""),
    honoured(
        10,
        "IFLA_MASTER",
        ALL,
        "the bridge of a network; a container's end with a master has no known address; an underlay device with a master is refused",
        "rx_handler of __netif_receive_skb_core, net/core/dev.c",
    ),
    irrelevant(11, "IFLA_WIRELESS", ALL, UNUSED, ""),
    irrelevant(12, "IFLA_PROTINFO", ALL, "bridge port attributes of another request, see below", FILL),
    irrelevant(13, "IFLA_TXQLEN", ALL, "read by queueing disciplines only", "pfifo_fast, net/sched/sch_generic.c"),
    irrelevant(14, "IFLA_MAP", ALL, HARDWARE, FILL),
    irrelevant(15, "IFLA_WEIGHT", ALL, UNUSED, ""),
    irrelevant(16, "IFLA_OPERSTATE", ALL, CARRIER, CARRIER_CHECK),
    irrelevant(17, "IFLA_LINKMODE", ALL, CARRIER, CARRIER_CHECK),
    honoured(18, "IFLA_LINKINFO", ALL, "kind and attributes of the kind, see below", FILL),
    irrelevant(19, "IFLA_NET_NS_PID", ALL, REQUEST, ""),
    irrelevant(20, "IFLA_IFALIAS", ALL, NAME, FILL),
    irrelevant(21, "IFLA_NUM_VF", ALL, VF, FILL),
    irrelevant(22, "IFLA_VFINFO_LIST", ALL, VF, FILL),
    irrelevant(23, "IFLA_STATS64", ALL, COUNTER, FILL),
    irrelevant(24, "IFLA_VF_PORTS", ALL, VF, FILL),
    irrelevant(25, "IFLA_PORT_SELF", ALL, VF, FILL),
    irrelevant(
        26,
        "IFLA_AF_SPEC",
        ALL,
        "sysctls of the IP layers, see below",
        "rtnl_fill_link_af, net/core/rtnetlink.c",
    ),
    irrelevant(27, "IFLA_GROUP", ALL, NAME, FILL),
    irrelevant(28, "IFLA_NET_NS_FD", ALL, REQUEST, ""),
    irrelevant(29, "IFLA_EXT_MASK", ALL, REQUEST, ""),
    irrelevant(
        30,
        "IFLA_PROMISCUITY",
        ALL,
        "the fast path delivers frames for the MAC address of the port only",
        "br_handle_frame_finish, net/bridge/br_input.c",
    ),
    irrelevant(31, "IFLA_NUM_TX_QUEUES", ALL, QUEUES, FILL),
    irrelevant(32, "IFLA_NUM_RX_QUEUES", ALL, QUEUES, FILL),
    irrelevant(33, "IFLA_CARRIER", ALL, CARRIER, CARRIER_CHECK),
    irrelevant(34, "IFLA_PHYS_PORT_ID", ALL, HARDWARE, FILL),
    irrelevant(35, "IFLA_CARRIER_CHANGES", ALL, COUNTER, FILL),
    must(
        36,
        "IFLA_PHYS_SWITCH_ID",
        PASSED_BY,
        absent("{dev} is a port of a hardware switch, which forwards frames too", "keep the kernel path"),
        "nbp_switchdev_allowed_egress, net/bridge/br_switchdev.c",
    ),
    irrelevant(36, "IFLA_PHYS_SWITCH_ID", ALL.except(PASSED_BY), HARDWARE, FILL),
    honoured(37, "IFLA_LINK_NETNSID", ALL, "the namespace of the other end", "bpf_redirect_peer, net/core/filter.c"),
    irrelevant(38, "IFLA_PHYS_PORT_NAME", ALL, NAME, FILL),
    must(
        39,
        "IFLA_PROTO_DOWN",
        PASSED_BY,
        off("{dev} is down by protocol (protodown)", "ip link set {dev} protodown off"),
        "dev_change_proto_down, net/core/dev.c",
    ),
    irrelevant(39, "IFLA_PROTO_DOWN", ALL.except(PASSED_BY), CARRIER, "dev_change_proto_down, net/core/dev.c"),
    // After decapsulation by a program the number of segments is not known (`gso_segs` is 0).
    must(40, "IFLA_GSO_MAX_SEGS", PASSED_BY, SEGS, FEATURES_CHECK),
    irrelevant(40, "IFLA_GSO_MAX_SEGS", ALL.except(PASSED_BY), "both paths pass it", FEATURES_CHECK),
    must(41, "IFLA_GSO_MAX_SIZE", Roles::VXLAN, SIZE, FEATURES_CHECK),
    plain(41, "IFLA_GSO_MAX_SIZE", SIZE, FEATURES_CHECK),
    irrelevant(41, "IFLA_GSO_MAX_SIZE", ALL.except(PASSED_BY), "both paths pass it", FEATURES_CHECK),
    irrelevant(42, "IFLA_PAD", ALL, "padding", ""),
    honoured(
        43,
        "IFLA_XDP",
        Roles::VXLAN.and(Roles::BRIDGE),
        "a program refuses the network",
        "do_xdp_generic, net/core/dev.c",
    ),
    irrelevant(
        43,
        "IFLA_XDP",
        Roles::PORT.and(Roles::NIC),
        "runs before both paths",
        "veth_xdp_rcv, drivers/net/veth.c",
    ),
    honoured(
        43,
        "IFLA_XDP",
        Roles::CONTAINER,
        "decides whether XDP may redirect into the port; see the bypassed hooks",
        "veth_xdp_rcv, drivers/net/veth.c",
    ),
    irrelevant(44, "IFLA_EVENT", ALL, "the cause of a message", FILL),
    irrelevant(45, "IFLA_NEW_NETNSID", ALL, "the cause of a message", FILL),
    irrelevant(46, "IFLA_IF_NETNSID", ALL, "the namespace of the answer", FILL),
    irrelevant(47, "IFLA_CARRIER_UP_COUNT", ALL, COUNTER, FILL),
    irrelevant(48, "IFLA_CARRIER_DOWN_COUNT", ALL, COUNTER, FILL),
    irrelevant(49, "IFLA_NEW_IFINDEX", ALL, "the cause of a message", FILL),
    irrelevant(50, "IFLA_MIN_MTU", ALL, "a limit of IFLA_MTU", "dev_validate_mtu, net/core/dev.c"),
    irrelevant(51, "IFLA_MAX_MTU", ALL, "a limit of IFLA_MTU", "dev_validate_mtu, net/core/dev.c"),
    irrelevant(52, "IFLA_PROP_LIST", ALL, NAME, FILL),
    irrelevant(53, "IFLA_ALT_IFNAME", ALL, NAME, FILL),
    irrelevant(54, "IFLA_PERM_ADDRESS", ALL, HARDWARE, FILL),
    irrelevant(55, "IFLA_PROTO_DOWN_REASON", ALL, "the reasons for IFLA_PROTO_DOWN", FILL),
    irrelevant(56, "IFLA_PARENT_DEV_NAME", ALL, HARDWARE, FILL),
    irrelevant(57, "IFLA_PARENT_DEV_BUS_NAME", ALL, HARDWARE, FILL),
    irrelevant(58, "IFLA_GRO_MAX_SIZE", ALL, GRO, "skb_gro_receive, net/core/gro.c"),
    irrelevant(TSO_MAX_SIZE, "IFLA_TSO_MAX_SIZE", ALL, "a limit of IFLA_GSO_MAX_SIZE", "netif_set_tso_max_size"),
    irrelevant(TSO_MAX_SEGS, "IFLA_TSO_MAX_SEGS", ALL, "a limit of IFLA_GSO_MAX_SEGS", "netif_set_tso_max_segs"),
    irrelevant(61, "IFLA_ALLMULTI", ALL, "multicast frames take the kernel path", "eth_type_trans, net/ethernet/eth.c"),
    irrelevant(62, "IFLA_DEVLINK_PORT", ALL, HARDWARE, FILL),
    must(63, "IFLA_GSO_IPV4_MAX_SIZE", Roles::VXLAN, SIZE_IPV4, FEATURES_CHECK),
    plain(63, "IFLA_GSO_IPV4_MAX_SIZE", SIZE_IPV4, FEATURES_CHECK),
    irrelevant(63, "IFLA_GSO_IPV4_MAX_SIZE", ALL.except(PASSED_BY), "both paths pass it", FEATURES_CHECK),
    irrelevant(64, "IFLA_GRO_IPV4_MAX_SIZE", ALL, GRO, "skb_gro_receive, net/core/gro.c"),
    irrelevant(65, "IFLA_DPLL_PIN", ALL, HARDWARE, FILL),
    irrelevant(66, "IFLA_MAX_PACING_OFFLOAD_HORIZON", ALL, REPORT, FILL),
    irrelevant(67, "IFLA_NETNS_IMMUTABLE", ALL, "whether the device can move to another namespace", FILL),
    irrelevant(68, "IFLA_HEADROOM", ALL, "space for headers does not change packets", "skb_cow_head"),
    irrelevant(69, "IFLA_TAILROOM", ALL, "space for headers does not change packets", "skb_cow_head"),
];

/// Limits of super-packets. The kernel segments larger ones when it sends them to the device.
const SEGS: Must = Must {
    wanted: "65535, or the limit of the hardware",
    accepts: |value, all| is_largest(value, all, GSO_SEGS, TSO_MAX_SEGS),
    problem: "{dev} has gso_max_segs {value}",
    show: Show::Number,
    remedy: "ip link set {dev} gso_max_segs 65535",
};
const SIZE: Must = Must {
    wanted: "65536, or the limit of the hardware",
    accepts: |value, all| is_largest(value, all, GSO_SIZE, TSO_MAX_SIZE),
    problem: "{dev} has gso_max_size {value}",
    show: Show::Number,
    remedy: "ip link set {dev} gso_max_size 65536",
};
const SIZE_IPV4: Must = Must {
    problem: "{dev} has gso_ipv4_max_size {value}",
    remedy: "ip link set {dev} gso_ipv4_max_size 65536",
    ..SIZE
};

/// Whether a limit is at least that of a new device, or that of the hardware.
fn is_largest(value: &[u8], all: &[u8], default: u32, hardware: u16) -> bool {
    let hardware = attribute(all, hardware).and_then(|value| ne32(value, 0)).unwrap_or(default);
    ne32(value, 0).is_none_or(|value| value >= default.min(hardware))
}
