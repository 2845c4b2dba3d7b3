//! Events of a namespace: which of them matter.

use super::{super::NetnsFacts, *};
use crate::{
    kernel::fdb::tests::{REACHABLE, SELF, message},
    sources::discover::{
        read::{NetnsTables, important},
        watch::Pending,
    },
};

/// Another port, whose address only the bridge knows.
const OTHER: u32 = 13;
const NEW: u16 = 28;
const DEL: u16 = 29;

fn datagram(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = (16 + body.len()) as u32;
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
}

/// After a read of the example, with these additional entries.
fn read(entries: &[FdbEntry]) -> Pending {
    let NetnsFacts { mut links, veth_peers, mut fdb, .. } = sandbox();
    links.push(port(OTHER, "tap0", LinkKind::Other("tun".into())));
    fdb.extend_from_slice(entries);
    let mut pending = Pending::default();
    pending.set_important(important(&NetnsTables { links, veth_peers, fdb, ..NetnsTables::default() }));
    assert!(!pending.is_dirty());
    pending
}

fn flood(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([6, 0, a, b, c, d])
}

#[test]
fn flood_of_source_addresses_is_no_change() {
    let learned = [1, 2].map(|number| entry(OTHER, flood(1 << 20 | number), FdbState::Learned));
    let mut pending = read(&learned);
    for number in 0..100_000 {
        for (ifindex, flags) in [(PORT, 0), (OTHER, 0), (VXLAN, 0), (VXLAN, SELF)] {
            for kind in [NEW, DEL] {
                let news = pending.take(&datagram(kind, &message(ifindex, flood(number), REACHABLE, flags)));
                assert!(!news, "{number} {kind}");
            }
        }
    }
    assert!(!pending.is_dirty() && pending.moved.is_empty());
}

/// However often the address moves, it is reported once until the next read.
#[test]
fn important_address_at_another_place_is_stale_at_once() {
    for (mac, places) in
        [(LOCAL, [(OTHER, 0), (VXLAN, 0), (VXLAN, SELF)]), (REMOTE, [(OTHER, 0), (PORT, 0), (VXLAN, SELF)])]
    {
        for (ifindex, flags) in places {
            let mut pending = read(&[]);
            let event = datagram(NEW, &message(ifindex, mac, REACHABLE, flags));
            assert!(pending.take(&event));
            assert_eq!((pending.is_learned, pending.is_changed, &pending.moved), (true, false, &[mac].into()));
            assert!((0..1000).all(|_| !pending.take(&event)));
            assert_eq!(pending.moved.len(), 1);
        }
        let mut pending = read(&[]);
        assert!(pending.take(&datagram(DEL, &message(OTHER, mac, REACHABLE, 0))));
        assert_eq!(pending.moved, [mac].into());
    }
}

#[test]
fn important_address_at_its_place_is_not_stale() {
    for (mac, ifindex) in [(LOCAL, PORT), (REMOTE, VXLAN)] {
        let mut pending = read(&[]);
        assert!(pending.take(&datagram(NEW, &message(ifindex, mac, REACHABLE, 0))));
        assert!(pending.is_learned && pending.moved.is_empty());
    }
    // An address with two places has none.
    let mut pending = read(&[tunnel(LOCAL, THERE)]);
    assert!(pending.take(&datagram(NEW, &message(PORT, LOCAL, REACHABLE, 0))));
    assert_eq!(pending.moved, [LOCAL].into());
}

/// The bridge knows the only address behind the port, until there is a second one.
#[test]
fn new_address_at_port_of_unknown_kind_matters() {
    for known in 0..2 {
        let mut pending = read(&[entry(OTHER, flood(1), FdbState::Learned)][..known]);
        assert!(pending.take(&datagram(NEW, &message(OTHER, flood(2), REACHABLE, 0))), "{known}");
        assert!(pending.is_learned && pending.moved.is_empty());
    }
}

#[test]
fn every_other_event_is_a_change() {
    let fixed = message(VXLAN, flood(1), 0x80, SELF);
    let link = datagram(16, &[0; 16]);
    for event in
        [datagram(NEW, &fixed), datagram(DEL, &fixed), link, datagram(24, &[0; 12]), vec![1, 2, 3], vec![0; 16]]
    {
        let mut pending = read(&[]);
        assert!(pending.take(&event), "{event:?}");
        assert!(pending.is_changed && !pending.take(&event));
    }
    let flood = datagram(NEW, &message(PORT, flood(1), REACHABLE, 0));
    let mut pending = read(&[]);
    assert!(pending.take(&[flood, datagram(NEW, &fixed)].concat()), "the second of two messages");
}

/// Before the first read, and after one that finds more.
#[test]
fn events_that_were_ignored_are_made_up_for() {
    let learned = datagram(NEW, &message(PORT, flood(1), REACHABLE, 0));
    assert!(Pending::default().take(&learned));
    let of = |facts: NetnsFacts| {
        important(&NetnsTables {
            links: facts.links,
            veth_peers: facts.veth_peers,
            fdb: facts.fdb,
            ..NetnsTables::default()
        })
    };
    let mut pending = read(&[]);
    pending.set_important(of(sandbox()));
    assert!(!pending.is_dirty(), "fewer");
    let mut more = sandbox();
    more.fdb.push(tunnel(flood(1), THERE));
    pending.set_important(of(more));
    assert!(pending.is_changed);
}

#[test]
fn stale_address_has_no_location() {
    for (mac, local, remote) in [(LOCAL, None, 1), (REMOTE, Some(LOCAL), 0)] {
        let mut facts = facts();
        facts.namespaces[0].moved.insert(mac);
        let network = network(&facts);
        assert_eq!((network.ports[&PORT].mac, network.remote.len()), (local, remote));
        assert_eq!(network.refusal, None);
    }
    let mut facts = facts();
    facts.namespaces[0].is_lost = true;
    let network = network(&facts);
    assert_eq!((network.ports[&PORT].mac, network.remote.len(), network.refusal), (None, 0, None));
}
