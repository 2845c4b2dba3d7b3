//! Flows from the underlay that take the kernel path as a whole.

use std::time::Duration;

use overlay_common::maps::Flow;
use overlay_tests::{
    check::decapsulates_ipv6,
    lab::{
        Lab, NIC,
        traffic::{Cpus, Datagrams, Ping, ping, tcp_transfer, udp_transfer},
    },
    testbed::Testbed,
};
use overlay_user::testing::sys::ticks;

const BYTES: u64 = 20_000_001;

fn offloads(setup: &Testbed, host: usize, features: &str) {
    setup.lab.host(host).try_script(&format!("ethtool -K {NIC} {features}")).unwrap();
}

/// Longer than the time after which a flow returns to the fast path.
fn pause() {
    let ticks_per_second = ticks(Duration::from_secs(1));
    std::thread::sleep(Duration::from_secs(2 * u64::from(Flow::PAUSE)) / u32::try_from(ticks_per_second).unwrap());
}

/// The packets of a transfer that host 2 counts under `decap` and `segments`.
fn transfer(setup: &Testbed) -> (u64, u64) {
    let address = setup.first(2).ip().into();
    // Resolves the neighbour.
    assert!(ping(setup.first(1), address, Ping::default()).unwrap().all());
    let before = setup.counts(2);
    tcp_transfer(setup.first(1), setup.first(2), address, BYTES).unwrap();
    let counts = setup.counts(2).since(&before);
    (counts.of("decap"), counts.of("segments"))
}

#[test]
fn segments_take_kernel_path_until_nic_merges_them() {
    let setup = Testbed::new(Lab::two_hosts());
    offloads(&setup, 1, "tso off gso off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off");
    let setup = setup.run();
    for _ in 0..2 {
        let (fast, kernel) = transfer(&setup);
        // Flow of up to 1,398 bytes arrive, the first of them by the fast path.
        assert!((u64::from(Flow::MANY)..1_000).contains(&fast) && kernel > 13_000, "{fast} {kernel}");
        pause();
    }
    setup.by_fast_path(5, 5, || {
        assert!(ping(setup.first(1), setup.first(2).ip().into(), Ping::default()).unwrap().all());
    });
    // The daemon follows the NIC.
    offloads(&setup, 2, "gro on");
    setup.wait_until_converged();
    let (fast, kernel) = transfer(&setup);
    assert!(fast > 13_000 && kernel == 0, "{fast} {kernel}");
    offloads(&setup, 2, "gro off");
    setup.wait_until_converged();
    let (fast, kernel) = transfer(&setup);
    assert!(fast < 1_000 && kernel > 13_000, "{fast} {kernel}");
}

#[test]
fn super_packets_stay_on_fast_path_without_gro() {
    let setup = Testbed::two_hosts();
    let (fast, kernel) = transfer(&setup);
    assert!(fast > 13_000 && kernel == 0, "{fast} {kernel}");
}

/// The kernel path passes a queue that the fast path overtakes: a super-packet and the single datagrams of its flow take
/// one path.
#[test]
fn super_packets_and_single_datagrams_of_a_flow_stay_in_order() {
    let setup = Testbed::two_hosts();
    setup.add_ipv6();
    let count = 20_000;
    let mixed = |client| Datagrams {
        size: 1200,
        count,
        per_second: Some(40_000),
        gso: true,
        mixed: true,
        cpus: Cpus { client: Some(client), server: None },
        ..Datagrams::default()
    };
    let addresses = [setup.first(2).ip().into(), "fd00::6".parse().unwrap()];
    // The flow's hash selects the CPU that receives (RPS): the sender's or another one, which receives in batches.
    for (address, cpu) in addresses.into_iter().flat_map(|address| [(address, 0), (address, 1)]) {
        assert!(ping(setup.first(1), address, Ping::default()).unwrap().all());
        let before = setup.counts(2);
        let got = udp_transfer(setup.first(1), setup.first(2), address, mixed(cpu)).unwrap();
        let counts = setup.counts(2).since(&before);
        assert_eq!((got.received, got.reordered(), got.duplicates), (count, 0, 0), "{got:?}");
        assert!(counts.of("decap") < 100, "{counts:?}");
        // A flow without super-packets takes the fast path meanwhile.
        let single = Datagrams { size: 1200, count: 1_000, ..Datagrams::default() };
        let before = setup.counts(2);
        assert_eq!(udp_transfer(setup.first(1), setup.first(2), address, single).unwrap().received, 1_000);
        assert!(setup.counts(2).since(&before).of("decap") >= 900 || address.is_ipv6() && !decapsulates_ipv6());
    }
}
