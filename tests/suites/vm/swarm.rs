//! What a Docker Swarm can do with IPVS and ESP, beside an accelerated network.

use std::{
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
/// `nc` ends after each connection, and the next one begins a moment later.
const SAY_THE_NAME: &str = "while :; do hostname | nc -lp 80; done";

#[test]
fn service_addresses_the_ingress_mesh_and_encryption_stay_beside_an_accelerated_network() {
    let setup = Accelerated::start(2, &[1, 2]);
    service_address(&setup);
    ingress_mesh(&setup.swarm);
    encrypted_network(&setup);
}

/// What a server says to whoever connects, from a namespace; `None` when it does not.
fn greeting(from: &NetNs, to: SocketAddr) -> Option<String> {
    from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        (!said.is_empty()).then_some(said)
    })
}

/// One virtual address for tasks on both nodes, by IPVS in the containers' namespaces.
fn service_address(setup: &Accelerated) {
    let swarm = &setup.swarm;
    let create = ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--name", "demo"];
    let rest = ["--replicas", "2", "--network", NETWORK, IMAGE, "sh", "-c", SAY_THE_NAME];
    swarm.node(1).docker(&[create.as_slice(), &rest].concat()).unwrap();
    swarm.wait_for_tasks("demo", 2).unwrap();
    let format = "{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}";
    let addresses = swarm.node(1).docker(&["service", "inspect", "--format", format, "demo"]).unwrap();
    let address = addresses.split_whitespace().find(|address| address.starts_with("10.0.1.")).unwrap();
    let address: Ipv4Addr = address.split('/').next().unwrap().parse().unwrap();
    for container in [&setup.one, &setup.two] {
        let mut names = Vec::new();
        // Round robin: after a few each has had its turn.
        until("both tasks answer on the service's address", || {
            names.extend(greeting(container, (address, 80).into()));
            names.sort();
            names.dedup();
            names.len() == 2
        });
    }
}

/// A published port answers on every node, also where no task runs.
fn ingress_mesh(swarm: &Swarm) {
    let create = ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--name", "web"];
    let rest = ["--replicas", "1", "--publish", "8080:80", IMAGE, "sh", "-c", SAY_THE_NAME];
    swarm.node(1).docker(&[create.as_slice(), &rest].concat()).unwrap();
    swarm.wait_for_tasks("web", 1).unwrap();
    for [from, to] in [[1, 2], [2, 1]] {
        let (from, to) = (swarm.node(from), swarm.node(to));
        until("the published port answers", || greeting(from.host(), (to.address(), 8080).into()).is_some());
    }
}

/// Every packet of it is ESP on the wire, while the network beside it is accelerated.
fn encrypted_network(setup: &Accelerated) {
    let swarm = &setup.swarm;
    swarm.network(ENCRYPTED, "10.0.9.0/24", &["--opt", "encrypted"]).unwrap();
    let wire = [1, 2].map(|node| PacketSocket::open(swarm.node(node).host(), NIC).unwrap());
    let ips: [Ipv4Addr; 2] = [[10, 0, 9, 2].into(), [10, 0, 9, 6].into()];
    for node in [1, 2] {
        swarm.container(node, &format!("secret{node}"), ENCRYPTED, ips[node - 1]).unwrap();
    }
    let vni = swarm.node(1).sandbox(ENCRYPTED).unwrap().fdb().unwrap().unwrap().vni;
    let one = swarm.node(1).container("secret1").unwrap();
    until("secret2 answers", || ping(&one, ips[1].into(), Ping::default()).unwrap().received > 0);

    let before = [1, 2].map(|node| setup.counts(node));
    let plan = Ping { count: PINGS, timeout: Duration::from_secs(3), ..Ping::default() };
    assert!(ping(&one, ips[1].into(), plan).unwrap().all());
    for (from, to) in [(&setup.one, GINDEMO2), (&setup.two, GINDEMO1)] {
        assert!(ping(from, to.into(), plan).unwrap().all());
    }
    for (node, before) in [1, 2].into_iter().zip(before) {
        let counts = setup.counts(node).since(&before);
        assert!(counts.of("encap") >= 2 * u64::from(PINGS), "the network beside it: node0{node} {counts:?}");
        let status = setup.daemon(node).overlay(&["status", "--json"]).unwrap();
        assert!(setup.fdb(node, u64::from(vni)).is_empty(), "{status}");
        assert!(!setup.fdb(node, VNI).is_empty(), "{status}");
    }
    for (node, socket) in [1, 2].into_iter().zip(wire) {
        let (mut esp, mut clear) = (0, 0);
        while let Some(frame) = socket.receive(Instant::now()).unwrap() {
            let is_ipv4 = frame.get(12..14) == Some(&[0x08, 0x00]);
            esp += u64::from(is_ipv4 && frame.get(23) == Some(&50));
            let is_vxlan = is_ipv4 && frame.get(23) == Some(&17) && frame.get(36..38) == Some(&4789_u16.to_be_bytes());
            clear += u64::from(is_vxlan && frame.get(46..49) == vni.to_be_bytes().get(1..));
        }
        assert_eq!(clear, 0, "packets of the encrypted network came to node0{node} in the clear");
        assert!(esp >= u64::from(PINGS), "{esp} ESP packets came to node0{node}");
    }
}
