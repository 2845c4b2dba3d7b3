//! Where the tables leave a doubt about a MAC address, nobody has it.

use overlay_common::VtepAddr;

use super::*;

fn mac(facts: &Facts) -> Option<MacAddr> {
    network(facts).ports[&PORT].mac
}

#[test]
fn a_mac_that_is_local_and_remote_is_neither() {
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
        // The bridge has it somewhere else, or for itself.
        vec![plain.clone(), entry(PORT, REMOTE, FdbState::Learned)],
        vec![plain.clone(), entry(VXLAN, REMOTE, FdbState::Permanent)],
    ];
    for (index, entries) in cases.into_iter().enumerate() {
        let mut facts = facts();
        facts.host.sources.insert(other, Some((NIC, HERE)));
        facts.namespaces[0].fdb.retain(|entry| entry.mac != REMOTE);
        facts.namespaces[0].fdb.extend(entries);
        assert!(network(&facts).remote.is_empty(), "case {index}");
    }
    let mut facts = facts();
    facts.namespaces[0].fdb.push(entry(VXLAN, REMOTE, FdbState::Learned));
    assert_eq!(network(&facts).remote.len(), 1, "the bridge agrees");
}

#[test]
fn the_destination_of_unknown_frames_may_send_and_nothing_more() {
    let mut facts = facts();
    facts.namespaces[0].fdb = vec![tunnel(MacAddr::default(), THERE)];
    let network = network(&facts);
    assert!(network.remote.is_empty() && network.peers.contains(&THERE));
}

#[test]
fn without_the_peers_address_the_bridges_one_entry_counts() {
    let (one, two) = (MacAddr([2, 0, 0, 0, 1, 1]), MacAddr([2, 0, 0, 0, 1, 2]));
    let mut facts = facts();
    facts.namespaces[0].veth_peers.clear();
    assert_eq!(mac(&facts), None, "a silent container");
    facts.namespaces[0].fdb.push(entry(PORT, one, FdbState::Learned));
    assert_eq!(mac(&facts), Some(one));
    facts.namespaces[0].fdb.push(entry(PORT, two, FdbState::Static));
    assert_eq!(mac(&facts), None, "several");
    facts.namespaces[0].fdb.pop();
    facts.namespaces[0].veth_peers.insert(PORT, VethPeer { mac: LOCAL, enslaved: true, xdp: false });
    assert_eq!(mac(&facts), Some(one), "the peer is a port of a bridge itself");
}

#[test]
fn what_arrives_on_the_nic_says_nothing_about_local_ports() {
    let mut facts = facts();
    facts.namespaces[0].fdb.push(entry(VXLAN, LOCAL, FdbState::Learned));
    assert_eq!(mac(&facts), None, "the bridge would send it into the tunnel");
    let mut facts = self::facts();
    facts.namespaces[0].veth_peers.clear();
    facts.namespaces[0].fdb.push(entry(VXLAN, LOCAL, FdbState::Learned));
    assert_eq!(mac(&facts), None);
}

#[test]
fn a_learned_tunnel_entry_gives_way_to_the_bridges() {
    let mut facts = facts();
    facts.namespaces[0].fdb.push(FdbEntry { state: FdbState::Learned, ..tunnel(LOCAL, THERE) });
    assert_eq!(mac(&facts), None);
    facts.namespaces[0].fdb.push(entry(PORT, LOCAL, FdbState::Learned));
    assert_eq!(mac(&facts), Some(LOCAL));
}

#[test]
fn a_mac_behind_two_ports_is_behind_none() {
    let mut facts = facts();
    let second = Link { lower: Some(50), lower_netns: Some(8), ..port(PORT + 1, "veth1", LinkKind::Veth) };
    facts.namespaces[0].links.push(second);
    facts.namespaces[0].veth_peers.insert(PORT + 1, VethPeer { mac: LOCAL, enslaved: false, xdp: false });
    assert!(network(&facts).ports.values().all(|port| port.mac.is_none()));
}
