//! FDB entries before they are decoded.

use super::*;

/// The port of the container that sends.
const PORT: u32 = 12;
const VXLAN: u32 = 11;
/// `NUD_REACHABLE`: learned.
pub(crate) const REACHABLE: u16 = 2;
/// `NTF_SELF`.
pub(crate) const SELF: u8 = 2;

/// An FDB entry as the kernel reports it, after the netlink header.
pub(crate) fn message(ifindex: u32, mac: MacAddr, state: u16, flags: u8) -> Vec<u8> {
    let family = [libc::AF_BRIDGE.to_ne_bytes()[0], 0, 0, 0];
    let header = [&family[..], &ifindex.to_ne_bytes(), &state.to_ne_bytes(), &[flags, 0]].concat();
    let lladdr = [&10_u16.to_ne_bytes()[..], &2_u16.to_ne_bytes(), &mac.0, &[0; 2]].concat();
    [header, lladdr].concat()
}

fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([6, 0, a, b, c, d])
}

#[test]
fn learned_entry_is_told_from_others() {
    let found = |flags| Learned { ifindex: PORT, mac: mac(1), own: flags == SELF };
    for flags in [0, SELF] {
        let entry = |state| learned(&message(PORT, mac(1), state, flags));
        // `NUD_REACHABLE`, `NUD_STALE`.
        assert_eq!([REACHABLE, 4].map(entry), [Some(found(flags)); 2]);
        // `NUD_NOARP`, alone and with `NUD_REACHABLE`; `NUD_PERMANENT`.
        assert_eq!([0x40, 0x42, 0x80].map(entry), [None; 3]);
    }
    let bytes = message(PORT, mac(1), REACHABLE, 0);
    assert_eq!(learned(&[&[2][..], &bytes[1..]].concat()), None, "an IPv4 neighbour");
    assert!((0..bytes.len() - 2).all(|length| learned(&bytes[..length]).is_none()), "truncated");
}

/// A container sends with 100,000 source addresses, among them that of another container.
#[test]
fn flood_of_learned_entries_is_not_kept() {
    let important = HashSet::from([mac(70_000)]);
    let mut found = BoundedFdb::new(&important);
    let frames = (0..100_000).map(|number| message(PORT, mac(number), REACHABLE, 0));
    let snooped = (0..100_000).map(|number| message(VXLAN, mac(200_000 + number), REACHABLE, SELF));
    let fixed = [message(VXLAN, mac(90_000), 0x80, SELF), message(PORT, mac(300_000), 0x80, 0)];
    frames.chain(snooped).chain(fixed).for_each(|body| found.add(28, &body));
    assert_eq!(found.entries.len(), 2 * BoundedFdb::LEARNED + 3);
    let places = |mac: MacAddr| -> Vec<(u32, bool)> {
        found.entries.iter().filter(|entry| entry.mac == mac).map(|entry| (entry.ifindex, entry.own)).collect()
    };
    assert_eq!(places(mac(70_000)), [(PORT, false)]);
    assert_eq!((places(mac(90_000)), places(mac(300_000))), (vec![(VXLAN, true)], vec![(PORT, false)]));
}

#[test]
fn small_table_is_kept_completely() {
    let important = HashSet::new();
    let mut found = BoundedFdb::new(&important);
    let entries = (0..BoundedFdb::LEARNED as u32).map(|number| message(PORT, mac(number), REACHABLE, 0));
    entries.chain([message(VXLAN, mac(1), 0x80, SELF)]).for_each(|body| found.add(28, &body));
    assert_eq!(found.entries.len(), BoundedFdb::LEARNED + 1);
}
