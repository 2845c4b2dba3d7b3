//! Property tests with arbitrary tables.

use proptest::{collection::vec, prelude::*};

use super::*;

/// One of few addresses, so that collisions are frequent.
fn any_mac() -> impl Strategy<Value = MacAddr> {
    (0u8..5).prop_map(|last| if last == 0 { MacAddr::default() } else { MacAddr([2, 0x42, 10, 0, 1, last]) })
}

fn any_entry() -> impl Strategy<Value = FdbEntry> {
    let state = prop_oneof![Just(FdbState::Permanent), Just(FdbState::Static), Just(FdbState::Learned)];
    (
        prop_oneof![Just(VXLAN), Just(PORT), Just(PORT + 1), Just(BRIDGE)],
        any_mac(),
        any::<bool>(),
        state,
        10u8..13,
        any::<bool>(),
    )
        .prop_map(|(ifindex, mac, own, state, host, special)| FdbEntry {
            own: own && ifindex == VXLAN,
            dst: (own && ifindex == VXLAN).then(|| [192, 168, 1, host].into()),
            special: special && own,
            ..entry(ifindex, mac, state)
        })
}

proptest! {
    #![proptest_config(crate::seed::property())]

    #[test]
    fn fast_path_forwards_only_like_the_kernel(entries in vec(any_entry(), 0..12), macs in vec(any_mac(), 2)) {
        let mut facts = facts();
        for host in 10..13 {
            facts.host.sources.insert((query(), [192, 168, 1, host].into()), Some((NIC, HERE)));
        }
        let second = Link { lower: Some(50), lower_netns: Some(8), ..port(PORT + 1, "veth1", LinkKind::Veth) };
        facts.namespaces[0].links.push(second);
        facts.namespaces[0].fdb = entries.clone();
        for (index, mac) in (PORT..).zip(&macs) {
            facts.namespaces[0].veth_peers.insert(index, peer(*mac));
        }
        let network = network(&facts);
        for (mac, vtep) in &network.remote {
            let own: Vec<_> = entries.iter().filter(|entry| entry.own && entry.mac == *mac).collect();
            prop_assert!(own.len() == 1 && own[0].dst == Some(*vtep));
            prop_assert!(own[0].state != FdbState::Learned && !own[0].special);
            prop_assert!(*mac != MacAddr::default() && network.peers.contains(vtep));
            let elsewhere = entries.iter().any(|entry| !entry.own && entry.mac == *mac && entry.ifindex != VXLAN);
            prop_assert!(!elsewhere, "the bridge would not send {} into the tunnel", mac);
        }
        for (index, port) in &network.ports {
            let Some(mac) = port.mac else { continue };
            prop_assert!(!network.remote.contains_key(&mac));
            prop_assert!(network.ports.iter().all(|(other, port)| other == index || port.mac != Some(mac)));
            let elsewhere = entries.iter().any(|entry| !entry.own && entry.mac == mac && entry.ifindex != *index);
            prop_assert!(!elsewhere, "the bridge would not deliver {} to port {}", mac, index);
        }
    }
}
