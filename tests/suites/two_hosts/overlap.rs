//! Two networks with the same IP and MAC addresses are isolated.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use overlay_tests::lab::{
    Cluster, Lab, NetNs, Network,
    traffic::{Ping, ping, tcp_transfer},
};
use socket2::{Domain, Protocol, Socket, Type};

use overlay_tests::testbed::{GINDEMO1, GINDEMO2, Testbed};

const PORT: u16 = 9000;
/// Target addresses of ARP requests by network.
const ARP_TARGETS: [(&str, Ipv4Addr); 2] =
    [("red", Ipv4Addr::new(10, 0, 1, 77)), ("blue", Ipv4Addr::new(10, 0, 1, 88))];

/// Networks `red` and `blue`, with red1 and blue1 on node01 and red2 and blue2 on node02.
pub(super) fn overlapping(udp_ports: [u16; 2]) -> Testbed {
    let builder = Lab::builder(2).container(1, "blue1", GINDEMO1).container(2, "blue2", GINDEMO2);
    let mut setup = Testbed::new(builder.build().unwrap());
    let network = |name: &str, vni, port| Network {
        name: name.to_owned(),
        vni,
        port: Some(port),
        gateway: None,
        overlap: true,
        ..Network::example()
    };
    let Cluster { networks, endpoints, .. } = &mut setup.cluster;
    *networks = vec![network("red", 4097, udp_ports[0]), network("blue", 4098, udp_ports[1])];
    for endpoint in endpoints {
        endpoint.network = if endpoint.name.starts_with("blue") { "blue" } else { "red" }.to_owned();
        let last = endpoint.ip.octets()[3];
        endpoint.mac = Some(format!("02:42:0a:00:01:{last:02x}"));
    }
    setup.run()
}

/// Receives datagrams and ARP requests in a container.
pub(super) struct Receiver {
    datagrams: UdpSocket,
    arp: Socket,
}

impl Receiver {
    pub(super) fn open(container: &NetNs) -> Self {
        container.enter(|| {
            let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
            datagrams.set_nonblocking(true).unwrap();
            let arp = (libc::ETH_P_ARP as u16).to_be();
            let arp = Socket::new(Domain::PACKET, Type::from(libc::SOCK_RAW), Some(Protocol::from(i32::from(arp))));
            let arp = arp.unwrap();
            arp.set_nonblocking(true).unwrap();
            Self { datagrams, arp }
        })
    }

    /// Receives until `enough` datagrams have arrived, and 200 ms longer to detect additional ones. Returns the number
    /// of datagrams by text, and the target addresses of ARP requests.
    fn receive(&mut self, enough: usize) -> (BTreeMap<String, usize>, Vec<Ipv4Addr>) {
        let (mut texts, mut targets) = (BTreeMap::new(), Vec::new());
        let start = Instant::now();
        let mut end = start + Duration::from_secs(5);
        while Instant::now() < end {
            let mut buffer = [0; 2048];
            match self.datagrams.recv(&mut buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    *texts.entry(text).or_default() += 1;
                    if texts.values().sum::<usize>() == enough {
                        end = Instant::now() + Duration::from_millis(200);
                    }
                    continue;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            if let Ok(length) = self.arp.read(&mut buffer) {
                // Ethernet, then the target's address at 24 (RFC 826).
                let target: [u8; 4] = buffer[..length][14 + 24..][..4].try_into().unwrap();
                targets.push(target.into());
                continue;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        (texts, targets)
    }
}

fn assert_isolated(udp_ports: [u16; 2]) {
    let setup = overlapping(udp_ports);
    let container = |colour: &str, host: usize| &setup.lab.host(host).containers()[usize::from(colour == "blue")];
    for (host, address) in [(1, GINDEMO2), (2, GINDEMO1)] {
        for colour in ["red", "blue"] {
            assert!(ping(container(colour, host), address.into(), Ping::default()).unwrap().all(), "{colour}");
        }
    }
    for (host, other, address) in [(1, 2, GINDEMO2), (2, 1, GINDEMO1)] {
        let mut receivers = ["red", "blue"].map(|colour| Receiver::open(container(colour, other)));
        let before = [setup.counts(1), setup.counts(2)];
        for (colour, target_ip) in ARP_TARGETS {
            container(colour, host).enter(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.set_broadcast(true).unwrap();
                for _ in 0..50 {
                    socket.send_to(format!("{colour} to one").as_bytes(), (address, PORT)).unwrap();
                }
                for _ in 0..5 {
                    let all = SocketAddr::from(([10, 0, 1, 255], PORT));
                    socket.send_to(format!("{colour} to all").as_bytes(), all).unwrap();
                }
                // No container has this address: only the ARP request is sent.
                let _ = socket.send_to(b"?", (target_ip, PORT));
            });
        }
        for (receiver, (colour, target_ip)) in receivers.iter_mut().zip(ARP_TARGETS) {
            let (texts, targets) = receiver.receive(55);
            let expected = [(format!("{colour} to all"), 5), (format!("{colour} to one"), 50)];
            assert_eq!(texts, BTreeMap::from(expected), "received in {colour} from node0{host}");
            assert!(targets.contains(&target_ip), "{colour} from node0{host}: {targets:?}");
            let leaked = ARP_TARGETS.iter().find(|(other, address)| *other != colour && targets.contains(address));
            assert_eq!(leaked, None, "received in {colour} from node0{host}");
        }
        let counts = [setup.counts(1).since(&before[0]), setup.counts(2).since(&before[1])];
        assert!(counts[host - 1].of("encap") >= 100, "{counts:?}");
        assert!(counts[other - 1].received() >= 100, "{counts:?}");
        for colour in ["red", "blue"] {
            tcp_transfer(container(colour, host), container(colour, other), address.into(), 3_000_001).unwrap();
        }
    }
    let report = setup.daemon(1).overlay(&["counters", "--json"]).unwrap();
    for network in report["networks"].as_array().unwrap() {
        assert!(network["tx"]["packets"].as_u64().unwrap() > 2000, "{report}");
        assert!(network["rx"]["packets"].as_u64().unwrap() > 2000, "{report}");
    }
}

#[test]
fn networks_with_same_addresses_are_isolated() {
    assert_isolated([4789, 4789]);
}

#[test]
fn networks_with_same_addresses_on_two_udp_ports_are_isolated() {
    assert_isolated([4789, 8472]);
}
