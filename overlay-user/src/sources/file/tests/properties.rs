//! Property tests of configuration files.

use std::{collections::BTreeSet, fmt::Write, net::Ipv4Addr};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni, VtepAddr};
use proptest::{collection::btree_set, option, prelude::*, sample::Index};

use crate::{
    model::{Attachment, Cluster, Endpoint, Host, NetworkSpec, Parts, Rx},
    sources::file::parse,
};

/// The TOML text of `cluster`.
fn to_toml(cluster: &Cluster) -> String {
    let mut text = String::new();
    let rx = |rx| if rx == Rx::Xdp { "xdp" } else { "tc" };
    if let Some(size) = cluster.fdb_size {
        writeln!(text, "fdb_size = {size}").unwrap();
    }
    for Host { name, address, rx: hook } in &cluster.hosts {
        writeln!(text, "[[hosts]]\nname = {name:?}\naddress = \"{address}\"\nrx = {:?}", rx(*hook)).unwrap();
    }
    for NetworkSpec { name, vni, subnet, gateway, mtu, port, strict, overlap } in &cluster.networks {
        writeln!(text, "[[networks]]\nname = {name:?}\nvni = {vni}\nsubnet = \"{subnet}\"").unwrap();
        writeln!(text, "gateway = \"{gateway}\"\nport = {port}\nstrict = {strict}\noverlap = {overlap}").unwrap();
        if let Some(mtu) = mtu {
            writeln!(text, "mtu = {mtu}").unwrap();
        }
    }
    for Endpoint { name, vni, ip, mac, host, attachment } in &cluster.endpoints {
        let network = &cluster.networks.iter().find(|network| network.vni == *vni).unwrap().name;
        writeln!(text, "[[endpoints]]\nnetwork = {network:?}\nname = {name:?}\nip = \"{ip}\"").unwrap();
        writeln!(text, "mac = \"{mac}\"\nhost = \"{host}\"").unwrap();
        match attachment {
            Attachment::Netns(path) => writeln!(text, "netns = {path:?}").unwrap(),
            Attachment::Port(port) => writeln!(text, "port = {port:?}").unwrap(),
            Attachment::Unspecified => {}
        }
    }
    text
}

fn hosts() -> impl Strategy<Value = Vec<Host>> {
    btree_set(1u8..255, 1..6).prop_flat_map(|addresses| {
        let hosts: Vec<_> = addresses
            .into_iter()
            .map(|last| {
                let address = VtepAddr::from([192, 168, 1, last]);
                prop_oneof![Just(Rx::Tc), Just(Rx::Xdp)].prop_map(move |rx| Host {
                    name: format!("h-{last}"),
                    address,
                    rx,
                })
            })
            .collect();
        hosts
    })
}

/// A network `10.<number>.0.0/<prefix>` with all its free choices.
fn network(number: u8, vni: u32) -> impl Strategy<Value = NetworkSpec> {
    (16u8..=30, 4789u16..4793, option::of(576u16..=65485), any::<[bool; 3]>()).prop_map(
        move |(prefix, port, mtu, [strict, overlap, last])| {
            let subnet = Ipv4Net::new(Ipv4Addr::new(10, number, 0, 0), prefix).unwrap();
            let gateway = if last { subnet.broadcast().to_bits() - 1 } else { subnet.network().to_bits() + 1 };
            let (name, vni, gateway) = (format!("n{number}"), Vni::new(vni).unwrap(), gateway.into());
            NetworkSpec { name, vni, subnet, gateway, mtu, port, strict, overlap }
        },
    )
}

fn networks() -> impl Strategy<Value = Vec<NetworkSpec>> {
    btree_set(1..=Vni::MAX.get(), 0..5)
        .prop_flat_map(|vnis| vnis.into_iter().zip(0u8..).map(|(vni, number)| network(number, vni)).collect::<Vec<_>>())
}

prop_compose! {
    fn clusters()(
        hosts in hosts(),
        networks in networks(),
        choices in proptest::collection::vec((any::<[Index; 3]>(), any::<[bool; 2]>(), any::<[u8; 5]>()), 0..40),
        fdb_size in option::of(40u32..=1 << 24),
    ) -> Cluster {
        let mut endpoints = Vec::new();
        let mut taken = BTreeSet::new();
        for (number, ([network, host, ip], [port, default_mac], mac)) in choices.into_iter().enumerate() {
            if networks.is_empty() { break; }
            let NetworkSpec { vni, subnet, gateway, .. } = *network.get(&networks);
            let first = subnet.network().to_bits() + 1;
            let ip = Ipv4Addr::from(first + ip.index((subnet.broadcast().to_bits() - first) as usize) as u32);
            let mac = if default_mac {
                MacAddr::from_ipv4(ip.octets())
            } else {
                MacAddr([0x06, mac[0], mac[1], mac[2], mac[3], mac[4]])
            };
            if ip == gateway || !taken.insert((vni, Ok(ip))) || !taken.insert((vni, Err(mac))) { continue; }
            let attachment = match (port, number % 2) {
                (false, 0) => Attachment::Unspecified,
                (false, _) => Attachment::Netns(format!("/run/netns/e{number}").into()),
                (true, _) => Attachment::Port(format!("tap{number}")),
            };
            let host = host.get(&hosts).address;
            endpoints.push(Endpoint { name: format!("e{number}"), vni, ip, mac, host, attachment });
        }
        Cluster::new(Parts { hosts, networks, endpoints, fdb_size, discover: None }).unwrap()
    }
}

proptest! {
    #![proptest_config(crate::seed::property())]

    #[test]
    fn valid_cluster_parses_to_itself(cluster in clusters()) {
        prop_assert_eq!(cluster.validate(), Ok(()));
        prop_assert_eq!(parse(&to_toml(&cluster), "cluster.toml"), Ok(cluster));
    }

    #[test]
    fn view_has_each_endpoint_once_as_local_or_remote(cluster in clusters()) {
        for host in &cluster.hosts {
            let view = cluster.view(host.address).unwrap();
            prop_assert_eq!(view.host(), host);
            for network in &cluster.networks {
                let all: Vec<_> = cluster.endpoints.iter().filter(|endpoint| endpoint.vni == network.vni).collect();
                let Some(seen) = view.networks().get(&network.vni) else {
                    prop_assert!(all.iter().all(|endpoint| endpoint.host != host.address));
                    continue;
                };
                prop_assert_eq!(seen.network(), network);
                prop_assert!(!seen.local().is_empty());
                prop_assert!(seen.local().iter().all(|endpoint| endpoint.host == host.address));
                prop_assert!(!seen.remote().has_host(host.address));
                prop_assert_eq!(seen.local().len() + seen.remote().len(), all.len());
                let is_seen = |endpoint: &Endpoint| {
                    seen.local().contains(endpoint) || seen.remote().get(&endpoint.name) == Some(&endpoint.into())
                };
                prop_assert!(all.into_iter().all(is_seen));
            }
        }
    }

    /// Endpoints from a very small set of values, so that collisions are frequent.
    #[test]
    fn parsed_cluster_has_no_duplicate_fdb_key(
        values in proptest::collection::vec((0u32..2, 0u8..4, 0u8..6, 0u8..6), 1..6)
    ) {
        let mut text = "[[hosts]]\nname = \"h\"\naddress = \"192.168.1.1\"\n".to_owned();
        for vni in 1..=2 {
            let network = format!("name = \"n{vni}\"\nvni = {vni}\nsubnet = \"10.0.0.0/29\"\noverlap = true\n");
            text += &format!("[[networks]]\n{network}");
        }
        for (network, name, ip, mac) in values {
            let keys = format!("network = \"n{}\"\nname = \"e{name}\"\nip = \"10.0.0.{ip}\"\n", network + 1);
            text += &format!("[[endpoints]]\n{keys}mac = \"02:42:0a:00:00:0{mac}\"\nhost = \"h\"\n");
        }
        if let Ok(cluster) = parse(&text, "cluster.toml") {
            let keys: BTreeSet<_> = cluster.endpoints.iter().map(|endpoint| (endpoint.vni, endpoint.mac)).collect();
            prop_assert_eq!(keys.len(), cluster.endpoints.len());
        }
    }

    #[test]
    fn parser_never_panics_and_every_error_has_a_line(
        cluster in clusters(), at: Index, junk in "[\\PC\n\"=\\[\\]]{0,6}"
    ) {
        let mut text = to_toml(&cluster);
        text.insert_str(at.index(text.len()), &junk);
        if let Err(errors) = parse(&text, "cluster.toml") {
            let last = text.lines().count() + 1;
            prop_assert!(!errors.errors().is_empty());
            prop_assert!(errors.errors().iter().all(|error| error.line.is_some_and(|line| (1..=last).contains(&line))));
        }
    }
}
