//! The rules for every [`Cluster`].

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Display,
    hash::Hash,
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni, VtepAddr, maps};

use super::{
    Attachment, Cluster, Endpoint, Finding, Findings, NetworkSpec, Parts, listed,
    rule::{self, FDB_SIZE_MAX, Field, Located, MTU_MAX, MTU_MIN, PREFIX_MAX, PREFIX_MIN, PartRef},
};

impl Cluster {
    /// The cluster of these parts.
    ///
    /// # Errors
    /// As [`Parts::validate`].
    pub fn new(parts: Parts) -> Result<Self, Findings<Located>> {
        parts.validate()?;
        Ok(Self(parts))
    }
}

impl Parts {
    /// Checks all rules.
    ///
    /// # Errors
    /// All violations: hosts first, then networks, then endpoints.
    pub fn validate(&self) -> Result<(), Findings<Located>> {
        let mut check = Check { cluster: self, found: Vec::new() };
        check.fdb_size();
        check.hosts();
        check.networks();
        check.endpoints();
        check.found.into_iter().collect::<Findings<_>>().none()
    }
}

struct Check<'a> {
    cluster: &'a Parts,
    found: Vec<Located>,
}

/// The first part with each value.
type Users<K> = HashMap<K, PartRef>;

impl<'a> Check<'a> {
    fn fail(&mut self, part: PartRef, field: Field, finding: Finding) {
        self.fail_beside(None, part, field, finding);
    }

    /// As [`Self::fail`], for a problem that names the part `other` last.
    fn fail_beside(&mut self, other: Option<PartRef>, part: PartRef, field: Field, finding: Finding) {
        let finding = finding.about(label(self.cluster, part));
        self.found.push(Located { part, field, other, finding });
    }

    /// Checks that `key` is unique, and returns whether it is.
    fn check_unique<K: Eq + Hash>(
        &mut self,
        users: &mut Users<K>,
        key: K,
        (object, field, value): (PartRef, Field, &dyn Display),
        each: &'static str,
    ) -> bool {
        let first = *users.entry(key).or_insert(object);
        if first != object {
            let finding = rule::already_used(field, value, &label(self.cluster, first), each);
            self.fail_beside(Some(first), object, field, finding);
        }
        first == object
    }

    fn name(&mut self, object: PartRef, name: &str) {
        let valid = (1..=63).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !valid {
            let remedy = "use 1 to 63 letters, digits, '_', '-' and '.', beginning with a letter or a digit";
            self.fail(object, Field::Name, Finding::unnamed(format!("name {name:?} is not allowed"), remedy));
        }
    }

    fn fdb_size(&mut self) {
        let size = self.cluster.fdb_size.unwrap_or(maps::FDB.entries);
        let endpoints = self.cluster.endpoints.len();
        if !(1..=FDB_SIZE_MAX).contains(&size) {
            self.fail(PartRef::Cluster, Field::FdbSize, rule::fdb_size(size.into()));
        } else if usize::try_from(size).is_ok_and(|size| size < endpoints) {
            let problem = format!("fdb_size {size} is less than the {endpoints} endpoints");
            let finding = Finding::unnamed(problem, format!("raise it to at least {endpoints}"));
            self.fail(PartRef::Cluster, Field::FdbSize, finding);
        }
    }

    fn hosts(&mut self) {
        let (mut by_name, mut by_address) = (Users::new(), Users::new());
        for (index, host) in self.cluster.hosts.iter().enumerate() {
            let object = PartRef::Host(index);
            self.name(object, &host.name);
            if host.name.parse::<VtepAddr>().is_ok_and(|address| address != host.address) {
                let problem = format!("name {:?} is an address other than the host's own", host.name);
                let finding = Finding::unnamed(problem, "choose a name that is not an address");
                self.fail(object, Field::Name, finding);
            }
            if let Some(kind) = not_unicast(host.address.ipv4()) {
                let problem = format!("address {} is {kind}", host.address);
                let finding = Finding::unnamed(problem, "use the unicast address of the host's underlay device");
                self.fail(object, Field::Address, finding);
            }
            self.check_unique(&mut by_name, &host.name, (object, Field::Name, &quoted(&host.name)), "host");
            self.check_unique(&mut by_address, host.address, (object, Field::Address, &host.address), "host");
        }
    }

    fn networks(&mut self) {
        let (mut by_name, mut by_vni) = (Users::new(), Users::new());
        let mut ports = BTreeSet::new();
        for (index, network) in self.cluster.networks.iter().enumerate() {
            let object = PartRef::Network(index);
            self.name(object, &network.name);
            self.check_unique(&mut by_name, &network.name, (object, Field::Name, &quoted(&network.name)), "network");
            self.check_unique(&mut by_vni, network.vni, (object, Field::Vni, &network.vni), "network");
            if let Some(finding) = subnet(network.subnet) {
                self.fail(object, Field::Subnet, finding);
            } else if let Some(finding) = reserved(Field::Gateway, network.gateway, network.subnet) {
                self.fail(object, Field::Gateway, finding);
            }
            self.overlap(index, network);
            if let Some(mtu) = network.mtu.filter(|mtu| !(MTU_MIN..=MTU_MAX).contains(mtu)) {
                self.fail(object, Field::Mtu, rule::mtu(mtu.into()));
            }
            if network.port == 0 {
                self.fail(object, Field::Port, rule::port(0));
            } else if !ports.contains(&network.port) {
                if ports.len() == maps::UDP_PORTS {
                    let used = listed(&ports);
                    let problem = format!(
                        "port {} exceeds the {} UDP ports that a cluster supports (in use: {used})",
                        network.port,
                        maps::UDP_PORTS
                    );
                    self.fail(object, Field::Port, Finding::unnamed(problem, "use one of these ports"));
                } else {
                    ports.insert(network.port);
                }
            }
        }
    }

    /// Reports the first network in the list that overlaps `network`, each pair once.
    fn overlap(&mut self, index: usize, network: &NetworkSpec) {
        let other = self.cluster.networks.iter().take(index).enumerate().find(|(_, other)| {
            let (a, b) = (other.subnet, network.subnet);
            (a.contains(&b.network()) || b.contains(&a.network())) && !(other.overlap && network.overlap)
        });
        if let Some((other, NetworkSpec { subnet, .. })) = other {
            let other = PartRef::Network(other);
            let problem = format!("subnet {} overlaps {subnet} of {}", network.subnet, label(self.cluster, other));
            let finding = Finding::unnamed(problem, "use another subnet, or set overlap = true in both networks");
            self.fail_beside(Some(other), PartRef::Network(index), Field::Subnet, finding);
        }
    }

    fn endpoints(&mut self) {
        let mut networks: HashMap<Vni, &'a NetworkSpec> = HashMap::new();
        for network in &self.cluster.networks {
            networks.entry(network.vni).or_insert(network);
        }
        let hosts: BTreeSet<_> = self.cluster.hosts.iter().map(|host| host.address).collect();
        let (mut by_name, mut by_ip) = (Users::new(), Users::new());
        let (mut by_mac, mut by_port) = (Users::new(), Users::new());

        for (index, endpoint) in self.cluster.endpoints.iter().enumerate() {
            let (object, vni) = (PartRef::Endpoint(index), endpoint.vni);
            self.name(object, &endpoint.name);
            let each = "endpoint of a network";
            self.check_unique(
                &mut by_name,
                (vni, &endpoint.name),
                (object, Field::Name, &quoted(&endpoint.name)),
                each,
            );
            let own_ip = self.check_unique(&mut by_ip, (vni, endpoint.ip), (object, Field::Ip, &endpoint.ip), each);
            // A MAC address derived from a duplicate IP address is a duplicate, too: one error is enough.
            if own_ip || endpoint.mac != MacAddr::from_ipv4(endpoint.ip.octets()) {
                self.check_unique(&mut by_mac, (vni, endpoint.mac), (object, Field::Mac, &endpoint.mac), each);
            }
            match networks.get(&vni) {
                Some(network) => self.addresses(object, endpoint, network),
                None => {
                    let problem = format!("there is no network with VNI {vni}");
                    let finding = Finding::unnamed(problem, "add the network, or correct the endpoint");
                    self.fail(object, Field::Network, finding);
                }
            }
            if !hosts.contains(&endpoint.host) {
                let problem = format!("there is no host with address {}", endpoint.host);
                let finding = Finding::unnamed(problem, "add the host, or correct the endpoint");
                self.fail(object, Field::Host, finding);
            }
            match &endpoint.attachment {
                Attachment::Port(name) if !is_interface_name(name) => {
                    let problem = format!("port {name:?} is not a valid interface name");
                    let finding = Finding::unnamed(problem, "use 1 to 15 characters without spaces, '/' and ':'");
                    self.fail(object, Field::Port, finding);
                }
                Attachment::Port(name) => {
                    let part = (object, Field::Port, &quoted(name) as &dyn Display);
                    self.check_unique(&mut by_port, (endpoint.host, name), part, "endpoint of a host");
                }
                Attachment::Netns(path) if !path.is_absolute() => {
                    let problem = format!("netns {path:?} is not an absolute path");
                    let finding = Finding::unnamed(problem, "write a path like /run/netns/gindemo1");
                    self.fail(object, Field::Netns, finding);
                }
                Attachment::Netns(_) | Attachment::Unspecified => {}
            }
        }
    }

    fn addresses(&mut self, object: PartRef, endpoint: &Endpoint, network: &NetworkSpec) {
        let &Endpoint { ip, mac, .. } = endpoint;
        if subnet(network.subnet).is_none() {
            if let Some(finding) = reserved(Field::Ip, ip, network.subnet) {
                self.fail(object, Field::Ip, finding);
            } else if ip == network.gateway {
                let problem = format!("ip {ip} is the gateway of network {:?}", network.name);
                self.fail(object, Field::Ip, Finding::unnamed(problem, "use another address of the subnet"));
                return;
            }
        }
        let kind = match mac {
            mac if mac == MacAddr::default() => "zero",
            mac if mac.is_group() => "a group address",
            mac if mac == MacAddr::from_ipv4(network.gateway.octets()) => {
                let problem = format!("mac {mac} belongs to the gateway of network {:?}", network.name);
                return self.fail(object, Field::Mac, Finding::unnamed(problem, "use another address"));
            }
            _ => return,
        };
        let finding = Finding::unnamed(format!("mac {mac} is {kind}"), "use a unicast address like 02:42:0a:00:01:02");
        self.fail(object, Field::Mac, finding);
    }
}

/// Label of an object in messages.
fn label(cluster: &Parts, object: PartRef) -> String {
    match object {
        PartRef::Cluster => "cluster".into(),
        PartRef::Host(index) => format!("host {:?}", cluster.hosts[index].name),
        PartRef::Network(index) => format!("network {:?}", cluster.networks[index].name),
        PartRef::Endpoint(index) => {
            let Endpoint { name, vni, .. } = &cluster.endpoints[index];
            match cluster.networks.iter().find(|network| network.vni == *vni) {
                Some(network) => rule::endpoint_label(&network.name, name),
                None => format!("endpoint {name:?}"),
            }
        }
    }
}

fn quoted(name: &str) -> impl Display {
    std::fmt::from_fn(move |f| write!(f, "{name:?}"))
}

fn not_unicast(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("unspecified")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address.is_broadcast() {
        Some("the broadcast address")
    } else {
        None
    }
}

/// Checks a subnet by itself.
fn subnet(subnet: Ipv4Net) -> Option<Finding> {
    let (prefix, first_octet) = (subnet.prefix_len(), subnet.network().octets()[0]);
    let (problem, remedy) = if !(PREFIX_MIN..=PREFIX_MAX).contains(&prefix) {
        (format!("has a prefix length of {prefix}"), format!("use /{PREFIX_MIN} to /{PREFIX_MAX}"))
    } else if subnet.addr() != subnet.network() {
        ("has host bits set".into(), format!("write {}", subnet.trunc()))
    } else if matches!(first_octet, 0 | 127 | 224..) {
        ("is not unicast".into(), "use a private range like 10.0.1.0/24".into())
    } else {
        return None;
    };
    Some(Finding::unnamed(format!("subnet {subnet} {problem}"), remedy))
}

/// Checks that an address is usable in a subnet.
fn reserved(field: Field, address: Ipv4Addr, subnet: Ipv4Net) -> Option<Finding> {
    let (problem, remedy) = if !subnet.contains(&address) {
        (format!("outside the subnet {subnet}"), "use an address inside it")
    } else if address == subnet.network() {
        (format!("the network address of {subnet}"), "use an address between the first and the last")
    } else if address == subnet.broadcast() {
        (format!("the broadcast address of {subnet}"), "use an address between the first and the last")
    } else {
        return None;
    };
    Some(Finding::unnamed(format!("{field} {address} is {problem}"), remedy))
}

/// Whether the kernel accepts an interface name (`dev_valid_name` in net/core/dev.c).
fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\x0b')
}
