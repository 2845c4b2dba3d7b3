//! Pair proof on transmit: asks the kernel with a packet, compares what it sends, judges. See `overlay_common::proof`.
//!
//! A packet's way from TC ingress of the port to TC egress of the NIC is one synchronous call on one CPU, so each CPU
//! has one slot, and has all answers when it asks again.

use core::{hint::black_box, mem::MaybeUninit};

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{Array, PerCpuArray},
    helpers::{
        bpf_get_hash_recalc, bpf_skb_load_bytes,
        generated::{bpf_get_smp_processor_id, bpf_jiffies64},
    },
    macros::btf_map,
};
use overlay_common::{
    Reason, ecn,
    encap::{EthWords, PerPacket, encapsulate},
    flow,
    maps::{Port, Vtep},
    proof::{self, Asked, Claim, Cookie, Difference, GENERATIONS, HEAD, Outcome, Proof, comparable},
    wire::{ETH_P_IPV6, OVERHEAD},
};

use crate::{atomic, config};

#[btf_map]
static OVL_PROOFS: Array<Proof, { proof::PROOFS.entries as usize }> = Array::new();

#[btf_map]
static OVL_ASKED: Array<Asked, { proof::ASKED.entries as usize }> = Array::new();

#[btf_map]
static OVL_OUTCOMES: PerCpuArray<u64, { proof::OUTCOMES.entries as usize }> = PerCpuArray::new();

#[btf_map]
static OVL_WINDOW: Array<u64, 1> = Array::new();

/// What a question needs besides the skb.
struct Question<'a> {
    key: u64,
    proof: *mut Proof,
    vtep: &'a Vtep,
    port: &'a Port,
    eth: EthWords,
    inner_sum: Option<u64>,
    bytes: u32,
    tos: u8,
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_jiffies64() }
}

/// Returns an error if a packet must take the kernel path: its claim is not proven, or the packet asks.
#[inline(always)]
pub(crate) fn require(
    skb: &__sk_buff,
    eth: EthWords,
    port: &Port,
    (index, vtep): (u32, &Vtep),
    (bytes, tos): (u32, u8),
    inner_sum: Option<u64>,
    epoch: u64,
) -> Result<(), Reason> {
    let class = proof::class(skb.protocol as u16 == ETH_P_IPV6.to_be(), skb.gso_size != 0, tos >> 2);
    let claim = Claim { eth, ifindex: skb.ifindex, netns_id: config::netns_id(), port, index, vtep, epoch, class };
    let key = claim.key(config::secret());
    let proof = OVL_PROOFS.get_ptr_mut(proof::index(key)).ok_or(Reason::Unproven)?;
    // SAFETY: the map's value is valid; `sealed` is one word, and a stale `ask_after` only delays or repeats a question.
    let (sealed, ask_after) = unsafe { ((&raw const (*proof).sealed).read_volatile(), &raw const (*proof).ask_after) };
    let now = now();
    let left = Proof { sealed, ask_after: 0 }.left(key, now);
    let half = config::validity() / 2;
    if proof::is_fresh(left, half) {
        return Ok(());
    }
    // SAFETY: as above.
    if left < half && now < unsafe { ask_after.read_volatile() } {
        return Ok(());
    }
    let question = Question { key, proof, vtep, port, eth, inner_sum, bytes, tos };
    if ask((&raw const *skb).cast_mut(), &question) { Ok(()) } else { Err(Reason::Unproven) }
}

/// Judges the last question of this CPU, and asks. Returns whether the packet may take the fast path instead.
#[inline(never)]
fn ask(skb: *mut __sk_buff, question: &Question<'_>) -> bool {
    // SAFETY: the context pointer is valid for the whole program.
    unsafe { (*skb).tc_index = 0 };
    let now = now();
    // SAFETY: the helper has no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(slot) = OVL_ASKED.get_ptr_mut(cpu) else { return false };
    // SAFETY: this CPU's slot. Programs of one CPU do not preempt each other, and the exits only count in it.
    let slot = unsafe { &mut *slot };
    judge(slot, now);
    // SAFETY: the map's value is valid.
    let proof = unsafe { &mut *question.proof };
    let half = config::validity() / 2;
    let left = proof.left(question.key, now);
    // The judgement may have been about this claim.
    if proof::is_fresh(left, half) {
        return true;
    }
    let is_proven = proof::is_valid(left, half);
    if now < proof.ask_after {
        return is_proven;
    }
    let is_open = OVL_WINDOW.get(0).is_some_and(|window| *window != 0);
    // A claim without a proof is asked about on each CPU: the next packet there has the answer.
    if is_proven || !is_open {
        proof.ask_after = now + 1;
    }
    if !is_open {
        return is_proven;
    }
    // SAFETY: the context pointer is valid for the whole program.
    let fields = unsafe { &*skb };
    let Question { vtep, port, .. } = question;
    slot.key = question.key;
    slot.time = now;
    slot.bridged = 0;
    slot.sent = 0;
    slot.frame = [0; HEAD / 8];
    slot.seen = [0; 8];
    slot.port = fields.ifindex;
    slot.netns_id = config::netns_id();
    slot.device = vtep.ifindex;
    slot.len = question.bytes;
    slot.gso_size = fields.gso_size;
    slot.mark = fields.mark;
    slot.priority = fields.priority;
    slot.difference = 0;
    if !load_head(skb, 0, question.bytes, &raw mut slot.frame) {
        return is_proven;
    }
    // SAFETY: the context pointer is valid.
    let hash = unsafe { bpf_get_hash_recalc(skb) };
    slot.outer = encapsulate(
        vtep,
        question.eth,
        PerPacket {
            inner_len: question.bytes,
            ecn: ecn::encapsulate(question.tos),
            id: 0,
            udp_src: flow::source_port(hash, port.udp_src_first, port.udp_src_span),
            inner_sum: question.inner_sum,
            vni: port.vni,
        },
    );
    slot.generation = if slot.generation >= GENERATIONS { 1 } else { slot.generation + 1 };
    let cookie = Cookie::new(cpu, slot.generation);
    slot.cookie = cookie.slot();
    // SAFETY: as above.
    unsafe { (*skb).tc_index = cookie.get() };
    count(Outcome::Asked);
    false
}

/// Ends the question of a slot.
#[inline(always)]
fn judge(slot: &mut Asked, now: u64) {
    if slot.cookie == 0 {
        return;
    }
    slot.cookie = 0;
    let outcome = if slot.difference != 0 {
        Outcome::Differs
    } else if slot.bridged == 0 || slot.sent == 0 {
        Outcome::Unanswered
    } else if slot.bridged != 1 || slot.sent != 1 {
        Outcome::Several
    } else {
        Outcome::Proven
    };
    count(outcome);
    let Some(proof) = OVL_PROOFS.get_ptr_mut(proof::index(slot.key)) else { return };
    // SAFETY: the map's value is valid.
    let proof = unsafe { &mut *proof };
    let half = config::validity() / 2;
    if matches!(outcome, Outcome::Proven) {
        // The slot may be old: it neither shortens a proof that another CPU has renewed, nor replaces another claim's by
        // one that has ended.
        let new = Proof::new(slot.key, slot.time, half);
        let (left, found) = (new.left(slot.key, now), proof.left(slot.key, now));
        if proof::is_valid(left, half) && !(proof::is_valid(found, half) && found > left) {
            proof.sealed = new.sealed;
        }
    } else {
        // A time in the past: the claim is not proven any more.
        proof.sealed = slot.key;
        proof.ask_after = now + config::validity() / 8;
    }
}

/// A packet with a cookie, which is cleared, and the slot of its CPU.
#[inline(always)]
fn asked(skb: *mut __sk_buff) -> Option<(&'static mut __sk_buff, Cookie, &'static mut Asked)> {
    // SAFETY: the context pointer is valid for the whole program.
    let fields = unsafe { &mut *skb };
    let cookie = Cookie::read(fields.tc_index)?;
    fields.tc_index = 0;
    let slot = OVL_ASKED.get_ptr_mut(cookie.cpu())?;
    // SAFETY: the map's value is valid.
    Some((fields, cookie, unsafe { &mut *slot }))
}

/// `ovl_vxlan_out`: the frame as it leaves the bridge.
#[inline(always)]
pub(crate) fn at_vxlan(skb: *mut __sk_buff) {
    let Some((fields, cookie, slot)) = asked(skb) else { return };
    if cookie.is_bridged()
        || slot.cookie != cookie.slot()
        || slot.port != fields.ingress_ifindex
        || slot.netns_id != config::netns_id()
    {
        return count(Outcome::Forged);
    }
    // SAFETY: the map's value is valid, and all accesses by exits are atomic.
    unsafe { atomic::fetch_add(&raw mut slot.bridged, 1) };
    let difference = if fields.len != slot.len {
        Difference::Length as u32
    } else if fields.gso_size != slot.gso_size {
        Difference::Segments as u32
    } else if fields.mark != slot.mark {
        Difference::Mark as u32
    } else if fields.priority != slot.priority {
        Difference::Priority as u32
    } else if !has_head(skb, 0, slot) {
        Difference::Frame as u32
    } else {
        fields.tc_index = cookie.bridged().get();
        return;
    };
    slot.difference = difference;
}

/// `ovl_nic_out`: the packet as it leaves the host.
#[inline(always)]
pub(crate) fn at_nic(skb: *mut __sk_buff) {
    let Some((fields, cookie, slot)) = asked(skb) else { return };
    // Encapsulation clears the ingress device (`skb_scrub_packet` in net/core/skbuff.c).
    if !cookie.is_bridged() || slot.cookie != cookie.slot() || fields.ingress_ifindex != 0 {
        return count(Outcome::Forged);
    }
    let mut seen = [0_u64; 7];
    // SAFETY: the context pointer is valid; the destination has more than OVERHEAD bytes.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), 0, seen.as_mut_ptr().cast(), OVERHEAD as u32) } != 0;
    // Another tunnel clears the ingress device too, and what is in it may have set the cookie.
    if failed || !is_same(&seen, &slot.outer, proof::tunnel) {
        return count(Outcome::Forged);
    }
    // SAFETY: the map's value is valid, and all accesses by exits are atomic.
    unsafe { atomic::fetch_add(&raw mut slot.sent, 1) };
    let difference = if fields.ifindex != slot.device {
        Difference::Device as u32
    } else if fields.len != slot.len + OVERHEAD as u32 {
        Difference::OuterLength as u32
    } else if fields.gso_size != slot.gso_size {
        Difference::OuterSegments as u32
    } else if !is_same(&seen, &slot.outer, comparable) || !is_same_checksum(&seen, slot) {
        slot.seen[..7].copy_from_slice(&seen);
        Difference::Outer as u32
    } else if !has_head(skb, OVERHEAD as u32, slot) {
        Difference::Inner as u32
    } else {
        return;
    };
    slot.difference = difference;
}

/// Removes a cookie that this packet must not carry: containers and other programs write `tc_index` too.
#[inline(always)]
pub(crate) fn clear_cookie(skb: *mut __sk_buff, reason: Reason) {
    if !matches!(reason, Reason::Unproven) {
        // SAFETY: the context pointer is valid for the whole program.
        unsafe { (*skb).tc_index = 0 };
    }
}

/// Whether the selected bits of the kernel's outer headers are those of the programs.
#[inline(always)]
fn is_same(seen: &[u64; 7], outer: &[u64; 8], select: impl Fn(u64, usize) -> u64) -> bool {
    let mut difference = 0;
    let mut at = 0;
    while at < 7 {
        difference |= select(seen[at] ^ outer[at], at);
        at += 1;
    }
    difference == 0
}

/// Whether both packets have a UDP checksum, or none. Its value is the device's to complete. No program can give a
/// super-packet's segments one.
#[inline(always)]
fn is_same_checksum(seen: &[u64; 7], slot: &Asked) -> bool {
    let has_checksum = |word: u64| word != comparable(word, 5);
    slot.gso_size != 0 || has_checksum(seen[5]) == has_checksum(slot.outer[5])
}

/// Whether the frame at `offset` begins with the head in the slot.
#[inline(always)]
fn has_head(skb: *mut __sk_buff, offset: u32, slot: &Asked) -> bool {
    let mut head = MaybeUninit::<[u64; HEAD / 8]>::zeroed();
    if !load_head(skb, offset, slot.len, head.as_mut_ptr()) {
        return false;
    }
    // SAFETY: zeroed, and any bytes are numbers.
    let head = unsafe { head.assume_init() };
    let mut difference = 0;
    let mut at = 0;
    while at < HEAD / 8 {
        difference |= head[at] ^ slot.frame[at];
        at += 1;
    }
    difference == 0
}

/// Copies the first [`HEAD`] bytes of a frame of `len` bytes, or all; false if the packet ends before them.
#[inline(always)]
fn load_head(skb: *mut __sk_buff, offset: u32, len: u32, to: *mut [u64; HEAD / 8]) -> bool {
    let most = HEAD as u32;
    // In a form that the verifier of Linux 6.1 can bound; black_box prevents an optimisation.
    let want = black_box(if len < most { len } else { most });
    let want = (want.wrapping_sub(1) & (most - 1)) + 1;
    // SAFETY: the context pointer is valid, and the destination has HEAD bytes.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, to.cast(), want) == 0 }
}

#[inline(always)]
fn count(outcome: Outcome) {
    if let Some(number) = OVL_OUTCOMES.get_ptr_mut(outcome as u32) {
        // SAFETY: this CPU's number.
        unsafe { *number += 1 };
    }
}
