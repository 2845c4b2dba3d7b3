//! Names of programs and maps, as they appear in `bpftool prog`, `bpftool map` and below the pin root.

/// TC ingress on a container's host-side veth: encapsulation and local switching.
pub const PORT_IN: &str = "ovl_port_in";
/// TC ingress on the NIC: decapsulation.
pub const NIC_IN: &str = "ovl_nic_in";
/// XDP on the NIC: decapsulation of everything but TCP, before an skb exists.
pub const NIC_XDP: &str = "ovl_nic_xdp";
/// TC ingress on the host end of a shim: from a port in another network namespace to the NIC.
pub const SHIM_OUT: &str = "ovl_shim_out";
/// TC ingress on the other end of a shim: from the NIC to a port in that namespace.
pub const SHIM_IN: &str = "ovl_shim_in";
/// Never attached: the daemon runs it to read the kernel's ticks, `jiffies64`, into the first eight bytes of a packet.
pub const CLOCK: &str = "ovl_clock";

/// [`crate::maps::PortKey`] → [`crate::maps::Port`].
pub const PORTS: &str = "OVL_PORTS";
/// [`crate::maps::FdbKey`] → [`crate::maps::FdbEntry`].
pub const FDB: &str = "OVL_FDB";
/// Index → [`crate::maps::Vtep`].
pub const VTEPS: &str = "OVL_VTEPS";
/// [`crate::maps::SenderKey`] → [`crate::maps::Sender`].
pub const SENDERS: &str = "OVL_SENDERS";
/// VNI → [`crate::maps::Network`].
pub const NETWORKS: &str = "OVL_NETWORKS";
/// 0 → [`crate::maps::Underlay`].
pub const UNDERLAY: &str = "OVL_UNDERLAY";
/// [`crate::maps::FdbEntry::tx`] → the device that XDP redirects to.
pub const TXPORTS: &str = "OVL_TXPORTS";
/// [`crate::Reason`] → [`crate::maps::Count`], per CPU.
pub const REASONS: &str = "OVL_REASONS";
/// Network slot → [`crate::maps::Traffic`], per CPU.
pub const VNI_STATS: &str = "OVL_VNI_STATS";
/// VTEP index → [`crate::maps::Traffic`], per CPU.
pub const VTEP_STATS: &str = "OVL_VTEP_STATS";

/// 0 → [`crate::maps::Lease`].
pub const LEASE: &str = "OVL_LEASE";

/// Samples of refused packets: a ring buffer of [`crate::Event`]s.
pub const EVENTS: &str = "OVL_EVENTS";
/// [`crate::Reason`] → [`crate::maps::Sampled`], per CPU.
pub const SAMPLED: &str = "OVL_SAMPLED";

/// Every map, in the order of the packet's way.
pub const MAPS: [&str; 13] =
    [PORTS, FDB, VTEPS, SENDERS, NETWORKS, UNDERLAY, TXPORTS, REASONS, VNI_STATS, VTEP_STATS, LEASE, EVENTS, SAMPLED];

/// Entries of `OVL_REASONS` and `OVL_SAMPLED`: more than there are reasons, so that a new one does not change the map.
pub const REASONS_SIZE: u32 = 64;
/// Most entries of `OVL_FDB`, unless the configuration says otherwise.
pub const FDB_SIZE: u32 = 131_072;
/// Most entries of `OVL_VTEPS` and `OVL_VTEP_STATS`.
pub const VTEPS_SIZE: u32 = 8_192;
/// Most entries of `OVL_PORTS` and `OVL_TXPORTS`.
pub const PORTS_SIZE: u32 = if cfg!(feature = "other-build") { 4_096 } else { 8_192 };
/// Most entries of `OVL_NETWORKS` and `OVL_VNI_STATS`.
pub const NETWORKS_SIZE: u32 = if cfg!(feature = "other-build") { 2_048 } else { 4_096 };
/// Most entries of `OVL_SENDERS`.
pub const SENDERS_SIZE: u32 = 65_536;
/// Bytes of `OVL_EVENTS`: about 740 events. A power of two, and of every page size a multiple.
pub const EVENTS_SIZE: u32 = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_every_reason() {
        assert!(crate::Reason::ALL.len() <= REASONS_SIZE as usize);
    }

    #[test]
    fn names_fit_the_kernels_15_characters() {
        for name in MAPS.iter().chain(&[PORT_IN, NIC_IN, NIC_XDP, SHIM_OUT, SHIM_IN, CLOCK]) {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
