//! Names of the programs, as `bpftool prog` shows them.

/// TC ingress on a container's host-side veth: encapsulation and local switching.
pub const PORT_IN: &str = "ovl_port_in";
/// TC ingress on the NIC: decapsulation.
pub const NIC_IN: &str = "ovl_nic_in";
/// TC ingress on a container's host-side veth, before all other programs: the checks of strict networks.
pub const PORT_CHECK: &str = "ovl_port_check";
/// TC ingress on a device that receives VXLAN, before all other programs: the checks of strict networks.
pub const NIC_CHECK: &str = "ovl_nic_check";
/// XDP on the NIC: decapsulation of everything but TCP, before an skb exists.
pub const NIC_XDP: &str = "ovl_nic_xdp";
/// TC ingress on the host end of a cross-netns veth (shim): from a port in another network namespace to the NIC.
pub const SHIM_OUT: &str = "ovl_shim_out";
/// TC ingress on the far end of a shim: from the NIC to a port in that namespace.
pub const SHIM_IN: &str = "ovl_shim_in";
/// Never attached: the daemon runs it to read `jiffies64` into the first eight bytes of a packet.
pub const CLOCK: &str = "ovl_clock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_names_fit_15_characters() {
        for name in [PORT_IN, NIC_IN, PORT_CHECK, NIC_CHECK, NIC_XDP, SHIM_OUT, SHIM_IN, CLOCK] {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
