//! Programs of other tools on the same hooks.

use std::process::Command;

use aya::{
    Ebpf, EbpfLoader,
    maps::PerCpuArray,
    programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType, Xdp, XdpMode, tc::TcAttachOptions},
};
use overlay_tests::testbed::{Testbed, prepare_xdp};
use overlay_tests::{
    bench::OBJECT,
    check::until,
    lab::{Lab, NIC, NetNs},
};

use crate::setup::{Running, status, wait_for_no_problem, wait_for_problem};

/// A program of another tool, detached on drop.
struct Other(Ebpf);

impl Other {
    fn load() -> Self {
        Self(EbpfLoader::new().load(OBJECT).unwrap())
    }

    /// Attaches a program to TC ingress of a device that counts and passes packets.
    fn tc(ns: &NetNs, device: &str, order: LinkOrder) -> Self {
        let mut other = Self::load();
        let program: &mut SchedClassifier = other.0.program_mut("bench_pass").unwrap().try_into().unwrap();
        program.load().unwrap();
        let options = TcAttachOptions::TcxOrder(order);
        ns.enter(|| program.attach_with_options(device, TcAttachType::Ingress, options)).unwrap();
        other
    }

    /// Attaches an XDP program to a device that passes packets.
    fn xdp(ns: &NetNs, device: &str) -> Self {
        let mut other = Self::load();
        let program: &mut Xdp = other.0.program_mut("bench_live").unwrap().try_into().unwrap();
        program.load().unwrap();
        ns.enter(|| program.attach(device, XdpMode::Driver)).unwrap();
        other
    }

    /// Number of counted packets.
    fn count(&mut self) -> u64 {
        let counts = PerCpuArray::<_, u64>::try_from(self.0.map_mut("BENCH_COUNTS").unwrap()).unwrap();
        counts.get(&5, 0).unwrap().iter().sum()
    }
}

fn port(setup: &Testbed) -> String {
    let ports = setup.daemon(1).overlay(&["ports", "--json"]).unwrap();
    ports["ports"][0]["device"].as_str().unwrap().to_owned()
}

/// Every packet passes the programs of other owners first, whether they are attached before overlay's or after it.
#[test]
fn programs_of_other_owners_see_every_packet() {
    let setup = Testbed::new(Lab::two_hosts());
    let host = setup.lab.host(1).clone();
    // Attached before the daemon starts.
    let mut first = Other::tc(&host, NIC, LinkOrder::last());
    let mut setup = setup.run();
    let running = Running::start(&setup);
    let device = port(&setup);
    let mut others = [NIC, device.as_str()]
        .map(|device| [LinkOrder::first(), LinkOrder::last()].map(|order| Other::tc(&host, device, order)));
    let is_last = |device: &str| {
        let (_, programs) = host.enter(|| SchedClassifier::query_tcx(device, TcAttachType::Ingress)).unwrap();
        programs.last().and_then(ProgramInfo::name_as_str).is_some_and(|name| name.starts_with("ovl_"))
    };
    let all_are_last = || [NIC, device.as_str()].into_iter().all(is_last);
    until("overlay's programs are the last ones", all_are_last);
    let before = others.each_mut().map(|pair| pair.each_mut().map(Other::count));
    running.assert_continues();
    for (pair, before) in others.iter_mut().zip(before) {
        for (other, before) in pair.iter_mut().zip(before) {
            assert!(other.count() - before >= 100, "{} packets", other.count() - before);
        }
    }
    assert!(first.count() >= 100);
    // The restarted daemon keeps the positions.
    setup.daemon_mut(1).kill9().unwrap();
    setup.daemon_mut(1).restart().unwrap();
    assert!(all_are_last());
    running.assert_continues();
    drop((first, others));
    running.end_lossless(&setup);
}

#[test]
fn another_xdp_program_keeps_daemon_from_switching_to_xdp() {
    let setup = Testbed::new(Lab::two_hosts());
    setup.lab.hosts().iter().for_each(|host| prepare_xdp(host).unwrap());
    let mut setup = setup.run();
    let running = Running::start(&setup);
    let other = Other::xdp(setup.lab.host(1), NIC);
    running.assert_continues();
    setup.cluster.rx = Some("xdp".to_owned());
    setup.cluster.write(setup.config()).unwrap();
    wait_for_problem(&setup, 1, "another XDP program is attached to enp0s3");
    assert_eq!(status(&setup, 1)["underlay"]["rx"], "tc");
    running.assert_continues();

    // The daemon retries.
    drop(other);
    until("both hosts receive by XDP", || {
        [1, 2].map(|host| status(&setup, host)["underlay"]["rx"] == "xdp") == [true; 2]
    });
    wait_for_no_problem(&setup);
    running.assert_continues();
    assert!(setup.counts(1).of("decap_xdp") >= 100);
    running.end_lossless(&setup);
}

/// Detaches every program of node01: the pinned links exist and are not attached.
fn detach_all(setup: &Testbed) {
    for entry in std::fs::read_dir(setup.pin_root(1).join("links")).unwrap() {
        let done = Command::new("bpftool").args(["link", "detach", "pinned"]).arg(entry.unwrap().path()).status();
        assert!(done.unwrap().success());
    }
}

#[test]
fn program_detached_by_another_tool_is_attached_by_next_daemon() {
    let mut setup = Testbed::two_hosts();
    let running = Running::start(&setup);
    setup.daemon_mut(1).sigterm().unwrap();
    detach_all(&setup);
    let before = setup.counts(1);
    running.assert_continues();
    let counts = setup.counts(1).since(&before);
    assert!(counts.of("encap") + counts.received() == 0 && counts.vxlan >= 100, "{counts:?}");
    setup.daemon_mut(1).restart().unwrap();
    running.end_lossless(&setup);
}

/// Twice: the second time it waits.
#[test]
fn program_detached_by_another_tool_is_attached_again() {
    for rx in ["tc", "xdp"] {
        let mut setup = Testbed::new(Lab::two_hosts());
        setup.receive_by(rx).unwrap();
        let setup = setup.run();
        let running = Running::start(&setup);
        for _ in 0..2 {
            detach_all(&setup);
            until("the daemon attaches the programs again", || {
                let before = setup.counts(1);
                running.assert_continues();
                let counts = setup.counts(1).since(&before);
                counts.of("encap") >= 50 && counts.received() >= 50
            });
        }
        until("all programs are attached", || audit_is_clean(&setup));
        wait_for_no_problem(&setup);
        running.end_lossless(&setup);
    }
}

/// A link is removed with its pin.
#[test]
fn removed_attachment_is_made_again() {
    let setup = Testbed::two_hosts();
    for entry in std::fs::read_dir(setup.pin_root(1).join("links")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    until("the daemon attaches the programs again", || audit_is_clean(&setup));
    setup.ping_both_ways();
}

fn audit_is_clean(setup: &Testbed) -> bool {
    setup.daemon(1).output(&["audit"]).unwrap().status.success()
}
