use std::collections::BTreeSet;

use crate::{
    api::types::{
        Amount, DaemonReport, DeviceCount, HeartbeatRow, NetworkKind, NetworkState, PortStatus, UnderlayRow,
        UnresolvedVtep, VtepRow,
    },
    model::Finding,
};

use super::*;

fn network(vni: u32, cause: Option<&str>) -> NetworkStatus {
    let is_accelerated = cause.is_none();
    NetworkStatus {
        name: Some(format!("network{vni}")),
        vni,
        kind: NetworkKind::Bridged,
        state: if is_accelerated { NetworkState::Accelerated } else { NetworkState::Kernel },
        cause: cause.map(str::to_owned),
        finding: cause.map(|cause| Finding::new(format!("VNI {vni}"), format!("it is {cause}"), "leave it")),
        device: "vxlan0".to_owned(),
        sandbox: Some(format!("/var/run/docker/netns/1-{vni}").into()),
        port: 4789,
        mtu: 1450,
        strict: false,
        local: 1,
        ports: vec![PortStatus {
            name: "veth0".to_owned(),
            container: Some("web.1".to_owned()),
            mac: Some("02:42:0a:00:01:02".to_owned()),
            finding: None,
        }],
        remote: 3,
        vteps: BTreeSet::from([[192, 168, 1, 10].into(), [192, 168, 1, 11].into()]),
        tx: is_accelerated.then_some(Amount { packets: 5, bytes: 500 }),
        rx: is_accelerated.then_some(Amount { packets: 7, bytes: 700 }),
        kernel: Some(DeviceCount { tx: 1, rx: 2 }),
    }
}

fn vtep(last: u8) -> VtepRow {
    let resolved = last != 11;
    VtepRow {
        address: [192, 168, 1, last].into(),
        port: 4789,
        resolved,
        device: resolved.then(|| "enp0s3".to_owned()),
        next_hop: resolved.then(|| "02:42:c0:a8:01:0a".to_owned()),
        mtu: if resolved { 1450 } else { 0 },
    }
}

fn report(networks: Vec<NetworkStatus>) -> StatusReport {
    StatusReport {
        ready: true,
        daemon: Some(42),
        kernel: "6.18".to_owned(),
        pin_root: "/sys/fs/bpf/overlay".into(),
        heartbeat: HeartbeatRow { left_s: Some(29), expired: false },
        underlay: Some(UnderlayRow {
            device: "enp0s3".to_owned(),
            address: [192, 168, 1, 9].into(),
            mac: "02:42:c0:a8:01:09".to_owned(),
            ports: vec![4789],
            rx: "tc",
        }),
        networks,
        vteps: vec![vtep(10), vtep(11)],
        hooks: Vec::new(),
        control: Some(DaemonReport {
            source: "discovery".to_owned(),
            node: "node01".to_owned(),
            ..DaemonReport::default()
        }),
    }
}

/// `count` networks, of which the first `encrypted` are encrypted.
fn many(count: u32, encrypted: u32) -> Vec<NetworkStatus> {
    (0..count).map(|index| network(5000 + index, (index < encrypted).then_some("encrypted"))).collect()
}

#[test]
fn thirty_networks_take_forty_lines() {
    for encrypted in [0, 5, 30] {
        let mut report = report(many(30, encrypted));
        report.control.as_mut().unwrap().problems = vec![Finding::new("daemon", "something", "do something")];
        let text = table::text(&report, None);
        assert!(text.lines().count() <= 40, "{}:\n{text}", text.lines().count());
        assert_eq!(text.lines().filter(|line| line.starts_with("network50")).count(), 30);
        // With the daemon's, and the unresolved VTEP.
        let message = format!("{} problems not shown; list with `overlay status --problems`", encrypted + 2);
        assert!(text.contains(&message), "{text}");
    }
}

#[test]
fn findings_are_listed_while_there_is_room() {
    let text = table::text(&report(many(25, 5)), None);
    assert_eq!(text.matches(" falls back to the kernel path: it is encrypted; leave it\n").count(), 5, "{text}");
    assert!(text.ends_with("1 problem not shown; list with `overlay status --problems`\n"), "{text}");
    let text = table::text(&report(many(24, 5)), None);
    assert!(text.contains("\nVTEP 192.168.1.11 falls back to the kernel path: its next hop is unresolved; "), "{text}");
    let text = table::text(&report(many(26, 5)), None);
    assert_eq!(text.matches("kernel path: it is").count(), 0, "{text}");
    assert!(text.ends_with("6 problems not shown; list with `overlay status --problems`\n"), "{text}");
}

#[test]
fn summaries_name_the_causes() {
    let text = table::text(&report(many(31, 5)), None);
    assert!(text.contains("\nnetworks 26 accelerated, 5 on the kernel path: encrypted\n"), "{text}");
    assert!(text.contains("\nVTEPs    2, 1 unresolved (kernel path)\n"), "{text}");
    let mut networks = many(31, 5);
    for network in &mut networks[..2] {
        network.cause = Some("filtered".to_owned());
    }
    let text = table::text(&report(networks), None);
    assert!(text.contains("\nnetworks 26 accelerated, 5 on the kernel path: 3 encrypted, 2 filtered\n"), "{text}");
}

#[test]
fn networks_are_sorted_by_name_and_unnamed_ones_by_vni() {
    let mut networks = many(4, 0);
    networks[0].name = None;
    networks[1].name = Some("zebra".to_owned());
    networks[2].name = Some("ant".to_owned());
    networks[3].name = None;
    let text = table::text(&report(networks), None);
    let first: Vec<_> = text.lines().skip_while(|line| !line.starts_with("NETWORK")).skip(1).take(4).collect();
    let vnis: Vec<_> = first.iter().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(vnis, ["5002", "5001", "5000", "5003"], "{text}");
    assert!(!text.contains("\n\n\n"), "{text}");
}

#[test]
fn network_is_found_by_name_and_by_vni() {
    let mut report = report(many(3, 1));
    report.networks[2].name = Some("5000".to_owned());
    assert_eq!(find(&report, "network5001").unwrap()[0].network.vni, 5001);
    assert_eq!(find(&report, "5001").unwrap()[0].network.vni, 5001);
    assert_eq!(find(&report, "5000").unwrap()[0].network.vni, 5002, "a name precedes a VNI");
    let error = find(&report, "nowhere").unwrap_err().to_string();
    assert!(error.contains("network \"nowhere\"") && error.contains("overlay status"), "{error}");
}

#[test]
fn status_of_one_network_shows_all_its_fields() {
    let report = report(many(2, 1));
    let text = network::text(&find(&report, "5001").unwrap()[0]);
    for part in [
        "network  network5001\n",
        "VNI      5001, UDP 4789, MTU 1450\n",
        "state    accelerated\n",
        "device   vxlan0 in 1-5001\n",
        "fast     TX packets 5 bytes 500, RX packets 7 bytes 700\n",
        "kernel   TX packets 1, RX packets 2\n",
        "veth0  web.1      02:42:0a:00:01:02  accelerated",
        "192.168.1.10  enp0s3  02:42:c0:a8:01:0a",
        "192.168.1.11  -       unresolved (kernel path)",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let text = network::text(&find(&report, "5000").unwrap()[0]);
    assert!(text.contains("state    kernel path: encrypted\n"), "{text}");
    assert!(text.contains("VNI 5000 falls back to the kernel path: it is encrypted; leave it\n"), "{text}");
}

#[test]
fn problems_are_one_line_each() {
    let mut seen = report(many(2, 1));
    let vtep = "VTEP 192.168.1.11: its next hop is unresolved; see `ip route get 192.168.1.11`\n";
    let expected = format!("VNI 5000: it is encrypted; leave it\n{vtep}");
    assert_eq!(problems::text(&problems::all(&seen, None)), expected);
    // The daemon's report has the cause.
    let of = |vni, problem| UnresolvedVtep {
        address: [192, 168, 1, 11].into(),
        port: 4789,
        vni,
        finding: Finding::new("VTEP 192.168.1.11", problem, "remedy"),
    };
    let control = seen.control.as_mut().unwrap();
    control.unresolved = vec![of(None, "the cause"), of(Some(5001), "another route")];
    let expected = "VNI 5000: it is encrypted; leave it\nVTEP 192.168.1.11: the cause; remedy\n\
                    VTEP 192.168.1.11: another route; remedy\n";
    assert_eq!(problems::text(&problems::all(&seen, None)), expected);
    let detail = network::text(&find(&seen, "5001").unwrap()[0]);
    assert_eq!(detail.matches("VTEP 192.168.1.11 falls back to the kernel path: ").count(), 2, "{detail}");
    seen.control.as_mut().unwrap().unresolved.clear();
    (seen.networks, seen.vteps) = (Vec::new(), Vec::new());
    assert_eq!(problems::text(&problems::all(&seen, None)), "no problems\n");
    (seen.daemon, seen.control) = (None, None);
    let text = problems::text(&problems::all(&seen, Some("no daemon answers")));
    assert_eq!(text, "daemon: not running; start it with `overlay run`\n");
}
