//! An ambiguous MAC address has no location.

use overlay_common::VtepAddr;

use super::*;
use crate::{
    kernel::{VethPeer, XdpMode},
    model::network::GENERIC_XDP,
};

fn mac(facts: &Facts) -> Option<MacAddr> {
    network(facts).ports[&PORT].mac
}

#[test]
fn mac_with_local_and_remote_entry_has_no_location() {
    let mut facts = facts();
    facts.namespaces[0].fdb.push(tunnel(LOCAL, THERE));
    let network = network(&facts);
    assert_eq!((network.ports[&PORT].mac, network.remote.get(&LOCAL)), (None, None));
    assert_eq!(network.remote.len(), 1);
}

#[test]
fn entries_without_one_plain_destination_fall_back_to_kernel() {
    let other = VtepAddr::from([192, 168, 1, 11]);
    let special = |entry: FdbEntry| vec![FdbEntry { special: true, ..entry }];
    let learned = |entry: FdbEntry| vec![FdbEntry { state: FdbState::Learned, ..entry }];
    let plain = tunnel(REMOTE, THERE);
    let cases = [
        special(plain.clone()),
        learned(plain.clone()),
        vec![plain.clone(), tunnel(REMOTE, other)],
        vec![FdbEntry { vlan: Some(5), ..plain.clone() }],
        vec![FdbEntry { dst: None, ..plain.clone() }],
        vec![tunnel(REMOTE, HERE)],
        vec![tunnel(REMOTE, [239, 1, 1, 1].into())],
        vec![tunnel(REMOTE, VtepAddr::UNSPECIFIED)],
        vec![tunnel(MacAddr([1, 0, 0x5e, 0, 0, 1]), THERE)],
        // The bridge has the address at another port, or as its own.
        vec![plain.clone(), entry(PORT, REMOTE, FdbState::Learned)],
        vec![plain.clone(), entry(VXLAN, REMOTE, FdbState::Permanent)],
    ];
    for (index, entries) in cases.into_iter().enumerate() {
        let mut facts = facts();
        facts.host.sources.insert((query(), other), Some((NIC, HERE)));
        facts.namespaces[0].fdb.retain(|entry| entry.mac != REMOTE);
        facts.namespaces[0].fdb.extend(entries);
        assert!(network(&facts).remote.is_empty(), "case {index}");
    }
    let mut facts = facts();
    facts.namespaces[0].fdb.push(entry(VXLAN, REMOTE, FdbState::Learned));
    assert_eq!(network(&facts).remote.len(), 1, "the bridge agrees");
}

/// The bridge moves the entry of an address to the VXLAN device when it sees a frame of this address from there.
#[test]
fn vtep_of_an_address_at_a_port_is_no_peer() {
    for (learns, place, state, is_peer) in [
        (false, PORT, FdbState::Learned, false),
        (false, PORT, FdbState::Static, false),
        (false, VXLAN, FdbState::Learned, true),
        // The bridge's own addresses do not move.
        (false, BRIDGE, FdbState::Permanent, true),
        // The programs pass frames of this address alone to the kernel.
        (true, PORT, FdbState::Learned, true),
    ] {
        let mut facts = facts();
        info(&mut facts).learning = learns;
        facts.namespaces[0].fdb.push(tunnel(MacAddr::default(), THERE));
        facts.namespaces[0].fdb.push(entry(place, REMOTE, state));
        assert_eq!(network(&facts).peers.contains(&THERE), is_peer, "{learns} {place} {state:?}");
        assert_eq!(network(&facts).remote.contains_key(&REMOTE), place == VXLAN, "{learns} {place} {state:?}");
    }
}

#[test]
fn default_destination_is_a_peer_without_macs() {
    let mut facts = facts();
    facts.namespaces[0].fdb = vec![tunnel(MacAddr::default(), THERE)];
    let network = network(&facts);
    assert!(network.remote.is_empty() && network.peers.contains(&THERE));
}

#[test]
fn only_bridge_entry_of_port_replaces_missing_peer_mac() {
    let (one, two) = (MacAddr([2, 0, 0, 0, 1, 1]), MacAddr([2, 0, 0, 0, 1, 2]));
    let mut facts = facts();
    facts.namespaces[0].veth_peers.clear();
    facts.namespaces[0].links.retain(|link| link.index != PORT);
    facts.namespaces[0].links.push(port(PORT, "tap0", LinkKind::Other("tun".into())));
    assert_eq!(mac(&facts), None, "a silent guest");
    facts.namespaces[0].fdb.push(entry(PORT, one, FdbState::Learned));
    assert_eq!(mac(&facts), Some(one));
    facts.namespaces[0].fdb.push(entry(PORT, two, FdbState::Static));
    assert_eq!(mac(&facts), None, "several");
    let mut facts = self::facts();
    facts.namespaces[0].fdb.push(entry(PORT, one, FdbState::Learned));
    facts.namespaces[0].veth_peers.insert(PORT, VethPeer { enslaved: true, ..peer(LOCAL) });
    assert_eq!(mac(&facts), Some(one), "the peer is a port of a bridge itself");
}

#[test]
fn veth_whose_other_end_cannot_be_read_takes_the_kernel_path() {
    let mut facts = facts();
    facts.namespaces[0].veth_peers.clear();
    facts.namespaces[0].fdb.push(entry(PORT, LOCAL, FdbState::Learned));
    let problem = |facts: &Facts| {
        let port = network(facts).ports.remove(&PORT).unwrap();
        (port.mac, port.finding.map(|finding| finding.problem))
    };
    let unread = "the state of its container's interface cannot be read";
    assert_eq!(problem(&facts), (None, Some(unread.to_owned())));
    facts.namespaces[0].veth_peers.insert(PORT, VethPeer { xdp: XdpMode::Generic, ..peer(LOCAL) });
    assert_eq!(problem(&facts), (None, Some(GENERIC_XDP.to_owned())));
}

#[test]
fn entry_learned_from_vxlan_gives_no_local_mac() {
    let mut facts = facts();
    facts.namespaces[0].fdb.push(entry(VXLAN, LOCAL, FdbState::Learned));
    assert_eq!(mac(&facts), None, "the bridge would send it into the tunnel");
    let mut facts = self::facts();
    facts.namespaces[0].veth_peers.clear();
    facts.namespaces[0].fdb.push(entry(VXLAN, LOCAL, FdbState::Learned));
    assert_eq!(mac(&facts), None);
}

#[test]
fn bridge_entry_precedes_learned_tunnel_entry() {
    let mut facts = facts();
    facts.namespaces[0].fdb.push(FdbEntry { state: FdbState::Learned, ..tunnel(LOCAL, THERE) });
    assert_eq!(mac(&facts), None);
    facts.namespaces[0].fdb.push(entry(PORT, LOCAL, FdbState::Learned));
    assert_eq!(mac(&facts), Some(LOCAL));
}

#[test]
fn mac_behind_two_ports_has_no_location() {
    let mut facts = facts();
    let second = Link { lower: Some(50), lower_netns: Some(8), ..port(PORT + 1, "veth1", LinkKind::Veth) };
    facts.namespaces[0].links.push(second);
    facts.namespaces[0].veth_peers.insert(PORT + 1, peer(LOCAL));
    assert!(network(&facts).ports.values().all(|port| port.mac.is_none()));
}
