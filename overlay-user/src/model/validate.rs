//! The rules that every [`Cluster`] keeps.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Display,
    hash::Hash,
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni, maps};

use super::{
    Attachment, Cluster, Endpoint, NetworkSpec, Parts,
    rule::{
        FDB_SIZE_MAX, Field, MTU_MAX, MTU_MIN, PREFIX_MAX, PREFIX_MIN, PartRef, Reference, Rule, Violation, Violations,
    },
};

impl Cluster {
    /// The cluster of these parts.
    ///
    /// # Errors
    /// As [`Parts::validate`].
    pub fn new(parts: Parts) -> Result<Self, Violations> {
        parts.validate()?;
        Ok(Self(parts))
    }
}

impl Parts {
    /// Checks all rules.
    ///
    /// # Errors
    /// Every broken rule, hosts first, then networks, then endpoints.
    pub fn validate(&self) -> Result<(), Violations> {
        let mut check = Check { cluster: self, found: Vec::new() };
        check.fdb_size();
        check.hosts();
        check.networks();
        check.endpoints();
        Violations::of(check.found)
    }
}

struct Check<'a> {
    cluster: &'a Parts,
    found: Vec<Violation>,
}

/// Who has a value first.
type Holders<K> = HashMap<K, PartRef>;

impl<'a> Check<'a> {
    fn fail(&mut self, object: PartRef, field: Field, rule: Rule) {
        self.found.push(Violation { object, label: label(self.cluster, object), field, rule });
    }

    fn reference(&self, object: PartRef) -> Reference {
        Reference { object, label: label(self.cluster, object), line: None }
    }

    /// Gives `key` to `object` and says true, unless another has it.
    fn claim<K: Eq + Hash>(
        &mut self,
        holders: &mut Holders<K>,
        key: K,
        (object, field, value): (PartRef, Field, &dyn Display),
        each: &'static str,
    ) -> bool {
        let holder = *holders.entry(key).or_insert(object);
        if holder != object {
            let by = self.reference(holder);
            self.fail(object, field, Rule::Taken { field, value: value.to_string(), by, each });
        }
        holder == object
    }

    fn name(&mut self, object: PartRef, name: &str) {
        let valid = (1..=63).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !valid {
            self.fail(object, Field::Name, Rule::Name { name: name.into() });
        }
    }

    fn fdb_size(&mut self) {
        let size = self.cluster.fdb_size.unwrap_or(maps::FDB.entries);
        let endpoints = self.cluster.endpoints.len();
        if !(1..=FDB_SIZE_MAX).contains(&size) {
            self.fail(PartRef::Cluster, Field::FdbSize, Rule::FdbSize { size: size.into() });
        } else if usize::try_from(size).is_ok_and(|size| size < endpoints) {
            self.fail(PartRef::Cluster, Field::FdbSize, Rule::FdbTooSmall { size, endpoints });
        }
    }

    fn hosts(&mut self) {
        let (mut by_name, mut by_address) = (Holders::new(), Holders::new());
        for (index, host) in self.cluster.hosts.iter().enumerate() {
            let object = PartRef::Host(index);
            self.name(object, &host.name);
            if host.name.parse::<Ipv4Addr>().is_ok_and(|address| address != host.address) {
                self.fail(object, Field::Name, Rule::NameIsAddress { name: host.name.clone() });
            }
            if let Some(kind) = not_unicast(host.address) {
                self.fail(object, Field::Address, Rule::HostAddress { address: host.address, kind });
            }
            self.claim(&mut by_name, &host.name, (object, Field::Name, &quoted(&host.name)), "host");
            self.claim(&mut by_address, host.address, (object, Field::Address, &host.address), "host");
        }
    }

    fn networks(&mut self) {
        let (mut by_name, mut by_vni) = (Holders::new(), Holders::new());
        let mut ports = BTreeSet::new();
        for (index, network) in self.cluster.networks.iter().enumerate() {
            let object = PartRef::Network(index);
            self.name(object, &network.name);
            self.claim(&mut by_name, &network.name, (object, Field::Name, &quoted(&network.name)), "network");
            self.claim(&mut by_vni, network.vni, (object, Field::Vni, &network.vni), "network");
            if let Some(rule) = subnet(network.subnet) {
                self.fail(object, Field::Subnet, rule);
            } else if let Some(rule) = reserved(Field::Gateway, network.gateway, network.subnet) {
                self.fail(object, Field::Gateway, rule);
            }
            self.overlap(index, network);
            if let Some(mtu) = network.mtu.filter(|mtu| !(MTU_MIN..=MTU_MAX).contains(mtu)) {
                self.fail(object, Field::Mtu, Rule::Mtu { mtu: mtu.into() });
            }
            if network.port == 0 {
                self.fail(object, Field::Port, Rule::Port { port: 0 });
            } else if !ports.contains(&network.port) {
                if ports.len() == maps::UDP_PORTS {
                    let used = ports.iter().copied().collect();
                    self.fail(object, Field::Port, Rule::Ports { port: network.port, used });
                } else {
                    ports.insert(network.port);
                }
            }
        }
    }

    /// Reports the first network in the list that `network` overlaps; each pair once.
    fn overlap(&mut self, index: usize, network: &NetworkSpec) {
        let other = self.cluster.networks.iter().take(index).enumerate().find(|(_, other)| {
            let (a, b) = (other.subnet, network.subnet);
            (a.contains(&b.network()) || b.contains(&a.network())) && !(other.overlap && network.overlap)
        });
        if let Some((other, NetworkSpec { subnet, .. })) = other {
            let by = self.reference(PartRef::Network(other));
            let rule = Rule::Overlap { subnet: network.subnet, other: *subnet, by };
            self.fail(PartRef::Network(index), Field::Subnet, rule);
        }
    }

    fn endpoints(&mut self) {
        let mut networks: HashMap<Vni, &'a NetworkSpec> = HashMap::new();
        for network in &self.cluster.networks {
            networks.entry(network.vni).or_insert(network);
        }
        let hosts: BTreeSet<_> = self.cluster.hosts.iter().map(|host| host.address).collect();
        let (mut by_name, mut by_ip) = (Holders::new(), Holders::new());
        let (mut by_mac, mut by_port) = (Holders::new(), Holders::new());

        for (index, endpoint) in self.cluster.endpoints.iter().enumerate() {
            let (object, vni) = (PartRef::Endpoint(index), endpoint.vni);
            self.name(object, &endpoint.name);
            let each = "endpoint of a network";
            self.claim(&mut by_name, (vni, &endpoint.name), (object, Field::Name, &quoted(&endpoint.name)), each);
            let own_ip = self.claim(&mut by_ip, (vni, endpoint.ip), (object, Field::Ip, &endpoint.ip), each);
            // A MAC made from an address that is taken is taken too: one error is enough.
            if own_ip || endpoint.mac != MacAddr::from_ipv4(endpoint.ip.octets()) {
                self.claim(&mut by_mac, (vni, endpoint.mac), (object, Field::Mac, &endpoint.mac), each);
            }
            match networks.get(&vni) {
                Some(network) => self.addresses(object, endpoint, network),
                None => self.fail(object, Field::Network, Rule::NoSuchVni { vni: vni.get() }),
            }
            if !hosts.contains(&endpoint.host) {
                self.fail(object, Field::Host, Rule::NoSuchAddress { address: endpoint.host });
            }
            match &endpoint.attachment {
                Attachment::Port(name) if !is_interface(name) => {
                    self.fail(object, Field::Port, Rule::Interface { name: name.clone() });
                }
                Attachment::Port(name) => {
                    let taken = (object, Field::Port, &quoted(name) as &dyn Display);
                    self.claim(&mut by_port, (endpoint.host, name), taken, "endpoint of a host");
                }
                Attachment::Netns(path) if !path.is_absolute() => {
                    self.fail(object, Field::Netns, Rule::NetnsPath { path: path.clone() });
                }
                Attachment::Netns(_) | Attachment::Unspecified => {}
            }
        }
    }

    fn addresses(&mut self, object: PartRef, endpoint: &Endpoint, network: &NetworkSpec) {
        let &Endpoint { ip, mac, .. } = endpoint;
        let name = || format!("network {:?}", network.name);
        if subnet(network.subnet).is_none() {
            if let Some(rule) = reserved(Field::Ip, ip, network.subnet) {
                self.fail(object, Field::Ip, rule);
            } else if ip == network.gateway {
                self.fail(object, Field::Ip, Rule::IpIsGateway { address: ip, network: name() });
                return;
            }
        }
        if mac == MacAddr::default() {
            self.fail(object, Field::Mac, Rule::MacKind { mac, kind: "zero" });
        } else if mac.is_group() {
            self.fail(object, Field::Mac, Rule::MacKind { mac, kind: "a group address" });
        } else if mac == MacAddr::from_ipv4(network.gateway.octets()) {
            self.fail(object, Field::Mac, Rule::MacIsGateway { mac, network: name() });
        }
    }
}

/// How an object is called in messages.
fn label(cluster: &Parts, object: PartRef) -> String {
    match object {
        PartRef::Cluster => "cluster".into(),
        PartRef::Host(index) => format!("host {:?}", cluster.hosts[index].name),
        PartRef::Network(index) => format!("network {:?}", cluster.networks[index].name),
        PartRef::Endpoint(index) => {
            let Endpoint { name, vni, .. } = &cluster.endpoints[index];
            match cluster.networks.iter().find(|network| network.vni == *vni) {
                Some(network) => format!("endpoint {:?}", format!("{}/{name}", network.name)),
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

/// What is wrong with a subnet by itself.
fn subnet(subnet: Ipv4Net) -> Option<Rule> {
    let first_octet = subnet.network().octets()[0];
    if !(PREFIX_MIN..=PREFIX_MAX).contains(&subnet.prefix_len()) {
        Some(Rule::Prefix { subnet })
    } else if subnet.addr() != subnet.network() {
        Some(Rule::HostBits { subnet })
    } else if matches!(first_octet, 0 | 127 | 224..) {
        Some(Rule::SubnetKind { subnet })
    } else {
        None
    }
}

/// Why nobody can have this address in the subnet.
fn reserved(field: Field, address: Ipv4Addr, subnet: Ipv4Net) -> Option<Rule> {
    if !subnet.contains(&address) {
        return Some(Rule::Outside { field, address, subnet });
    }
    let kind = if address == subnet.network() {
        "network"
    } else if address == subnet.broadcast() {
        "broadcast"
    } else {
        return None;
    };
    Some(Rule::Reserved { field, address, kind, subnet })
}

/// As `dev_valid_name` in the kernel's net/core/dev.c.
fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\x0b')
}
