//! `NDA_*` of FDB entries (`include/uapi/linux/neighbour.h`).

use super::table::{Roles, Row, honoured, irrelevant};

const NONE: Roles = Roles::NONE;
const UNUSED: &str = "an entry with it is not used";
const REQUEST: &str = "a request only";
const AGES: &str = "times of the entry; an entry that ages is removed by an event";
const FILL: &str = "vxlan_fdb_info, drivers/net/vxlan/vxlan_core.c; fdb_fill_info, net/bridge/br_fdb.c";
const ONE: &str = "vxlan_xmit_one, drivers/net/vxlan/vxlan_core.c";

pub(super) const ROWS: &[Row] = &[
    honoured(1, "NDA_DST", NONE, "the VTEP", ONE),
    honoured(2, "NDA_LLADDR", NONE, "the MAC address", "vxlan_find_mac_rcu; br_fdb_find_rcu"),
    irrelevant(3, "NDA_CACHEINFO", NONE, AGES, FILL),
    irrelevant(4, "NDA_PROBES", NONE, "of neighbours only", FILL),
    honoured(5, "NDA_VLAN", NONE, UNUSED, "br_fdb_find_rcu, net/bridge/br_fdb.c"),
    honoured(6, "NDA_PORT", NONE, UNUSED, ONE),
    honoured(7, "NDA_VNI", NONE, UNUSED, ONE),
    honoured(8, "NDA_IFINDEX", NONE, UNUSED, ONE),
    irrelevant(9, "NDA_MASTER", NONE, "the bridge of the port", FILL),
    irrelevant(10, "NDA_LINK_NETNSID", NONE, "the namespace of the underlay", FILL),
    honoured(11, "NDA_SRC_VNI", NONE, UNUSED, "vxlan_find_mac_rcu, drivers/net/vxlan/vxlan_core.c"),
    irrelevant(12, "NDA_PROTOCOL", NONE, "the origin of the entry", FILL),
    honoured(13, "NDA_NH_ID", NONE, UNUSED, "vxlan_xmit_nh, drivers/net/vxlan/vxlan_core.c"),
    irrelevant(14, "NDA_FDB_EXT_ATTRS", NONE, "requests of notifications", FILL),
    irrelevant(
        15,
        "NDA_FLAGS_EXT",
        NONE,
        "an entry of a locked port, which is refused; other flags apply to neighbours",
        "br_handle_frame_finish, net/bridge/br_input.c",
    ),
    irrelevant(16, "NDA_NDM_STATE_MASK", NONE, REQUEST, ""),
    irrelevant(17, "NDA_NDM_FLAGS_MASK", NONE, REQUEST, ""),
];
