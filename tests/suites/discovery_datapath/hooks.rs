//! Filters and XDP programs of other owners on the devices of external networks, in sandboxes and in the host's
//! namespace.

use aya::{
    EbpfLoader,
    programs::{ProgramInfo, SchedClassifier, TcAttachType, Xdp, XdpMode as Mode},
};
use overlay_tests::{
    bench::OBJECT,
    check::until,
    lab::{
        NetNs,
        traffic::{Ping, ping, tcp_transfer},
    },
};
use overlay_user::testing::model::Finding;

use super::replica::{Plan, Replica, device};

/// Whether overlay's program on a device is a TCX program, and whether it is the last filter.
fn places(ns: &NetNs, device: &str) -> (bool, bool) {
    let (_, programs) = ns.enter(|| SchedClassifier::query_tcx(device, TcAttachType::Ingress)).unwrap();
    let filters = ns.run(&["tc", "filter", "show", "dev", device, "ingress"]);
    let is_filter = filters.lines().any(|line| line.contains("ovl_port_in") && line.contains("pref 65535"));
    (programs.iter().any(|program| ProgramInfo::name_as_str(program) == Some("ovl_port_in")), is_filter)
}

fn replies(replica: &Replica) -> u64 {
    let plan = Ping { count: 5, timeout: std::time::Duration::from_millis(300), ..Ping::default() };
    ping(replica.first(1), replica.first(2).ip().into(), plan).unwrap().received
}

/// A filter on a port mirrors pings, and TCP takes the fast path.
#[test]
fn filter_on_a_port_of_an_external_network_is_not_bypassed() {
    for sandboxed in [true, false] {
        let replica = Replica::new(Plan { sandboxed, ..Plan::default() }).run();
        let node = replica.node(1);
        let ns = &node.sandbox;
        ns.try_script(
            "ip link add mon0 type veth peer name mon1
             ip link set mon0 up
             ip link set mon1 up
             tc qdisc add dev veth0 clsact",
        )
        .unwrap();
        let add = "tc filter add dev veth0 ingress protocol ip pref 20 u32 match ip protocol 1 0xff";
        ns.try_script(&format!("{add} action mirred egress redirect dev mon0")).unwrap();
        until("the program is the last filter", || places(ns, "veth0") == (false, true));
        assert_eq!(replies(&replica), 0, "{sandboxed}");
        let before = node.counts();
        tcp_transfer(replica.first(1), replica.first(2), replica.first(2).ip().into(), 2_000_000).unwrap();
        assert!(node.counts().since(&before).of("encap") >= 1000);
        ns.run(&["tc", "filter", "del", "dev", "veth0", "ingress"]);
        until("the program is a TCX program", || places(ns, "veth0") == (true, false));
        assert_eq!(replies(&replica), 5, "{sandboxed}");
    }
}

/// As discovery reports the port: no redirect to the peer of a program in the driver, and a finding for generic mode.
#[test]
fn xdp_program_of_a_container_is_not_bypassed_by_external_networks() {
    for sandboxed in [true, false] {
        let replica = Replica::new(Plan { sandboxed, ..Plan::default() }).run();
        let report = |redirect_peer: bool, finding: Option<Finding>| {
            replica.node(2).updates.send_modify(|found| {
                let mut networks = found.networks.as_ref().clone();
                for network in &mut networks {
                    for port in device(network).ports.values_mut() {
                        (port.redirect_peer, port.finding) = (redirect_peer, finding.clone());
                    }
                }
                found.networks = networks.into();
            });
        };
        let generic = || Finding::new("port veth0", "its program is generic", "");
        for (mode, finding) in [(Mode::Driver, None), (Mode::Skb, Some(generic()))] {
            let mut object = EbpfLoader::new().load(OBJECT).unwrap();
            let program: &mut Xdp = object.program_mut("bench_xdp_nothing").unwrap().try_into().unwrap();
            program.load().unwrap();
            let link = replica.first(2).enter(|| program.attach("eth0", mode)).unwrap();
            report(false, finding);
            until(&format!("{mode:?}: no ping arrives"), || replies(&replica) == 0);
            program.detach(link).unwrap();
            report(true, None);
            until("pings arrive", || replies(&replica) == 5);
        }
    }
}
