//! TCP in single segments, which the NIC does not merge: the kernel's VXLAN device merges them.

use std::time::Duration;

use overlay_common::maps::Segments;
use overlay_tests::{
    lab::{
        Lab, NIC,
        traffic::{Ping, ping, tcp_transfer},
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
    std::thread::sleep(Duration::from_secs(2 * Segments::PAUSE) / u32::try_from(ticks_per_second).unwrap());
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
        // Segments of up to 1,398 bytes arrive, the first of them by the fast path.
        assert!((Segments::MANY..1_000).contains(&fast) && kernel > 13_000, "{fast} {kernel}");
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
