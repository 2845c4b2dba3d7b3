//! The programs as filters of a clsact qdisc, for kernels before 6.6, which have no TCX.

use std::{path::PathBuf, thread::JoinHandle, time::Duration};

use overlay_tests::lab::{
    Container, Host, Lab, NIC, NetNs,
    traffic::{Datagrams, Ping, UdpFlow, ping, tcp_transfer},
};
use overlay_user::testing::{
    apply::TcFlavour,
    daemon::{DEADLINE, Daemon, Missing, Options, down},
    model::Rx,
    observe::Snapshot,
    sources::{FileSource, InitialState, Source},
};
use tokio::{runtime, sync::oneshot};

use overlay_tests::check::{assert_lossless, interfaces, is_kernel_since, until};
use overlay_tests::tables::Expected;
use overlay_tests::testbed::{GINDEMO2, Testbed};

/// A daemon in a thread of this process: the command line has no option for clsact.
struct InProcess {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl InProcess {
    fn start(host: &NetNs, config: PathBuf, pin_root: PathBuf) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let thread = host.spawn(move || {
            block_on(async move {
                let mut source = FileSource::new(config);
                let cluster = source.next_cluster().await.unwrap();
                let flavour = Some(TcFlavour::Clsact);
                let options =
                    Options { pin_root, flavour, missing: Missing::Refused, rx: Rx::Tc, deadline: Some(DEADLINE) };
                let first = InitialState { cluster: Some(cluster), ..InitialState::default() };
                let mut daemon = Daemon::start(&options, first).await.unwrap();
                ready.send(()).unwrap();
                let stopped = async { stopped.await.unwrap() };
                daemon.run(&mut source, stopped).await.unwrap();
            });
        });
        is_ready.blocking_recv().expect("the daemon starts");
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

/// Lines of `tc filter show` with a program of overlay.
fn filters(host: &NetNs, device: &str) -> Vec<String> {
    let shown = host.run(&["tc", "filter", "show", "dev", device, "ingress"]);
    shown.lines().filter(|line| line.contains("ovl_")).map(str::to_owned).collect()
}

fn has_clsact(host: &NetNs, device: &str) -> bool {
    host.run(&["tc", "qdisc", "show", "dev", device]).contains("clsact")
}

fn packets(setup: &Testbed, host: usize, reason: &str) -> u64 {
    let report = setup.lab.host(host).enter(|| block_on(Snapshot::read(&setup.pin_root(host)))).unwrap().counters();
    report.reasons.iter().find(|row| row.reason == reason).unwrap().amount.packets
}

fn port(host: &Host) -> String {
    interfaces(host).into_iter().find(|name| name.len() == 13).expect("the port's veth")
}

fn both(setup: &Testbed) -> [(&Host, &Container); 2] {
    [1, 2].map(|host| (setup.lab.host(host), setup.first(host)))
}

#[test]
fn clsact_filters_forward_traffic_across_restart_and_down_removes_them() {
    let mut setup = Testbed::new(Lab::two_hosts());
    setup.cluster.write(setup.config()).unwrap();
    // This qdisc exists before the daemon starts and must stay.
    setup.lab.host(2).run(&["tc", "qdisc", "add", "dev", NIC, "clsact"]);
    let start = |host| InProcess::start(setup.lab.host(host), setup.config().to_owned(), setup.pin_root(host));
    let daemons = [start(1), start(2)];
    until("both directions take the fast path", || {
        let before = [packets(&setup, 1, "encap"), packets(&setup, 2, "encap")];
        assert!(ping(setup.first(1), GINDEMO2.into(), Ping::default()).unwrap().all());
        packets(&setup, 1, "encap") >= before[0] + 5 && packets(&setup, 2, "encap") >= before[1] + 5
    });
    let before = [1, 2].map(|host| (packets(&setup, host, "encap"), packets(&setup, host, "decap")));
    tcp_transfer(setup.first(1), setup.first(2), GINDEMO2.into(), 20_000_001).unwrap();
    assert!(packets(&setup, 1, "encap") - before[0].0 >= 13_000);
    assert!(packets(&setup, 2, "decap") - before[1].1 >= 13_000);

    let flow = UdpFlow::start(setup.first(1), setup.first(2), GINDEMO2.into(), Datagrams::steady(1000)).unwrap();
    flow.wait_for(100).unwrap();
    daemons.into_iter().for_each(InProcess::end);
    let encapsulated = packets(&setup, 1, "encap");
    flow.wait_for(200).unwrap();
    assert!(packets(&setup, 1, "encap") >= encapsulated + 200, "the data path keeps forwarding without a daemon");
    let daemons = [start(1), start(2)];
    flow.wait_for(200).unwrap();
    // Restart with a map of another size.
    daemons.into_iter().for_each(InProcess::end);
    setup.cluster.fdb_size = Some(1000);
    setup.cluster.write(setup.config()).unwrap();
    let daemons =
        [1, 2].map(|host| InProcess::start(setup.lab.host(host), setup.config().to_owned(), setup.pin_root(host)));
    flow.wait_for(200).unwrap();
    for (host, _) in both(&setup) {
        for device in [NIC.to_owned(), port(host)] {
            assert_eq!(filters(host, &device).len(), 1, "{device}: {:?}", filters(host, &device));
        }
    }
    assert_lossless(&flow.stop());
    for number in [1, 2] {
        let expected = Expected { clsact: true, ..setup.expected(number) };
        expected.wait(Duration::from_secs(20)).unwrap();
    }
    let before = packets(&setup, 1, "encap");
    assert!(ping(setup.first(1), GINDEMO2.into(), Ping::default()).unwrap().all());
    assert!(packets(&setup, 1, "encap") >= before + 5);

    // The daemons end first: `down` sends SIGTERM to the daemon's process, which is this one.
    daemons.into_iter().for_each(InProcess::end);
    for (number, (host, container)) in [1, 2].into_iter().zip(both(&setup)) {
        host.enter(|| block_on(down(&setup.pin_root(number))).unwrap());
        assert_eq!(filters(host, NIC), [""; 0]);
        assert_eq!((interfaces(host), interfaces(container)), (vec!["lo".into(), NIC.into()], vec!["lo".into()]));
        assert!(!setup.pin_root(number).exists());
    }
    assert!(!has_clsact(setup.lab.host(1), NIC), "added by the daemon");
    assert!(has_clsact(setup.lab.host(2), NIC), "existed before the daemon");
}

/// TCX came with 6.6.
#[test]
fn hooks_are_filters_only_on_kernels_without_tcx() {
    let setup = Testbed::two_hosts();
    for (host, _) in both(&setup) {
        for device in [NIC.to_owned(), port(host)] {
            let filters = filters(host, &device);
            assert_eq!(filters.is_empty(), is_kernel_since([6, 6]), "{device}: {filters:?}");
        }
    }
}

/// A filter of another program keeps the qdisc that the daemon added.
#[test]
fn clsact_qdisc_with_other_filter_is_kept() {
    let setup = Testbed::new(Lab::two_hosts());
    setup.cluster.write(setup.config()).unwrap();
    let host = setup.lab.host(1);
    let daemon = InProcess::start(host, setup.config().to_owned(), setup.pin_root(1));
    assert!(has_clsact(host, NIC));
    host.run(&["tc", "filter", "add", "dev", NIC, "egress", "bpf", "bytecode", "1,6 0 0 0"]);
    daemon.end();
    host.enter(|| block_on(down(&setup.pin_root(1))).unwrap());
    assert!(has_clsact(host, NIC));
    assert_eq!(filters(host, NIC), [""; 0]);
}
