//! A map is full: packets without an entry take the kernel path, and `status` reports it, until there is space.

use overlay_common::{
    MacAddr,
    maps::{FdbEntry, FdbKey, Network as MapNetwork, Peer, PeerKey, Port, PortKey},
};
use overlay_tests::lab::{Network, traffic::Ping};
use overlay_tests::maps::WritableMaps;
use overlay_tests::testbed::Testbed;
use overlay_user::testing::plan::{Changes, Fdb, Networks, Peers, Ports};

use crate::setup::{
    Running, add_spares, ping_spares, remove_spares, spares_are_served, wait_for_no_problem, wait_for_problem,
};

/// A VNI of no network.
const UNUSED_VNI: u32 = 0x00ff_0000;

/// An entry that fills a map, and its removal.
fn filler(map: &str, number: u32) -> (Changes, Changes) {
    let [.., a, b, c] = number.to_be_bytes();
    match map {
        "OVL_FDB" => {
            let key = FdbKey::new(UNUSED_VNI, MacAddr([2, 0, 0, a, b, c]));
            (Changes::set::<Fdb>(key, FdbEntry::remote(0)), Changes::remove::<Fdb>(key))
        }
        "OVL_PEERS" => {
            let key = PeerKey { vni: UNUSED_VNI, addr: [10, a, b, c] };
            let peer = Peer { vtep: 0, slot: 0, device_mac: [0; 6], mtu: 1450, port: 1, flags: 0 };
            (Changes::set::<Peers>(key, peer), Changes::remove::<Peers>(key))
        }
        "OVL_NETWORKS" => {
            let network = MapNetwork { slot: 0, flags: 0, mtu: 1450, port: 1 };
            (Changes::set::<Networks>(UNUSED_VNI + number, network), Changes::remove::<Networks>(UNUSED_VNI + number))
        }
        "OVL_PORTS" => {
            let key = PortKey { netns_id: 60_000, ifindex: number + 1 };
            let port = Port {
                vni: UNUSED_VNI,
                slot: 0,
                flags: 0,
                ip: [0; 4],
                mac: [0; 6],
                mtu: 1450,
                udp_src_first: 0,
                udp_src_span: 0,
            };
            (Changes::set::<Ports>(key, port), Changes::remove::<Ports>(key))
        }
        other => panic!("no filler for {other}"),
    }
}

/// Fills a map of node01 to the last entry; returns the number of added entries.
fn fill(setup: &Testbed, map: &str) -> u32 {
    let mut maps = WritableMaps::open(&setup.pin_root(1)).unwrap();
    (0..).find(|number| maps.write(&filler(map, *number).0).is_err()).unwrap()
}

fn empty(setup: &Testbed, map: &str, count: u32) {
    let mut maps = WritableMaps::open(&setup.pin_root(1)).unwrap();
    (0..count).for_each(|number| maps.write(&filler(map, number).1).unwrap());
}

/// Fills a map of node01 and applies `change`, which needs another entry: the spare containers use the kernel path, and
/// node01 counts their packets as `reason`. After the map is emptied they use the fast path.
fn fill_and_change(map: &str, fdb_size: Option<u32>, reason: Option<&str>, change: impl FnOnce(&mut Testbed)) {
    let mut setup = Testbed::with_spares();
    setup.cluster.fdb_size = fdb_size;
    let mut setup = setup.run();
    let running = Running::start(&setup);
    let fillers = fill(&setup, map);
    assert!(fillers > 2, "{map} has space for {fillers} entries");

    change(&mut setup);
    wait_for_problem(&setup, 1, &format!("into the map {map}"));
    spares_are_served(&setup);
    let before = setup.counts(1);
    assert!(ping_spares(&setup, Ping::default()).all());
    let counts = setup.counts(1).since(&before);
    assert!(reason.is_none_or(|reason| counts.of(reason) >= 5), "{counts:?}");
    assert!(counts.vxlan >= 5 || map == "OVL_NETWORKS", "{counts:?}");
    running.assert_continues();

    empty(&setup, map, fillers);
    wait_for_no_problem(&setup);
    running.end_lossless(&setup);
    setup.by_fast_path(5, 5, || assert!(ping_spares(&setup, Ping::default()).all()));
    remove_spares(&mut setup);
    setup.wait_until_converged();
}

/// Adds the spare containers to a second network.
fn add_a_network(setup: &mut Testbed) {
    let network = Network {
        name: "second".to_owned(),
        vni: 5000,
        subnet: "10.0.2.0/24".to_owned(),
        gateway: None,
        ..Network::example()
    };
    setup.cluster.networks.push(network);
    add_spares(setup);
    for endpoint in setup.cluster.endpoints.iter_mut().filter(|endpoint| endpoint.name.starts_with("spare")) {
        "second".clone_into(&mut endpoint.network);
        endpoint.ip = [10, 0, 2, endpoint.ip.octets()[3]].into();
    }
    setup.cluster.write(setup.config()).unwrap();
}

#[test]
fn full_fdb_passes_new_addresses_to_kernel() {
    fill_and_change("OVL_FDB", Some(64), Some("unknown_mac"), add_spares);
}

#[test]
fn full_port_map_passes_new_ports_to_kernel() {
    fill_and_change("OVL_PORTS", None, None, add_spares);
}

/// The programs read this map only for the reason of an unknown peer.
#[test]
fn full_network_map_is_reported_and_costs_no_packet() {
    fill_and_change("OVL_NETWORKS", None, None, add_a_network);
}

#[test]
fn peers_beyond_full_map_fall_back_to_kernel() {
    fill_and_change("OVL_PEERS", None, Some("unknown_peer"), add_a_network);
}

/// The next daemon removes stray entries.
#[test]
fn restarted_daemon_removes_unknown_entries_from_full_map() {
    let mut setup = Testbed::with_spares();
    setup.cluster.fdb_size = Some(64);
    let mut setup = setup.run();
    let running = Running::start(&setup);
    fill(&setup, "OVL_FDB");
    setup.daemon_mut(1).kill9().unwrap();
    add_spares(&mut setup);
    setup.daemon_mut(1).restart().unwrap();
    spares_are_served(&setup);
    running.end_lossless(&setup);
}
