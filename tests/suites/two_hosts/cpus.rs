//! Several CPUs handle packets at the same time.

use std::{num::NonZero, thread};

use aya::maps::{Map, MapData, PerCpuArray};
use overlay_common::{Reason, maps};
use overlay_tests::{
    lab::traffic::{Cpus, Datagrams, udp_transfer},
    testbed::{GINDEMO2, Testbed},
};

/// Flows that each CPU sends, one after another.
const FLOWS: u64 = 8;

/// Packets of a reason on each CPU of a host.
fn per_cpu(setup: &Testbed, host: usize, reason: Reason) -> Vec<u64> {
    let map = MapData::from_pin(setup.pin_root(host).join(maps::REASONS.name)).unwrap();
    let map: PerCpuArray<_, [u64; 2]> = Map::PerCpuArray(map).try_into().unwrap();
    map.get(&(reason as u32), 0).unwrap().iter().map(|[packets, _bytes]| *packets).collect()
}

/// The program at the port runs on the CPU that sends. The program at the NIC runs there too, or, where the lab's NICs
/// have several queues, on the CPU that the flow's hash selects.
#[test]
fn every_cpu_encapsulates_and_several_decapsulate_without_loss() {
    let setup = Testbed::two_hosts();
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let plan = |cpu| Datagrams { cpus: Cpus { client: Some(cpu), server: None }, ..Datagrams::default() };
    let packets = FLOWS * Datagrams::default().count;
    let before = [per_cpu(&setup, 1, Reason::Encap), per_cpu(&setup, 2, Reason::Decap)];
    setup.by_fast_path(cpus as u64 * packets, 0, || {
        thread::scope(|scope| {
            for cpu in 0..cpus {
                let (from, to) = (setup.first(1), setup.first(2));
                scope.spawn(move || {
                    for _ in 0..FLOWS {
                        let report = udp_transfer(from, to, GINDEMO2.into(), plan(cpu)).unwrap();
                        assert_eq!((report.lost(), report.reordered(), report.corrupt), (0, 0, 0), "{report:?}");
                    }
                });
            }
        });
    });
    let after = [per_cpu(&setup, 1, Reason::Encap), per_cpu(&setup, 2, Reason::Decap)];
    let [sent, received] = [0, 1].map(|host: usize| {
        let counts = after[host].iter().zip(&before[host]);
        counts.map(|(after, before)| after - before).collect::<Vec<_>>()
    });
    println!("packets of each CPU: sent {sent:?}, received {received:?}");
    assert!(sent.iter().filter(|count| **count >= packets).count() == cpus, "{sent:?}");
    assert!(received.iter().filter(|count| **count > 0).count() >= cpus.min(2), "{received:?}");
}
