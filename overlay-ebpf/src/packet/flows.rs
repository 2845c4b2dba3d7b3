//! Flows from the underlay that take the kernel path as a whole, so that their packets stay in order: the kernel path
//! passes queues (`gro_cells`, the veth's backlog), which the fast path overtakes.
//!
//! A flow changes to the kernel path at once: the programs have delivered its earlier packets. It returns only after a
//! pause, when the kernel has delivered all of them. Flows with the same element change together. CPUs that change an
//! element at the same time can lose one change.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use overlay_common::{
    Reason,
    maps::{self, Flow, Underlay, flags},
    wire::{ETH_LEN, IPV4_LEN},
};

use super::{Load, Packet, Size, inner};
use crate::maps::OVL_FLOWS;

/// Refuses a packet of a TCP flow whose segments the NIC does not merge: the VXLAN device does (`gro_cells_receive` in
/// net/core/gro_cells.c), and a container then receives few large packets. Without it the kernel would be faster than
/// the programs (`docs/adr/0022-segments-without-gro.md`). Called early, because a flow pays for each of its segments.
#[inline(always)]
pub(crate) fn check_segments(packet: Packet, size: Size, underlay: &Underlay) -> Result<(), Reason> {
    if underlay.flags & flags::SEGMENTS as u16 == 0 || !inner::is_tcp(packet) {
        return Ok(());
    }
    let Some((flow, now)) = flow(packet, 1) else { return Ok(()) };
    if flow.takes_kernel_path(now) {
        flow.jiffies = now;
        return Err(Reason::Segments);
    }
    if size.packets > 1 {
        if flow.packets != 0 {
            flow.packets = 0;
        }
    } else if size.bytes >= Flow::LARGE {
        flow.packets = if flow.jiffies == now { flow.packets + 1 } else { 1 };
        flow.jiffies = now;
    }
    Ok(())
}

/// Refuses a super-packet that is not TCP, and the packets behind it. No helper clears the tunnel GSO bits: UDP would
/// segment it as a tunnel packet (`__udp_gso_segment` in `net/ipv4/udp_offload.c`); TCP accepts it.
#[inline(always)]
pub(crate) fn check_super_packet(packet: Packet, is_super: bool) -> Result<(), Reason> {
    let (flow, now) = flow(packet, 0).ok_or(Reason::Gso)?;
    if is_super {
        flow.packets = Flow::MANY;
    } else if !flow.takes_kernel_path(now) {
        return Ok(());
    }
    flow.jiffies = now;
    Err(Reason::Gso)
}

/// The element of a packet's outer UDP source port, which the sender derives from the inner flow; and the tick. TCP has
/// the odd elements.
#[inline(always)]
fn flow(packet: Packet, is_tcp: u32) -> Option<(&'static mut Flow, u32)> {
    let source: u16 = packet.load(ETH_LEN + IPV4_LEN)?;
    let index = u32::from(u16::from_be(source)) * 2 % maps::FLOWS.entries + is_tcp;
    // SAFETY: the element stays valid for the whole program, other CPUs change it as whole words; the helper has no
    // arguments.
    OVL_FLOWS.get_ptr_mut(index).map(|flow| unsafe { (&mut *flow, bpf_jiffies64() as u32) })
}
