//! `IFLA_BRPORT_*` (`include/uapi/linux/if_link.h`).

use super::table::{Must, Roles, Row, Show, absent, honoured, irrelevant, must, off};

/// `IFLA_BRPORT_STATE`.
pub(super) const STATE: u16 = 1;

const BOTH: Roles = Roles::PORTS;
const STP: &str = "the spanning tree protocol alone uses it, and its result is IFLA_BRPORT_STATE";
const STP_STATE: &str = "a state of the spanning tree protocol, whose result is IFLA_BRPORT_STATE";
const MULTICAST: &str = "multicast frames take the kernel path";
const BROADCAST: &str = "broadcast frames take the kernel path";
const ARP: &str = "ARP and neighbour discovery take the kernel path";
const DELIVER: &str = "should_deliver, net/bridge/br_forward.c";
const FLOOD: &str = "br_flood, net/bridge/br_forward.c";
const FINISH: &str = "br_handle_frame_finish, net/bridge/br_input.c";
const TIMER: &str = "br_port_fill_attrs, net/bridge/br_netlink.c";
const OPEN: &str = "an address behind a port that does not learn or flood needs a static entry of the bridge";

pub(super) const ROWS: &[Row] = &[
    must(
        STATE,
        "IFLA_BRPORT_STATE",
        BOTH,
        Must {
            wanted: "forwarding",
            accepts: |value, _| value == [3],
            problem: "{dev} is in the {value} state, not in the forwarding state",
            show: Show::State,
            remedy: "bridge link set dev {dev} state 3",
        },
        DELIVER,
    ),
    irrelevant(2, "IFLA_BRPORT_PRIORITY", BOTH, STP, "br_make_port_id, net/bridge/br_private_stp.h"),
    irrelevant(3, "IFLA_BRPORT_COST", BOTH, STP, "br_should_become_root_port, net/bridge/br_stp.c"),
    irrelevant(4, "IFLA_BRPORT_MODE", BOTH, "frames back to the port that sent them take the kernel path", DELIVER),
    irrelevant(
        5,
        "IFLA_BRPORT_GUARD",
        BOTH,
        "applies to received BPDUs, which are multicast; a port that it blocks is disabled",
        "br_stp_rcv, net/bridge/br_stp_bpdu.c",
    ),
    irrelevant(6, "IFLA_BRPORT_PROTECT", BOTH, STP, "br_root_port_block, net/bridge/br_stp.c"),
    irrelevant(7, "IFLA_BRPORT_FAST_LEAVE", BOTH, MULTICAST, "br_multicast_leave_group, net/bridge/br_multicast.c"),
    honoured(8, "IFLA_BRPORT_LEARNING", BOTH, OPEN, FINISH),
    honoured(9, "IFLA_BRPORT_UNICAST_FLOOD", BOTH, OPEN, FLOOD),
    honoured(10, "IFLA_BRPORT_PROXYARP", BOTH, "as IFLA_BRPORT_UNICAST_FLOOD off: such a port is not flooded", FLOOD),
    irrelevant(
        11,
        "IFLA_BRPORT_LEARNING_SYNC",
        BOTH,
        "entries that a switch has learned are in the FDB",
        "br_fdb_external_learn_add, net/bridge/br_fdb.c",
    ),
    irrelevant(12, "IFLA_BRPORT_PROXYARP_WIFI", BOTH, ARP, "br_do_proxy_suppress_arp, net/bridge/br_arp_nd_proxy.c"),
    irrelevant(13, "IFLA_BRPORT_ROOT_ID", BOTH, STP_STATE, TIMER),
    irrelevant(14, "IFLA_BRPORT_BRIDGE_ID", BOTH, STP_STATE, TIMER),
    irrelevant(15, "IFLA_BRPORT_DESIGNATED_PORT", BOTH, STP_STATE, TIMER),
    irrelevant(16, "IFLA_BRPORT_DESIGNATED_COST", BOTH, STP_STATE, TIMER),
    irrelevant(17, "IFLA_BRPORT_ID", BOTH, STP_STATE, TIMER),
    irrelevant(18, "IFLA_BRPORT_NO", BOTH, STP_STATE, TIMER),
    irrelevant(19, "IFLA_BRPORT_TOPOLOGY_CHANGE_ACK", BOTH, STP_STATE, TIMER),
    irrelevant(20, "IFLA_BRPORT_CONFIG_PENDING", BOTH, STP_STATE, TIMER),
    irrelevant(21, "IFLA_BRPORT_MESSAGE_AGE_TIMER", BOTH, STP_STATE, TIMER),
    irrelevant(22, "IFLA_BRPORT_FORWARD_DELAY_TIMER", BOTH, STP_STATE, TIMER),
    irrelevant(23, "IFLA_BRPORT_HOLD_TIMER", BOTH, STP_STATE, TIMER),
    irrelevant(24, "IFLA_BRPORT_FLUSH", BOTH, "a request only", ""),
    irrelevant(25, "IFLA_BRPORT_MULTICAST_ROUTER", BOTH, MULTICAST, "br_multicast_flood, net/bridge/br_forward.c"),
    irrelevant(26, "IFLA_BRPORT_PAD", BOTH, "padding", ""),
    irrelevant(27, "IFLA_BRPORT_MCAST_FLOOD", BOTH, MULTICAST, FLOOD),
    irrelevant(28, "IFLA_BRPORT_MCAST_TO_UCAST", BOTH, MULTICAST, "br_multicast_flood, net/bridge/br_forward.c"),
    must(
        29,
        "IFLA_BRPORT_VLAN_TUNNEL",
        BOTH,
        off("{dev} maps VLANs to VNIs (vlan_tunnel)", "bridge link set dev {dev} vlan_tunnel off"),
        "br_handle_ingress_vlan_tunnel, net/bridge/br_vlan_tunnel.c",
    ),
    irrelevant(30, "IFLA_BRPORT_BCAST_FLOOD", BOTH, BROADCAST, FLOOD),
    irrelevant(
        31,
        "IFLA_BRPORT_GROUP_FWD_MASK",
        BOTH,
        "applies to link-local groups, which take the kernel path",
        "br_handle_frame, net/bridge/br_input.c",
    ),
    irrelevant(32, "IFLA_BRPORT_NEIGH_SUPPRESS", BOTH, ARP, "br_do_proxy_suppress_arp, net/bridge/br_arp_nd_proxy.c"),
    must(
        33,
        "IFLA_BRPORT_ISOLATED",
        BOTH,
        off("{dev} is an isolated bridge port", "bridge link set dev {dev} isolated off"),
        "br_skb_isolated, net/bridge/br_private.h",
    ),
    must(
        34,
        "IFLA_BRPORT_BACKUP_PORT",
        BOTH,
        absent("{dev} has a backup port", "bridge link set dev {dev} nobackup_port"),
        "br_forward, net/bridge/br_forward.c",
    ),
    irrelevant(35, "IFLA_BRPORT_MRP_RING_OPEN", BOTH, "a report of MRP, which sets IFLA_BRPORT_STATE", TIMER),
    irrelevant(36, "IFLA_BRPORT_MRP_IN_OPEN", BOTH, "a report of MRP, which sets IFLA_BRPORT_STATE", TIMER),
    irrelevant(37, "IFLA_BRPORT_MCAST_EHT_HOSTS_LIMIT", BOTH, MULTICAST, "net/bridge/br_multicast_eht.c"),
    irrelevant(38, "IFLA_BRPORT_MCAST_EHT_HOSTS_CNT", BOTH, MULTICAST, "net/bridge/br_multicast_eht.c"),
    must(
        39,
        "IFLA_BRPORT_LOCKED",
        BOTH,
        off("{dev} is a locked bridge port", "bridge link set dev {dev} locked off"),
        FINISH,
    ),
    irrelevant(40, "IFLA_BRPORT_MAB", BOTH, "the bridge reads it on locked ports only", FINISH),
    irrelevant(41, "IFLA_BRPORT_MCAST_N_GROUPS", BOTH, MULTICAST, "br_multicast_port_ngroups_inc, br_multicast.c"),
    irrelevant(42, "IFLA_BRPORT_MCAST_MAX_GROUPS", BOTH, MULTICAST, "br_multicast_port_ngroups_inc, br_multicast.c"),
    irrelevant(
        43,
        "IFLA_BRPORT_NEIGH_VLAN_SUPPRESS",
        BOTH,
        ARP,
        "br_is_neigh_suppress_enabled, net/bridge/br_arp_nd_proxy.c",
    ),
    irrelevant(
        44,
        "IFLA_BRPORT_BACKUP_NHID",
        BOTH,
        "the bridge reads it for ports with a backup port only",
        "br_forward, net/bridge/br_forward.c",
    ),
];
