//! Features by the names of `netdev_features_strings` (net/ethtool/common.c).

use super::table::{Roles, Row, irrelevant, must, on, plain};

/// The devices that the fast path passes by on transmit.
const DEVICE: Roles = Roles::VXLAN;
const PORT: Roles = Roles::PORT;
const REST: Roles = Roles::DEVICES.except(DEVICE.and(PORT));
const ALL: Roles = Roles::DEVICES;
const XMIT: &str = "validate_xmit_skb, net/core/dev.c";
const REMEDY: &str = "ethtool -K {dev} tx on sg on tso on gso on, or keep the kernel path";
const BOTH: &str = "both paths pass it";
const COPY: &str = "decides how a packet is stored, not its bytes";
const HARDWARE: &str = "a function of NICs: both paths pass them";
const VLAN: &str = "frames with a VLAN tag take the kernel path";
const MERGES: &str = "merges more packets of a flow; their bytes are the same";
const TUNNEL: &str = "applies to tunnels inside of the network, whose segments are equal";
const FIXED: &str = "a property of the driver that cannot be changed";
const CHECKED: &str = "the container verifies the inner checksum";
const DRIVER: &str = "the driver";

/// Features that segment packets or fill checksums, and all others.
macro_rules! rows {
    (offloads: $($offload:literal)*; others: $(($name:literal, $why:expr, $read_by:expr))*) => {
        &[
            $(
                must(0, $offload, DEVICE, on("the feature {name} of {dev} is off", REMEDY), XMIT),
                plain(0, $offload, on("", ""), XMIT),
                irrelevant(0, $offload, REST, BOTH, XMIT),
            )*
            // A VXLAN device does not have it.
            plain(0, "tx-checksum-sctp", on("", ""), XMIT),
            irrelevant(0, "tx-checksum-sctp", ALL.except(PORT), BOTH, XMIT),
            $(irrelevant(0, $name, ALL, $why, $read_by)),*
        ]
    };
}

pub(super) const ROWS: &[Row] = rows! {
    offloads:
    "tx-scatter-gather"
    "tx-checksum-ip-generic"
    "tx-generic-segmentation"
    "tx-tcp-segmentation"
    "tx-tcp-ecn-segmentation"
    "tx-tcp-mangleid-segmentation"
    "tx-tcp6-segmentation"
    "tx-tcp-accecn-segmentation"
    "tx-udp-segmentation"
    "tx-gso-list"
    "tx-sctp-segmentation";
    others:
    ("tx-checksum-ipv4", HARDWARE, XMIT)
    ("tx-checksum-ipv6", HARDWARE, XMIT)
    ("tx-checksum-fcoe-crc", HARDWARE, XMIT)
    ("tx-scatter-gather-fraglist", COPY, XMIT)
    ("highdma", COPY, "illegal_highdma, net/core/dev.c")
    ("tx-nocache-copy", COPY, "skb_do_copy_data_nocache, include/net/sock.h")
    ("tx-vlan-hw-insert", VLAN, "validate_xmit_vlan, net/core/dev.c")
    ("rx-vlan-hw-parse", VLAN, DRIVER)
    ("rx-vlan-filter", VLAN, DRIVER)
    ("tx-vlan-stag-hw-insert", VLAN, "validate_xmit_vlan, net/core/dev.c")
    ("rx-vlan-stag-hw-parse", VLAN, DRIVER)
    ("rx-vlan-stag-filter", VLAN, DRIVER)
    ("vlan-challenged", VLAN, "register_vlan_dev, net/8021q/vlan.c")
    ("tx-lockless", FIXED, XMIT)
    ("netns-local", FIXED, "dev_change_net_namespace, net/core/dev.c")
    ("fcoe-mtu", FIXED, DRIVER)
    ("rx-gro", MERGES, "gro_cells_receive, net/core/gro_cells.c; veth_xmit, drivers/net/veth.c")
    ("rx-gro-list", MERGES, "udp_gro_receive, net/ipv4/udp_offload.c")
    ("rx-udp-gro-forwarding", MERGES, "udp_gro_receive, net/ipv4/udp_offload.c")
    ("rx-gro-hw", MERGES, DRIVER)
    ("rx-lro", MERGES, DRIVER)
    ("tx-gso-robust", FIXED, XMIT)
    ("tx-gso-partial", TUNNEL, XMIT)
    ("tx-fcoe-segmentation", HARDWARE, XMIT)
    ("tx-gre-segmentation", TUNNEL, XMIT)
    ("tx-gre-csum-segmentation", TUNNEL, XMIT)
    ("tx-ipxip4-segmentation", TUNNEL, XMIT)
    ("tx-ipxip6-segmentation", TUNNEL, XMIT)
    ("tx-udp_tnl-segmentation", TUNNEL, XMIT)
    ("tx-udp_tnl-csum-segmentation", TUNNEL, XMIT)
    ("tx-tunnel-remcsum-segmentation", TUNNEL, XMIT)
    ("tx-esp-segmentation", HARDWARE, XMIT)
    ("rx-ntuple-filter", HARDWARE, DRIVER)
    ("rx-hashing", HARDWARE, DRIVER)
    ("rx-checksum", CHECKED, DRIVER)
    ("loopback", HARDWARE, DRIVER)
    ("rx-fcs", HARDWARE, DRIVER)
    ("rx-all", HARDWARE, DRIVER)
    ("l2-fwd-offload", HARDWARE, DRIVER)
    ("hw-tc-offload", HARDWARE, DRIVER)
    ("esp-hw-offload", HARDWARE, DRIVER)
    ("esp-tx-csum-hw-offload", HARDWARE, DRIVER)
    ("rx-udp_tunnel-port-offload", HARDWARE, DRIVER)
    ("tls-hw-tx-offload", HARDWARE, DRIVER)
    ("tls-hw-rx-offload", HARDWARE, DRIVER)
    ("tls-hw-record", HARDWARE, DRIVER)
    ("macsec-hw-offload", HARDWARE, DRIVER)
    ("hsr-tag-ins-offload", HARDWARE, DRIVER)
    ("hsr-tag-rm-offload", HARDWARE, DRIVER)
    ("hsr-fwd-offload", HARDWARE, DRIVER)
    ("hsr-dup-offload", HARDWARE, DRIVER)
};
