//! Packets: byte access, header parsing, switching, encapsulation and redirects.

pub(crate) mod antispoof;
pub(crate) mod ecn;
pub(crate) mod encap;
pub(crate) mod flows;
pub(crate) mod inner;
pub(crate) mod outer;
pub(crate) mod redirect;
pub(crate) mod switch;

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::{bpf_skb_load_bytes, bpf_skb_pull_data, generated::bpf_xdp_get_buff_len},
    programs::{TcContext, XdpContext},
};
use bytemuck::AnyBitPattern;

/// `__sk_buff::pkt_type` of a packet for this host (`include/uapi/linux/if_packet.h`).
pub(crate) const PACKET_HOST: u32 = 0;
/// `__sk_buff::pkt_type` of a packet for another host.
pub(crate) const PACKET_OTHERHOST: u32 = 3;

/// The bytes of a packet that a program can access directly.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    data: usize,
    end: usize,
}

impl Packet {
    /// A pointer to a `T` at `offset` bytes into the packet; `None` if the packet ends before the end of the `T`.
    ///
    /// The pointer is valid for reads and writes until a helper changes the packet. `T` must be plain data; it may be
    /// read at any address, because BPF loads need no alignment on the architectures with a JIT.
    #[inline(always)]
    pub(crate) fn at<T>(self, offset: usize) -> Option<*mut T> {
        if self.data + offset + size_of::<T>() > self.end { None } else { Some((self.data + offset) as *mut T) }
    }
}

/// Bytes from which plain data is read at any offset.
pub(crate) trait Load {
    /// The `T` at `offset`; `None` if the bytes end before the end of the `T`. A number is read with one load.
    fn load<T: AnyBitPattern>(&self, offset: usize) -> Option<T>;
}

impl Load for Packet {
    #[inline(always)]
    fn load<T: AnyBitPattern>(&self, offset: usize) -> Option<T> {
        // SAFETY: bounds were checked by `at`, and any bytes are a T.
        self.at(offset).map(|value| unsafe { *value })
    }
}

/// An skb, whose bytes may be linear or not.
#[derive(Clone, Copy)]
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

impl Load for Skb {
    #[inline(always)]
    fn load<T: AnyBitPattern>(&self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the context pointer is valid, and the length is the size of the value.
        let failed = unsafe {
            bpf_skb_load_bytes(self.0.cast(), offset as u32, value.as_mut_ptr().cast(), size_of::<T>() as u32)
        };
        // SAFETY: the helper has written all of it, and any bytes are a T.
        if failed == 0 { Some(unsafe { value.assume_init() }) } else { None }
    }
}

/// The size of a packet, as counted.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Length from the Ethernet header on, in bytes.
    pub(crate) bytes: u32,
    /// Packets on the wire: the segments of a GSO super-packet. As wide as the counters, to avoid a conversion for
    /// each.
    pub(crate) packets: u64,
}

#[inline(always)]
pub(crate) fn tc_size(ctx: &TcContext) -> Size {
    // SAFETY: the context pointer is valid for the whole program.
    let skb = unsafe { &*ctx.skb.skb };
    Size { bytes: skb.len, packets: if skb.gso_segs == 0 { 1 } else { skb.gso_segs.into() } }
}

#[inline(always)]
pub(crate) fn xdp_size(ctx: &XdpContext) -> Size {
    // SAFETY: the context pointer is valid for the whole program.
    let bytes = unsafe { bpf_xdp_get_buff_len(ctx.ctx.cast::<xdp_md>()) } as u32;
    Size { bytes, packets: 1 }
}

/// The linear bytes of the skb.
#[inline(always)]
pub(crate) fn tc(ctx: &TcContext) -> Packet {
    Packet { data: ctx.data(), end: ctx.data_end() }
}

/// Like [`tc`], after making the first `want` bytes (or all, if there are fewer) linear.
#[inline(always)]
pub(crate) fn tc_linear(ctx: &TcContext, size: Size, want: u32) -> Packet {
    let linear = (ctx.data_end() - ctx.data()) as u32;
    if linear < want && linear < size.bytes {
        let want = if size.bytes < want { size.bytes } else { want };
        // SAFETY: the context pointer is valid; every packet pointer is derived again below. If the helper
        // fails, the packet is unmodified and bounds checks fail.
        unsafe { bpf_skb_pull_data(ctx.skb.skb, want) };
    }
    tc(ctx)
}

#[inline(always)]
pub(crate) fn xdp(ctx: &XdpContext) -> Packet {
    Packet { data: ctx.data(), end: ctx.data_end() }
}
