//! Strict networks: what their ports would leave to the kernel, and what the NIC would, is looked at once more, because the
//! kernel does not ask who sends. Never on the way of a packet that is forwarded, except for [`check_inner`].

use core::mem::{MaybeUninit, zeroed};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup as FibLookup},
    helpers::{bpf_skb_load_bytes, generated::bpf_fib_lookup},
};
use overlay_common::{
    MacAddr, Reason,
    maps::{FdbEntry, FdbKey, Network, Port, PortKey, Sender, SenderKey, Underlay, flags},
    wire::{
        ENCAP_LEN, ETH_LEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IPV4, IPPROTO_UDP, OVERHEAD, UDP_LEN, VXLAN_LEN,
    },
};

use crate::{
    config,
    maps::{OVL_FDB, OVL_NETWORKS, OVL_PORTS, OVL_SENDERS, OVL_UNDERLAY},
    packet::{PACKET_OTHERHOST, Packet},
};

/// Offset of the sender's MAC in an ARP packet for Ethernet and IPv4 (RFC 826); its address comes next.
const ARP_SENDER: usize = 8;
/// `AF_INET`.
const AF_INET: u8 = 2;
/// The number of a VLAN in a tag.
const VLAN_ID: u32 = 0x0fff;

/// An inner frame in a strict network: whether it may come from `sender`.
///
/// # Errors
/// The reason to drop it. What is not there is left to those who read on; of a frame that ends early, bridges learn the MAC.
#[inline(always)]
pub(crate) fn check_inner(packet: Packet, vni: u32, sender: &Sender) -> Result<(), Reason> {
    let Some(claim) = claim(packet) else { return Ok(()) };
    judge(claim, vni, sender)
}

/// Who an inner frame says that it is from.
struct Claim {
    mac: [u8; 6],
    ethertype: u16,
    /// MAC and address of the sender in ARP; of IPv4 only the address. `None` for other protocols, and where the frame
    /// ends before.
    l3: Option<([u8; 6], [u8; 4])>,
}

#[inline(always)]
fn claim(packet: Packet) -> Option<Claim> {
    let mac: *const [u8; 6] = packet.at(OVERHEAD + 6)?;
    let ethertype: *const [u8; 2] = packet.at(ENCAP_LEN - 2)?;
    // SAFETY: bounds were checked by `at`, here and below.
    let (mac, ethertype) = unsafe { (*mac, u16::from_be_bytes(*ethertype)) };
    let l3 = match ethertype {
        // SAFETY: as above.
        ETH_P_IPV4 => packet.at::<[u8; 4]>(ENCAP_LEN + 12).map(|source| (mac, unsafe { *source })),
        // SAFETY: as above.
        ETH_P_ARP => packet.at::<[u8; 10]>(ENCAP_LEN + ARP_SENDER).map(|sender| arp_sender(unsafe { *sender })),
        _ => None,
    };
    Some(Claim { mac, ethertype, l3 })
}

/// MAC and address of the sender in an ARP packet for Ethernet and IPv4.
#[inline(always)]
fn arp_sender([a, b, c, d, e, f, w, x, y, z]: [u8; 10]) -> ([u8; 6], [u8; 4]) {
    ([a, b, c, d, e, f], [w, x, y, z])
}

#[inline(always)]
fn judge(claim: Claim, vni: u32, sender: &Sender) -> Result<(), Reason> {
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let entry = match unsafe { OVL_FDB.get(FdbKey::new(vni, MacAddr(claim.mac))) } {
        Some(entry) if entry.kind == FdbEntry::REMOTE && entry.target == sender.vtep => *entry,
        _ => return Err(Reason::StrictVtep),
    };
    let known = entry.remote_ip();
    match (claim.ethertype, claim.l3) {
        (ETH_P_8021Q | ETH_P_8021AD, _) => Err(Reason::StrictVlan),
        (ETH_P_ARP, Some((mac, ip))) if mac != claim.mac || !may_say(ip, known) => Err(Reason::StrictArp),
        (ETH_P_IPV4, Some((_, ip))) if known != [0; 4] && ip != known => Err(Reason::StrictInnerIp),
        _ => Ok(()),
    }
}

/// Whether ARP may name `ip` as its sender's: its own, or none, as somebody does who asks whether an address is free
/// (RFC 5227).
#[inline(always)]
fn may_say(ip: [u8; 4], known: [u8; 4]) -> bool {
    ip == known || ip == [0; 4] || known == [0; 4]
}

/// What a port leaves to the kernel for `reason`: the same reason, or that to drop it.
#[inline(always)]
pub(crate) fn at_port(skb: *mut __sk_buff, reason: Reason) -> Reason {
    // SAFETY: the context pointer is valid for the whole program.
    let key = PortKey { site: config::site(), ifindex: unsafe { (*skb).ifindex } };
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let Some(port) = (unsafe { OVL_PORTS.get(key) }) else { return reason };
    let is_strict = port.flags & flags::STRICT != 0;
    if is_strict && matches!(reason, Reason::Vlan) {
        return Reason::StrictVlan;
    }
    // SAFETY: as above.
    let refused = match u16::from_be(unsafe { (*skb).protocol } as u16) {
        ETH_P_ARP if is_strict => lies(skb, port),
        ETH_P_IPV4 => injects(skb, port, is_strict),
        // A port that is not strict may send tags, but not hide VXLAN behind them.
        ETH_P_8021Q | ETH_P_8021AD if is_strict_host() && has_second_tag_of_none(skb) => Some(Reason::StrictVlan),
        _ => None,
    };
    refused.unwrap_or(reason)
}

/// ARP that speaks for somebody else.
#[inline(always)]
fn lies(skb: *mut __sk_buff, port: &Port) -> Option<Reason> {
    let (mac, ip) = arp_sender(load(skb, ETH_LEN + ARP_SENDER)?);
    if mac != port.mac || !may_say(ip, port.ip) { Some(Reason::StrictArp) } else { None }
}

/// UDP for a VXLAN port that the kernel would take or route: whoever is at the other end, this host's own VXLAN device
/// perhaps, may hold it for a VTEP's. Within the network it is traffic like any other. From a port that is not strict only
/// what is for a strict network is refused: of one that is not here no other host takes anything from this one.
#[inline(always)]
fn injects(skb: *mut __sk_buff, port: &Port, is_strict: bool) -> Option<Reason> {
    let underlay = OVL_UNDERLAY.get(0)?;
    if !is_strict && underlay.flags & flags::STRICT as u16 == 0 {
        return None;
    }
    let udp = Udp::load(skb)?;
    if !underlay.has_port(udp.port) {
        return None;
    }
    let key = FdbKey::from_word(port.vni, load(skb, 0)?);
    // SAFETY: as for the ports.
    let inside = !MacAddr(key.mac).is_group() && unsafe { OVL_FDB.get(key) }.is_some();
    let refused = !inside
        && match udp.network(skb) {
            _ if is_strict => true,
            Some(network) => network.flags & flags::STRICT != 0,
            None => udp.has_more && udp.vni(skb).is_none(),
        };
    if refused { Some(Reason::StrictVxlan) } else { None }
}

/// An IPv4 packet with a UDP header: no fragment, or the first one. A datagram without its first is none.
struct Udp {
    src: [u8; 4],
    dst: [u8; 4],
    has_more: bool,
    /// Destination port.
    port: u16,
    /// Offset of what is behind the UDP header, in bytes.
    payload: usize,
    /// Offset of the end, by the IPv4 header: what the kernel cuts off says nothing about what it takes.
    end: usize,
}

impl Udp {
    #[inline(always)]
    fn load(skb: *mut __sk_buff) -> Option<Self> {
        let ip: [u8; 20] = load(skb, ETH_LEN)?;
        let fragment = u16::from_be_bytes([ip[6], ip[7]]);
        if ip[0] >> 4 != 4 || ip[9] != IPPROTO_UDP || fragment & 0x1fff != 0 {
            return None;
        }
        let has_more = fragment & 0x2000 != 0;
        let header_len = usize::from(ip[0] & 15) * 4;
        let len = usize::from(u16::from_be_bytes([ip[2], ip[3]])).checked_sub(header_len)?;
        // Of a fragment that others follow the kernel takes whole units of eight bytes (`ip_frag_queue`).
        let len = if has_more { len & !7 } else { len };
        let udp = ETH_LEN + header_len;
        let end = udp + len;
        let port: [u8; 2] = load_before(end, skb, udp + 2)?;
        Some(Self {
            src: [ip[12], ip[13], ip[14], ip[15]],
            dst: [ip[16], ip[17], ip[18], ip[19]],
            has_more,
            port: u16::from_be_bytes(port),
            payload: udp + UDP_LEN,
            end,
        })
    }

    /// Reads plain data of the datagram; `None` where it ends before.
    #[inline(always)]
    fn load_at<T: Copy>(&self, skb: *mut __sk_buff, offset: usize) -> Option<T> {
        load_before(self.end, skb, offset)
    }

    /// The VNI of a VXLAN packet, if it is in this fragment.
    #[inline(always)]
    fn vni(&self, skb: *mut __sk_buff) -> Option<u32> {
        self.load_at::<[u8; 4]>(skb, self.payload + 4).map(|word| u32::from_be_bytes(word) >> 8)
    }

    /// The network of a VXLAN packet, if this host is in it.
    #[inline(always)]
    fn network(&self, skb: *mut __sk_buff) -> Option<&'static Network> {
        // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
        unsafe { OVL_NETWORKS.get(self.vni(skb)?) }
    }
}

/// Reasons for which the NIC leaves packets to the kernel that its VXLAN device may get all the same.
const SIDE_WAYS: u64 = 1 << Reason::NotOurAddress as u32
    | 1 << Reason::IpOptions as u32
    | 1 << Reason::Fragment as u32
    | 1 << Reason::Malformed as u32;

/// Whether more has to be done about a packet of the NIC that is refused for `reason` than to count it.
#[inline(always)]
pub(crate) fn concerns_nic(reason: Reason) -> bool {
    SIDE_WAYS >> reason as u32 & 1 != 0 || reason.is_sampled()
}

/// Why a tagged packet on the NIC is refused: the kernel looks behind tags of VLAN 0.
#[inline(never)]
pub(crate) fn tagged(skb: *mut __sk_buff) -> Reason {
    // SAFETY: the context pointer is valid for the whole program.
    let (protocol, vlan, kind) = unsafe { ((*skb).protocol, (*skb).vlan_tci & VLAN_ID, (*skb).pkt_type) };
    match u16::from_be(protocol as u16) {
        _ if vlan != 0 || kind == PACKET_OTHERHOST => Reason::NotVxlan,
        ETH_P_IPV4 => strict_on_nic(skb, Reason::NotVxlan),
        ETH_P_8021Q | ETH_P_8021AD if is_strict_host() && has_second_tag_of_none(skb) => Reason::StrictVlan,
        _ => Reason::NotVxlan,
    }
}

/// Whether the tag that was taken off and the one that is still in the packet are of VLAN 0. No honest packet has two of
/// these, and the kernel takes off as many as there are.
#[inline(always)]
fn has_second_tag_of_none(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context pointer is valid for the whole program.
    let first = unsafe { (*skb).vlan_present != 0 && (*skb).vlan_tci & VLAN_ID == 0 };
    first && load::<[u8; 2]>(skb, ETH_LEN).is_some_and(|tag| u32::from(u16::from_be_bytes(tag)) & VLAN_ID == 0)
}

/// Whether a network of this host is strict.
#[inline(always)]
fn is_strict_host() -> bool {
    OVL_UNDERLAY.get(0).is_some_and(|underlay| underlay.flags & flags::STRICT as u16 != 0)
}

/// What the NIC leaves to the kernel for `reason`: the same reason, or that to drop it.
///
/// The kernel puts fragments together, accepts options, cuts off what trails, takes what is for any address of the host,
/// and looks behind a tag of VLAN 0. Its VXLAN device delivers all that without asking who sends.
#[inline(always)]
pub(crate) fn at_nic(skb: *mut __sk_buff, reason: Reason) -> Reason {
    // SAFETY: the context pointer is valid for the whole program.
    if SIDE_WAYS >> reason as u32 & 1 == 0 || unsafe { (*skb).pkt_type } == PACKET_OTHERHOST {
        return reason;
    }
    strict_on_nic(skb, reason)
}

#[inline(always)]
fn strict_on_nic(skb: *mut __sk_buff, reason: Reason) -> Reason {
    match OVL_UNDERLAY.get(0) {
        Some(underlay) if underlay.flags & flags::STRICT as u16 != 0 => received(skb, underlay).unwrap_or(reason),
        _ => reason,
    }
}

/// The reason to drop what the kernel would take for a packet of a strict network.
#[inline(always)]
fn received(skb: *mut __sk_buff, underlay: &Underlay) -> Option<Reason> {
    let udp = Udp::load(skb)?;
    if !underlay.has_port(udp.port) || (udp.dst != underlay.addr && !is_local(skb, &udp)) {
        return None;
    }
    // A fragment that ends too early hides something; a whole packet that does is nothing to the kernel either.
    let hidden = if udp.has_more { Some(Reason::StrictFragment) } else { None };
    let Some(vni) = udp.vni(skb) else { return hidden };
    // SAFETY: the daemon writes no element that a program may be reading (`overlay-user/src/plan/order.rs`).
    let network = unsafe { OVL_NETWORKS.get(vni) }?;
    if network.flags & flags::STRICT == 0 {
        return None;
    }
    // SAFETY: as above.
    let Some(sender) = (unsafe { OVL_SENDERS.get(SenderKey { vni, addr: udp.src }) }) else {
        return Some(Reason::StrictSender);
    };
    let inner = udp.payload + VXLAN_LEN;
    let Some(mac) = udp.load_at::<[u8; 6]>(skb, inner + 6) else { return hidden };
    let Some(ethertype) = udp.load_at::<[u8; 2]>(skb, inner + 12) else { return hidden };
    let ethertype = u16::from_be_bytes(ethertype);
    let l3 = match ethertype {
        ETH_P_IPV4 => udp.load_at::<[u8; 4]>(skb, inner + ETH_LEN + 12).map(|source| (mac, source)),
        ETH_P_ARP => udp.load_at::<[u8; 10]>(skb, inner + ETH_LEN + ARP_SENDER).map(arp_sender),
        _ => Some((mac, [0; 4])),
    };
    if l3.is_none() && udp.has_more {
        return hidden;
    }
    judge(Claim { mac, ethertype, l3 }, vni, sender).err()
}

/// Whether the kernel keeps a packet for this address, instead of routing it on.
#[inline(always)]
fn is_local(skb: *mut __sk_buff, udp: &Udp) -> bool {
    // Of groups it may be a member, and a limited broadcast it takes from everywhere, with a source or from nobody to
    // nobody (`ip_route_input_slow`); the look-up finds routes alone.
    let is_broadcast = udp.dst == [0xff; 4] || (udp.dst == [0; 4] && udp.src == [0; 4]);
    if is_broadcast || udp.dst[0] >> 4 == 14 {
        return true;
    }
    // SAFETY: all-zero is a value of this plain C structure.
    let mut lookup: FibLookup = unsafe { zeroed() };
    lookup.family = AF_INET;
    lookup.l4_protocol = IPPROTO_UDP;
    // SAFETY: the context pointer is valid for the whole program.
    lookup.ifindex = unsafe { (*skb).ifindex };
    lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(udp.src);
    lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(udp.dst);
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the context pointer is valid, and the parameters are of the size given.
    let found = unsafe { bpf_fib_lookup(skb.cast(), &raw mut lookup, size, 0) };
    found == BPF_FIB_LKUP_RET_NOT_FWDED.into() || found == BPF_FIB_LKUP_RET_FWD_DISABLED.into()
}

/// Like [`load`], of a packet that ends at `end`.
#[inline(always)]
fn load_before<T: Copy>(end: usize, skb: *mut __sk_buff, offset: usize) -> Option<T> {
    if offset + size_of::<T>() > end { None } else { load(skb, offset) }
}

/// Reads plain data at an offset, wherever in the skb it is; `None` where the packet ends before.
#[inline(always)]
fn load<T: Copy>(skb: *mut __sk_buff, offset: usize) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the context pointer is valid, and the value has room for its size.
    let failed =
        unsafe { bpf_skb_load_bytes(skb.cast(), offset as u32, value.as_mut_ptr().cast(), size_of::<T>() as u32) };
    // SAFETY: the helper has written all of it; T is plain data.
    if failed == 0 { Some(unsafe { value.assume_init() }) } else { None }
}
