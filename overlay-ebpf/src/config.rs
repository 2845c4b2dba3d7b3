//! Constants that the loader sets before the programs are verified. The verifier removes branches that are unreachable
//! with these values.

/// 1 where the kernel can decapsulate IPv6 with `bpf_skb_adjust_room` (`BPF_F_ADJ_ROOM_DECAP_L3_IPV6`, Linux 6.3).
#[unsafe(no_mangle)]
static OVL_DECAP_IPV6: u32 = 1;

/// For tests: if not 0, forwarding fails after the packet has been modified.
#[unsafe(no_mangle)]
static OVL_FAULT: u32 = 0;

/// The network namespace that this instance of the programs runs in, as `PortKey::netns_id`.
#[unsafe(no_mangle)]
static OVL_NETNS_ID: u32 = 0;

/// Interface index of the end of the cross-netns veth (shim) in that namespace; 0: the NIC is in the same namespace.
#[unsafe(no_mangle)]
static OVL_SHIM: u32 = 0;

/// The network that the shim serves.
#[unsafe(no_mangle)]
static OVL_VNI: u32 = 0;

/// Ticks of `bpf_jiffies64` between two samples of one reason on one CPU.
#[unsafe(no_mangle)]
static OVL_INTERVAL: u32 = 100;

/// Ticks between two samples.
#[inline(always)]
pub(crate) fn sample_interval() -> u64 {
    // SAFETY: a static of this object; volatile because the loader, not this code, sets it.
    unsafe { core::ptr::read_volatile(&raw const OVL_INTERVAL) }.into()
}

/// Whether inner IPv6 can be decapsulated by TC.
#[inline(always)]
pub(crate) fn decap_ipv6() -> bool {
    // SAFETY: a static of this object; volatile because the loader, not this code, sets it.
    unsafe { core::ptr::read_volatile(&raw const OVL_DECAP_IPV6) != 0 }
}

/// Whether forwarding fails after the packet has been modified, for tests.
#[inline(always)]
pub(crate) fn fault() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const OVL_FAULT) != 0 }
}

/// This instance's network namespace.
#[inline(always)]
pub(crate) fn netns_id() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const OVL_NETNS_ID) }
}

/// The near end of the shim to the NIC's namespace, or 0.
#[inline(always)]
pub(crate) fn shim() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const OVL_SHIM) }
}

/// The network of the shim that this instance serves.
#[inline(always)]
pub(crate) fn vni() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const OVL_VNI) }
}

/// Ticks of `bpf_jiffies64` for which a proof is valid.
#[cfg(feature = "proof")]
#[unsafe(no_mangle)]
static OVL_VALIDITY: u32 = 2500;

/// Secret factors of the keys of proofs, odd.
#[cfg(feature = "proof")]
#[unsafe(no_mangle)]
static OVL_SECRET: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

/// Ticks for which a proof is valid.
#[cfg(feature = "proof")]
#[inline(always)]
pub(crate) fn validity() -> u64 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const OVL_VALIDITY) }.into()
}

/// Secret factors of the keys of proofs.
#[cfg(feature = "proof")]
#[inline(always)]
pub(crate) fn secret() -> [u64; 2] {
    let secret = (&raw const OVL_SECRET).cast::<u64>();
    // SAFETY: as above; both elements are in the array.
    unsafe { [secret.read_volatile(), secret.add(1).read_volatile()] }
}
