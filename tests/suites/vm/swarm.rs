//! Docker Swarm features that need IPVS and ESP, beside an accelerated network.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use overlay_tests::lab::{
    NIC, NetNs, PacketSocket,
    swarm::{IMAGE, Swarm},
    traffic::{Ping, ping},
};

use super::swarm_setup::{Accelerated, GINDEMO1, GINDEMO2, NETWORK, VNI, until};

const ENCRYPTED: &str = "secret";
const PINGS: u16 = 20;
/// `nc` serves one connection, and the loop restarts it.
const SERVE_HOSTNAME: &str = "while :; do hostname | nc -lp 80; done";

#[test]
fn service_vip_ingress_mesh_and_encryption_work_beside_accelerated_network() {
    let start = Instant::now();
    let report_step = |what: &str| println!("{:4} s: {what}", start.elapsed().as_secs());
    println!();
    let mut setup = Accelerated::on(Swarm::up(2).unwrap(), |swarm| swarm.hold_network(NETWORK).unwrap());
    report_step("two nodes are a Swarm with a network");
    [1, 2].into_iter().for_each(|node| setup.start_daemon(node));
    setup.warm_up();
    report_step("both nodes accelerate the network");
    service_address(&setup);
    report_step("both tasks of a service answer on its one address, to containers on both nodes");
    ingress_mesh(&setup.swarm);
    report_step("a published port answers on both nodes");
    encrypted_network(&mut setup);
    report_step("an encrypted network is ESP on the wire, beside the accelerated one");
}

/// Text that a server sends to a client in a netns; `None`: no answer.
fn greeting(from: &NetNs, to: SocketAddr) -> Option<String> {
    from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        (!text.is_empty()).then_some(text)
    })
}

/// One virtual address for tasks on both nodes, by IPVS in the containers' netns.
fn service_address(setup: &Accelerated) {
    let swarm = &setup.swarm;
    let create = ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--name", "demo"];
    let rest = ["--replicas", "2", "--network", NETWORK, IMAGE, "sh", "-c", SERVE_HOSTNAME];
    swarm.node(1).docker(&[create.as_slice(), &rest].concat()).unwrap();
    swarm.wait_for_tasks("demo", 2).unwrap();
    let format = "{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}";
    let addresses = swarm.node(1).docker(&["service", "inspect", "--format", format, "demo"]).unwrap();
    let address = addresses.split_whitespace().find(|address| address.starts_with("10.0.1.")).unwrap();
    let address: Ipv4Addr = address.split('/').next().unwrap().parse().unwrap();
    for container in [&setup.one, &setup.two] {
        let mut names = Vec::new();
        // IPVS distributes connections round robin.
        until("both tasks answer on the service's address", || {
            names.extend(greeting(container, (address, 80).into()));
            names.sort();
            names.dedup();
            names.len() == 2
        });
    }
}

/// A published port answers on every node, with or without a task.
fn ingress_mesh(swarm: &Swarm) {
    let create = ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--name", "web"];
    let rest = ["--replicas", "1", "--publish", "8080:80", IMAGE, "sh", "-c", SERVE_HOSTNAME];
    swarm.node(1).docker(&[create.as_slice(), &rest].concat()).unwrap();
    swarm.wait_for_tasks("web", 1).unwrap();
    for [from, to] in [[1, 2], [2, 1]] {
        let (from, to) = (swarm.node(from), swarm.node(to));
        until("the published port answers", || greeting(from.host(), (to.address(), 8080).into()).is_some());
    }
}

/// All packets of an encrypted network are ESP on the wire, while the other network is accelerated.
fn encrypted_network(setup: &mut Accelerated) {
    let swarm = &setup.swarm;
    swarm.network(ENCRYPTED, "10.0.9.0/24", &["--opt", "encrypted"]).unwrap();
    swarm.hold_network(ENCRYPTED).unwrap();
    let wire = [1, 2].map(|node| PacketSocket::open(swarm.node(node).host(), NIC).unwrap());
    let ips: [Ipv4Addr; 2] = [[10, 0, 9, 2].into(), [10, 0, 9, 6].into()];
    for node in [1, 2] {
        swarm.container(node, &format!("secret{node}"), ENCRYPTED, ips[node - 1]).unwrap();
    }
    let vni = u64::from(swarm.node(1).sandbox(ENCRYPTED).unwrap().fdb().unwrap().unwrap().vni);
    let one = swarm.node(1).container("secret1").unwrap();
    until("secret2 answers", || ping(&one, ips[1].into(), Ping::default()).unwrap().received > 0);

    let before = [1, 2].map(|node| setup.counts(node));
    let plan = Ping { count: PINGS, timeout: Duration::from_secs(3), ..Ping::default() };
    assert!(ping(&one, ips[1].into(), plan).unwrap().all());
    for (from, to) in [(&setup.one, GINDEMO2), (&setup.two, GINDEMO1)] {
        assert!(ping(from, to.into(), plan).unwrap().all());
    }
    for (node, before) in [1, 2].into_iter().zip(before) {
        let counts = setup.counts(node).since_ignoring_removed_devices(&before);
        assert!(counts.of("encap") >= 2 * u64::from(PINGS), "the accelerated network: node0{node} {counts:?}");
        let status = setup.daemon(node).overlay(&["status", "--json"]).unwrap();
        assert!(setup.fdb(node, vni).is_empty(), "{status}");
        assert!(!setup.fdb(node, VNI).is_empty(), "{status}");
    }

    // A daemon that starts with an existing encrypted network refuses it.
    setup.down(1);
    setup.start_daemon(1);
    assert!(setup.fdb(1, vni).is_empty());
    assert!(ping(&one, ips[1].into(), plan).unwrap().all());
    setup.wait_for_map(1, VNI, GINDEMO2, 2);
    assert!(setup.fdb(1, vni).is_empty());

    for (node, socket) in [1, 2].into_iter().zip(wire) {
        let (mut esp, mut clear) = (0, BTreeMap::<u64, u64>::new());
        while let Some(frame) = socket.receive(Instant::now()).unwrap() {
            let is_ipv4 = frame.get(12..14) == Some(&[0x08, 0x00]);
            esp += u64::from(is_ipv4 && frame.get(23) == Some(&50));
            let is_vxlan = is_ipv4 && frame.get(23) == Some(&17) && frame.get(36..38) == Some(&4789_u16.to_be_bytes());
            if let Some([a, b, c]) = frame.get(46..49).filter(|_| is_vxlan) {
                *clear.entry(u32::from_be_bytes([0, *a, *b, *c]).into()).or_default() += 1;
            }
        }
        assert!(
            !clear.contains_key(&vni),
            "packets of the encrypted network came to node0{node} in the clear: {clear:?}"
        );
        assert!(clear.contains_key(&VNI), "no packet of the accelerated network was captured: {clear:?}");
        assert!(esp >= u64::from(PINGS), "{esp} ESP packets came to node0{node}");
    }
}
