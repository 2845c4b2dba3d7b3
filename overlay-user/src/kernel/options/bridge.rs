//! `IFLA_BR_*` (`include/uapi/linux/if_link.h`).

use super::table::{Must, Roles, Row, Show, honoured, irrelevant, must, off, zero};
use crate::sys::netlink::attribute::ne32;

const BRIDGE: Roles = Roles::BRIDGE;
const STP: &str = "the spanning tree protocol alone uses it, and its result is IFLA_BRPORT_STATE";
const STP_STATE: &str = "a state of the spanning tree protocol, whose result is IFLA_BRPORT_STATE";
const GROUPS: &str = "link-local groups take the kernel path";
const MULTICAST: &str = "multicast frames take the kernel path";
const COUNTER: &str = "a counter";
const RULES: &str = "the rules of these hooks are read, and refuse the network";
const STP_FILE: &str = "net/bridge/br_stp.c";
const FILL: &str = "br_fill_info, net/bridge/br_netlink.c";
const MDB: &str = "net/bridge/br_multicast.c";
/// `BR_BOOLOPT_*` of 6.18: no_linklocal_learn, mcast_vlan_snooping, mst_enable, mdb_offload_fail_notification,
/// fdb_local_vlan_0. None changes the forwarding of unicast frames without VLAN filtering.
const BOOLOPTS: u32 = 0x1f;

pub(super) const ROWS: &[Row] = &[
    irrelevant(1, "IFLA_BR_FORWARD_DELAY", BRIDGE, STP, STP_FILE),
    irrelevant(2, "IFLA_BR_HELLO_TIME", BRIDGE, STP, STP_FILE),
    irrelevant(3, "IFLA_BR_MAX_AGE", BRIDGE, STP, STP_FILE),
    must(
        4,
        "IFLA_BR_AGEING_TIME",
        BRIDGE,
        Must {
            wanted: "not 0",
            accepts: |value, _| value.iter().any(|byte| *byte != 0),
            problem: "{dev} has ageing_time 0: it learns no address and floods all frames",
            show: Show::Number,
            remedy: "ip link set {dev} type bridge ageing_time 30000",
        },
        "br_fdb_update, net/bridge/br_fdb.c",
    ),
    irrelevant(
        5,
        "IFLA_BR_STP_STATE",
        BRIDGE,
        "the state of each port is IFLA_BRPORT_STATE; BPDUs are multicast",
        "br_stp_rcv, net/bridge/br_stp_bpdu.c",
    ),
    irrelevant(6, "IFLA_BR_PRIORITY", BRIDGE, STP, STP_FILE),
    must(
        7,
        "IFLA_BR_VLAN_FILTERING",
        BRIDGE,
        off("{dev} filters VLANs", "ip link set {dev} type bridge vlan_filtering 0"),
        "br_allowed_ingress, net/bridge/br_vlan.c",
    ),
    irrelevant(
        8,
        "IFLA_BR_VLAN_PROTOCOL",
        BRIDGE,
        "frames with a VLAN tag take the kernel path",
        "__allowed_ingress, net/bridge/br_vlan.c",
    ),
    irrelevant(9, "IFLA_BR_GROUP_FWD_MASK", BRIDGE, GROUPS, "br_handle_frame, net/bridge/br_input.c"),
    irrelevant(10, "IFLA_BR_ROOT_ID", BRIDGE, STP_STATE, FILL),
    irrelevant(11, "IFLA_BR_BRIDGE_ID", BRIDGE, STP_STATE, FILL),
    irrelevant(12, "IFLA_BR_ROOT_PORT", BRIDGE, STP_STATE, FILL),
    irrelevant(13, "IFLA_BR_ROOT_PATH_COST", BRIDGE, STP_STATE, FILL),
    irrelevant(14, "IFLA_BR_TOPOLOGY_CHANGE", BRIDGE, STP_STATE, FILL),
    irrelevant(15, "IFLA_BR_TOPOLOGY_CHANGE_DETECTED", BRIDGE, STP_STATE, FILL),
    irrelevant(16, "IFLA_BR_HELLO_TIMER", BRIDGE, STP_STATE, FILL),
    irrelevant(17, "IFLA_BR_TCN_TIMER", BRIDGE, STP_STATE, FILL),
    irrelevant(18, "IFLA_BR_TOPOLOGY_CHANGE_TIMER", BRIDGE, STP_STATE, FILL),
    irrelevant(19, "IFLA_BR_GC_TIMER", BRIDGE, "the timer of the ageing", FILL),
    irrelevant(20, "IFLA_BR_GROUP_ADDR", BRIDGE, GROUPS, "br_handle_frame, net/bridge/br_input.c"),
    irrelevant(21, "IFLA_BR_FDB_FLUSH", BRIDGE, "a request only", ""),
    irrelevant(22, "IFLA_BR_MCAST_ROUTER", BRIDGE, MULTICAST, MDB),
    irrelevant(23, "IFLA_BR_MCAST_SNOOPING", BRIDGE, MULTICAST, MDB),
    irrelevant(24, "IFLA_BR_MCAST_QUERY_USE_IFADDR", BRIDGE, MULTICAST, MDB),
    irrelevant(25, "IFLA_BR_MCAST_QUERIER", BRIDGE, MULTICAST, MDB),
    irrelevant(26, "IFLA_BR_MCAST_HASH_ELASTICITY", BRIDGE, MULTICAST, MDB),
    irrelevant(27, "IFLA_BR_MCAST_HASH_MAX", BRIDGE, MULTICAST, MDB),
    irrelevant(28, "IFLA_BR_MCAST_LAST_MEMBER_CNT", BRIDGE, MULTICAST, MDB),
    irrelevant(29, "IFLA_BR_MCAST_STARTUP_QUERY_CNT", BRIDGE, MULTICAST, MDB),
    irrelevant(30, "IFLA_BR_MCAST_LAST_MEMBER_INTVL", BRIDGE, MULTICAST, MDB),
    irrelevant(31, "IFLA_BR_MCAST_MEMBERSHIP_INTVL", BRIDGE, MULTICAST, MDB),
    irrelevant(32, "IFLA_BR_MCAST_QUERIER_INTVL", BRIDGE, MULTICAST, MDB),
    irrelevant(33, "IFLA_BR_MCAST_QUERY_INTVL", BRIDGE, MULTICAST, MDB),
    irrelevant(34, "IFLA_BR_MCAST_QUERY_RESPONSE_INTVL", BRIDGE, MULTICAST, MDB),
    irrelevant(35, "IFLA_BR_MCAST_STARTUP_QUERY_INTVL", BRIDGE, MULTICAST, MDB),
    honoured(36, "IFLA_BR_NF_CALL_IPTABLES", BRIDGE, RULES, "br_nf_pre_routing, net/bridge/br_netfilter_hooks.c"),
    honoured(37, "IFLA_BR_NF_CALL_IP6TABLES", BRIDGE, RULES, "br_nf_pre_routing, net/bridge/br_netfilter_hooks.c"),
    irrelevant(
        38,
        "IFLA_BR_NF_CALL_ARPTABLES",
        BRIDGE,
        "ARP takes the kernel path",
        "br_nf_forward_arp, net/bridge/br_netfilter_hooks.c",
    ),
    irrelevant(
        39,
        "IFLA_BR_VLAN_DEFAULT_PVID",
        BRIDGE,
        "the bridge reads VLANs of ports with VLAN filtering only",
        "br_allowed_ingress, net/bridge/br_vlan.c",
    ),
    irrelevant(40, "IFLA_BR_PAD", BRIDGE, "padding", ""),
    irrelevant(41, "IFLA_BR_VLAN_STATS_ENABLED", BRIDGE, COUNTER, "br_handle_vlan, net/bridge/br_vlan.c"),
    irrelevant(42, "IFLA_BR_MCAST_STATS_ENABLED", BRIDGE, COUNTER, MDB),
    irrelevant(43, "IFLA_BR_MCAST_IGMP_VERSION", BRIDGE, MULTICAST, MDB),
    irrelevant(44, "IFLA_BR_MCAST_MLD_VERSION", BRIDGE, MULTICAST, MDB),
    irrelevant(45, "IFLA_BR_VLAN_STATS_PER_PORT", BRIDGE, COUNTER, "br_handle_vlan, net/bridge/br_vlan.c"),
    must(
        46,
        "IFLA_BR_MULTI_BOOLOPT",
        BRIDGE,
        Must {
            wanted: "options of Linux 6.18 only",
            accepts: |value, _| ne32(value, 0).is_none_or(|options| options & !BOOLOPTS == 0),
            problem: "{dev} has an unknown option ({value})",
            show: Show::Bytes,
            remedy: "keep the kernel path, or turn the option off (ip -d link show {dev})",
        },
        "br_boolopt_multi_get, net/bridge/br.c",
    ),
    irrelevant(47, "IFLA_BR_MCAST_QUERIER_STATE", BRIDGE, MULTICAST, MDB),
    irrelevant(48, "IFLA_BR_FDB_N_LEARNED", BRIDGE, COUNTER, FILL),
    must(
        49,
        "IFLA_BR_FDB_MAX_LEARNED",
        BRIDGE,
        zero(
            "{dev} learns at most {value} addresses, and floods frames for the others",
            "ip link set {dev} type bridge fdb_max_learned 0",
        ),
        "fdb_create, net/bridge/br_fdb.c",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_bridge_option_is_refused() {
        let row = ROWS.iter().find(|row| row.name == "IFLA_BR_MULTI_BOOLOPT").unwrap();
        let super::super::Rule::Must(must) = &row.rule else { panic!("{row:?}") };
        let value = |options: u32| [options.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
        assert!((must.accepts)(&value(0x1f), &[]));
        assert!(!(must.accepts)(&value(0x20), &[]));
    }
}
