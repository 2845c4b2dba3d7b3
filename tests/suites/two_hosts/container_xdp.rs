//! XDP programs of other owners, on the container's interface and on the VXLAN device, see what they would see without the
//! daemon.

use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode, xdp::XdpLinkId},
};
use overlay_tests::{
    bench::OBJECT,
    check::until,
    lab::{
        Lab, NetNs,
        traffic::{Ping, ping},
    },
    testbed::Testbed,
};

/// An XDP program that drops everything, until it is detached.
struct Firewall(Ebpf, Option<XdpLinkId>);

impl Firewall {
    fn attach(netns: &NetNs, device: &str, mode: XdpMode) -> Self {
        let mut object = EbpfLoader::new().load(OBJECT).unwrap();
        let program: &mut Xdp = object.program_mut("bench_xdp_nothing").unwrap().try_into().unwrap();
        program.load().unwrap();
        let id = netns.enter(|| program.attach(device, mode)).unwrap();
        Self(object, Some(id))
    }

    fn detach(mut self) {
        let program: &mut Xdp = self.0.program_mut("bench_xdp_nothing").unwrap().try_into().unwrap();
        program.detach(self.1.take().unwrap()).unwrap();
    }
}

fn replies(setup: &Testbed, from: usize, to: usize) -> u64 {
    let plan = Ping { count: 5, timeout: std::time::Duration::from_millis(300), ..Ping::default() };
    ping(setup.first(from), setup.first(to).ip().into(), plan).unwrap().received
}

/// Native and generic mode, added before and after the daemon, from another host and from a container of the same host.
#[test]
fn xdp_program_of_a_container_is_not_bypassed() {
    for rx in ["tc", "xdp"] {
        let mut setup = Testbed::new(Lab::two_hosts());
        setup.receive_by(rx).unwrap();
        let setup = setup.run();
        for mode in [XdpMode::Driver, XdpMode::Skb] {
            let program = Firewall::attach(setup.first(2), "eth0", mode);
            until(&format!("{rx} {mode:?}: no ping arrives"), || replies(&setup, 1, 2) == 0);
            assert_eq!(replies(&setup, 1, 2), 0);
            if matches!(mode, XdpMode::Skb) {
                // A program of a BPF link is found by the periodic read; with XDP on the NIC it sees its packets anyway.
                let status = || setup.daemon(2).overlay(&["status", "--json"]).unwrap().to_string();
                until("the mode is reported", || status().contains("runs in generic mode"));
            }
            program.detach();
            until("pings arrive", || replies(&setup, 1, 2) == 5);
        }
        setup.wait_until_converged();
        setup.ping_both_ways();
    }
}

/// The daemon finds the program at its start.
#[test]
fn xdp_program_that_was_there_first_is_not_bypassed() {
    for mode in [XdpMode::Driver, XdpMode::Skb] {
        let mut setup = Testbed::two_hosts();
        setup.daemon_mut(2).kill9().unwrap();
        let program = Firewall::attach(setup.first(2), "eth0", mode);
        setup.daemon_mut(2).restart().unwrap();
        assert_eq!(replies(&setup, 1, 2), 0, "{mode:?}");
        program.detach();
        until("pings arrive", || replies(&setup, 1, 2) == 5);
        setup.wait_until_converged();
        setup.ping_both_ways();
    }
}

#[test]
fn xdp_program_of_a_managed_vxlan_device_is_not_bypassed() {
    let setup = Testbed::two_hosts();
    let program = Firewall::attach(setup.lab.host(2), "ovlvx4097", XdpMode::Skb);
    until("no ping arrives", || replies(&setup, 1, 2) == 0);
    assert_eq!(replies(&setup, 1, 2), 0);
    let status = setup.daemon(2).overlay(&["status", "--json"]).unwrap().to_string();
    assert!(status.contains("ovlvx4097 has an XDP program"), "{status}");
    program.detach();
    until("pings arrive", || replies(&setup, 1, 2) == 5);
    setup.wait_until_converged();
    setup.ping_both_ways();
}
