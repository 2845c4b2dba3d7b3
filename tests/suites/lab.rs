//! Hosts, traffic generators and daemons of the lab.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::{net::IpAddr, os::unix::process::ExitStatusExt, time::Duration};

use overlay_tests::lab::{
    Cluster, Daemon, Fault, FaultyWire, Flavour, Injector, Lab, kernel_vxlan, private_bpffs,
    traffic::{
        Bulk, Cpus, Datagrams, HttpConnection, Ping, Protocol, TcpFlow, UdpFlow, UdpReport, concurrent_round_trips,
        connect_rate, http_rate, iperf3, ping, round_trips, tcp_transfer, udp_rate, udp_transfer,
    },
};

/// The running example with the kernel's VXLAN.
fn kernel_lab(flavour: Flavour) -> Lab {
    let lab = Lab::two_hosts();
    let cluster = Cluster::example(&lab);
    for host in lab.hosts() {
        kernel_vxlan(host, &cluster, "my-overlay-network", flavour).expect("a kernel VXLAN can be set up");
    }
    lab
}

#[test]
fn hosts_reach_each_other_over_underlay() {
    let lab = Lab::two_hosts();
    assert!(ping(lab.host(1), lab.host(2).address().into(), Ping::default()).unwrap().all());
    assert!(ping(lab.host(2), lab.host(1).address().into(), Ping::default()).unwrap().all());
}

#[test]
fn three_hosts_share_one_underlay() {
    let lab = Lab::builder(3).build().unwrap();
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        assert!(ping(lab.host(from), lab.host(to).address().into(), Ping::default()).unwrap().all(), "{from} {to}");
    }
}

#[test]
fn containers_reach_each_other_over_both_kernel_vxlan_flavours() {
    for flavour in [Flavour::Static, Flavour::Docker] {
        let lab = kernel_lab(flavour);
        let (one, two) = (lab.host(1).container("gindemo1"), lab.host(2).container("gindemo2"));
        assert!(ping(one, two.ip().into(), Ping::default()).unwrap().all(), "{flavour:?}");
        assert!(ping(two, one.ip().into(), Ping::default()).unwrap().all(), "{flavour:?}, back");
        let gateway = "10.0.1.1".parse().unwrap();
        assert!(ping(one, gateway, Ping::default()).unwrap().all(), "gateway");
    }
}

#[test]
fn traffic_generators_count_and_verify_packets() {
    let lab = kernel_lab(Flavour::Static);
    let (one, two) = (lab.host(1).container("gindemo1"), lab.host(2).container("gindemo2"));
    let to: IpAddr = two.ip().into();

    for size in [0, 7, 8, 64, 1422, 1423, 9000, 60_000] {
        let plan = Datagrams { size, per_second: Some(2000), ..Datagrams::default() };
        let got = udp_transfer(one, two, to, plan).unwrap();
        assert_eq!((got.datagrams, got.bytes), (100, 100 * size as u64), "{size}: {got:?}");
        assert_eq!(got.received, if size < 8 { 0 } else { 100 }, "{size}: {got:?}");
    }

    let plan = Datagrams { size: 1400, count: 200, gso: true, per_second: Some(2000), ..Datagrams::default() };
    assert_eq!(udp_transfer(one, two, to, plan).unwrap().received, 200);

    assert_eq!(tcp_transfer(one, two, to, 20_000_001).unwrap().bytes, 20_000_001);

    let flow = UdpFlow::start(one, two, to, Datagrams { size: 100, ..Datagrams::steady(1000) }).unwrap();
    let stream = TcpFlow::start(one, two, to, Some(10_000_000)).unwrap();
    flow.wait_for(200).unwrap();
    stream.wait_for(1_000_000).unwrap();
    assert!(stream.stop().unwrap().bytes >= 1_000_000);
    let report = flow.stop();
    assert_eq!((report.lost(), report.corrupt, report.duplicates), (0, 0, 0), "{report:?}");
    assert!(report.sent >= 200);
}

#[test]
fn lab_supports_ipv6() {
    let lab = kernel_lab(Flavour::Static);
    let (one, two) = (lab.host(1).container("gindemo1"), lab.host(2).container("gindemo2"));
    one.run(&["ip", "addr", "add", "fd00::2/64", "dev", "eth0"]);
    two.run(&["ip", "addr", "add", "fd00::6/64", "dev", "eth0"]);
    one.wait_for_devices().unwrap();
    two.wait_for_devices().unwrap();
    let to: IpAddr = "fd00::6".parse().unwrap();
    let large = Ping { size: 3000, ..Ping::default() };
    for plan in [Ping::default(), large] {
        let replies = ping(one, to, plan).unwrap();
        assert!(replies.all(), "{replies:?}");
    }
    assert_eq!(tcp_transfer(one, two, to, 1_000_000).unwrap().bytes, 1_000_000);
    assert_eq!(udp_transfer(one, two, to, Datagrams { gso: true, ..Datagrams::default() }).unwrap().received, 100);
}

#[test]
fn udp_flow_detects_loss() {
    let lab = kernel_lab(Flavour::Static);
    let (one, two) = (lab.host(1).container("gindemo1"), lab.host(2).container("gindemo2"));
    let flow = UdpFlow::start(one, two, two.ip().into(), Datagrams { size: 100, ..Datagrams::steady(1000) }).unwrap();
    flow.wait_for(50).unwrap();
    lab.host(1).run(&["ip", "link", "set", "enp0s3", "down"]);
    std::thread::sleep(Duration::from_millis(100));
    let quick = Ping { count: 2, timeout: Duration::from_millis(50), ..Ping::default() };
    assert_eq!(ping(one, two.ip().into(), quick).unwrap().received, 0);
    lab.host(1).run(&["ip", "link", "set", "enp0s3", "up"]);
    flow.wait_for(50).unwrap();
    let report = flow.stop();
    assert!(report.lost() >= 50, "{report:?}");
    assert!(report.longest_gap >= Duration::from_millis(100), "{report:?}");
}

/// The running example with the kernel's VXLAN, and a relay in the wire of node01.
fn faulty_lab() -> (Lab, FaultyWire) {
    let lab = Lab::builder(2).with_switch().build().unwrap();
    let wire = FaultyWire::insert(&lab, 1).unwrap();
    let cluster = Cluster::example(&lab);
    for host in lab.hosts() {
        kernel_vxlan(host, &cluster, "my-overlay-network", Flavour::Static).unwrap();
    }
    (lab, wire)
}

#[test]
fn udp_flow_detects_each_fault_of_one_datagram_in_traffic() {
    let (lab, wire) = faulty_lab();
    let (one, two) = (lab.host(1).container("gindemo1"), lab.host(2).container("gindemo2"));
    let plan = Datagrams { cpus: Cpus::two(), ..Datagrams::default() };
    let verdict = |report: UdpReport| {
        assert_eq!((report.sent, report.lost_at.len() as u64), (100, report.lost()), "{report:?}");
        [report.lost(), report.reordered(), report.duplicates, report.corrupt]
    };
    // The first packets between two hosts wait for the next hop, and others can overtake them.
    assert!(ping(one, two.ip().into(), Ping::default()).unwrap().all());
    assert_eq!(verdict(udp_transfer(one, two, two.ip().into(), plan).unwrap()), [0; 4]);
    for (fault, expected) in [
        (Fault::Loss, [1, 0, 0, 0]),
        (Fault::Reordering, [0, 1, 0, 0]),
        (Fault::Duplication, [0, 0, 1, 0]),
        // The number of a corrupt datagram is not received.
        (Fault::Corruption, [1, 0, 0, 1]),
        // The kernel drops the datagram.
        (Fault::InvalidChecksum, [1, 0, 0, 0]),
    ] {
        wire.inject(Injector::datagram(fault, 50, plan.size));
        let report = udp_transfer(one, two, two.ip().into(), plan).unwrap();
        wire.wait_until_injected().unwrap();
        assert_eq!(verdict(report), expected, "{fault:?}");
    }
}

#[test]
fn tcp_transfer_detects_corruption_in_traffic() {
    let (lab, wire) = faulty_lab();
    let (one, two) = (lab.host(1).container("gindemo1"), lab.host(2).container("gindemo2"));
    for fault in Fault::ALL {
        // A segment with payload of the stream.
        wire.inject(Injector::new(fault, 50, |frame| frame.len() > 1000));
        let result = tcp_transfer(one, two, two.ip().into(), 1_000_000);
        wire.wait_until_injected().unwrap();
        if fault == Fault::Corruption {
            let error = format!("{:#}", result.unwrap_err());
            assert!(error.contains("wrong content after"), "{error}");
        } else {
            // TCP repairs the others.
            assert_eq!(result.unwrap().bytes, 1_000_000, "{fault:?}");
        }
    }
}

/// One request at a time: there is no order, and a second reply is not awaited.
#[test]
fn ping_detects_loss_and_corruption_of_one_request() {
    let (lab, wire) = faulty_lab();
    let (one, two) = (lab.host(1).container("gindemo1"), lab.host(2).container("gindemo2"));
    let plan = Ping { timeout: Duration::from_millis(300), ..Ping::default() };
    assert!(ping(one, two.ip().into(), Ping::default()).unwrap().all());
    for fault in [Fault::Loss, Fault::Corruption, Fault::InvalidChecksum] {
        // Ethernet, IPv4, UDP and VXLAN outside; Ethernet, IPv4 and ICMP inside.
        wire.inject(Injector::new(fault, 2, move |frame| frame.len() == 50 + 42 + plan.size));
        let replies = ping(one, two.ip().into(), plan).unwrap();
        wire.wait_until_injected().unwrap();
        assert_eq!((replies.sent, replies.received), (5, 4), "{fault:?}");
    }
}

#[test]
fn lab_measures_traffic_rates_and_round_trips() {
    let lab = kernel_lab(Flavour::Docker);
    let (one, two) = (lab.host(1).container("gindemo1"), lab.host(2).container("gindemo2"));
    let (to, time, cpus) = (IpAddr::from(two.ip()), Duration::from_millis(300), Cpus::two());
    let udp = round_trips(Protocol::Udp, one, two, to, time, cpus).unwrap();
    let tcp = round_trips(Protocol::Tcp, one, two, to, time, cpus).unwrap();
    assert!(udp.count() > 100 && tcp.count() > 100);
    assert!(udp.percentile_us(50) > 1.0 && udp.percentile_us(99) >= udp.percentile_us(50));
    let rate = udp_rate(one, two, to, 64, time, cpus).unwrap();
    assert!(rate.datagrams > 100 && rate.datagrams <= rate.sent);
    let throughput = iperf3(one, two, to, Bulk { streams: 1, seconds: 1, warm_up: 0 }, cpus).unwrap().gbps;
    assert!(throughput > 0.1);
    assert!(connect_rate(one, two, to, time, Cpus::one()).unwrap().count > 10);
    for connection in [HttpConnection::KeepAlive, HttpConnection::Close] {
        for cpus in [Cpus::one(), Cpus::two()] {
            let requests = http_rate(connection, one, two, to, time, cpus).unwrap();
            assert!(requests.count > 10 && requests.elapsed >= time, "{connection:?}: {requests:?}");
        }
    }
    println!(
        "udp_rr {} µs, tcp_rr {} µs, {} kpps, {throughput} Gbit/s",
        udp.percentile_us(50),
        tcp.percentile_us(50),
        rate.received_kpps()
    );
}

#[test]
fn lab_measures_round_trips_on_many_flows_and_reports_a_flow_without_response() {
    let lab = kernel_lab(Flavour::Docker);
    let (one, two) = (lab.host(1).container("gindemo1"), lab.host(2).container("gindemo2"));
    let (to, time) = (IpAddr::from(two.ip()), Duration::from_millis(200));
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for flows in [1, 32] {
            let completed = concurrent_round_trips(protocol, flows, one, two, to, time, Cpus::one()).unwrap();
            assert!(completed.times.count() > 10 * flows && completed.elapsed >= time, "{protocol:?} {completed:?}");
        }
    }
    lab.host(1).try_script("ip link set enp0s3 down").unwrap();
    let error = concurrent_round_trips(Protocol::Udp, 2, one, two, to, time, Cpus::one()).unwrap_err();
    assert!(format!("{error:#}").contains("no response on 2 of 2 flows"), "{error:#}");
}

#[test]
fn lab_starts_kills_restarts_and_takes_down_daemons() {
    let pins = private_bpffs().unwrap();
    let lab = Lab::two_hosts();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("cluster.toml");
    Cluster::example(&lab).write(&config).unwrap();
    let start = |number| Daemon::start(lab.host(number), &config, &pins.join(lab.host(number).name())).unwrap();
    let (mut first, second) = (start(1), start(2));

    let (one, two) = (lab.host(1).container("gindemo1"), lab.host(2).container("gindemo2"));
    let assert_pings = || assert!(ping(one, two.ip().into(), Ping::default()).unwrap().all());
    assert_pings();
    assert!(first.packets("encap").unwrap() >= 5 && second.packets("decap").unwrap() >= 5);

    first.kill9().unwrap();
    assert_pings();
    assert_eq!(first.overlay(&["status", "--json"]).unwrap()["ready"], false);
    first.restart().unwrap();
    let status = first.sigterm().unwrap();
    assert!(status.success() || status.signal().is_some(), "{status}\n{}", first.log());
    assert_pings();

    first.down().unwrap();
    assert!(!pins.join("node01").exists());
    let quick = Ping { count: 1, timeout: Duration::from_millis(100), ..Ping::default() };
    assert!(ping(two, one.ip().into(), quick).unwrap().received == 0);
}

#[test]
fn failed_daemon_start_reports_reason() {
    let pins = private_bpffs().unwrap();
    let lab = Lab::two_hosts();
    let error = Daemon::start(lab.host(1), "/nowhere/cluster.toml".as_ref(), &pins.join("node01")).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("node01") && error.contains("/nowhere/cluster.toml"), "{error}");
}
