//! TCP segments that the NIC does not merge: where many arrive, their flow takes the kernel path, whose VXLAN device
//! merges them (`gro_cells_receive` in net/core/gro_cells.c). Containers receive few large packets that way; without
//! it the kernel would be faster than the programs (`docs/adr/0022-segments-without-gro.md`).

use aya_ebpf::helpers::generated::bpf_jiffies64;
use overlay_common::{
    Reason,
    maps::{self, Segments, Underlay, flags},
};

use super::{Packet, Size, inner, outer::Outer};
use crate::maps::OVL_SEGMENTS;

/// Refuses a TCP packet of a flow whose segments the kernel merges.
///
/// A flow changes to the kernel path at once: its packets are behind those that the programs have delivered. It
/// returns only after a pause, when the kernel has delivered all of them. Flows with the same element change together.
/// CPUs that change an element at the same time lose a count.
#[inline(always)]
pub(crate) fn check(packet: Packet, size: Size, outer: &Outer, underlay: &Underlay) -> Result<(), Reason> {
    if underlay.flags & flags::SEGMENTS as u16 == 0 || !inner::is_tcp(packet) {
        return Ok(());
    }
    let index = u32::from(outer.source_port()) % maps::SEGMENTS.entries;
    let Some(segments) = OVL_SEGMENTS.get_ptr_mut(index) else { return Ok(()) };
    // SAFETY: the element stays valid for the whole program, other CPUs change it as whole words; the helper has no
    // arguments.
    let (segments, now) = unsafe { (&mut *segments, bpf_jiffies64()) };
    if segments.count >= Segments::MANY && now < segments.jiffies.wrapping_add(Segments::PAUSE) {
        segments.jiffies = now;
        return Err(Reason::Segments);
    }
    if size.packets > 1 {
        if segments.count != 0 {
            segments.count = 0;
        }
    } else if size.bytes >= Segments::LARGE {
        segments.count = if segments.jiffies == now { segments.count + 1 } else { 1 };
        segments.jiffies = now;
    }
    Ok(())
}
