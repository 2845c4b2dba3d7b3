//! Conversion of a configuration's text to a [`Cluster`].

use std::{collections::HashMap, net::Ipv4Addr};

use overlay_common::{MacAddr, Vni, VtepAddr, wire::VXLAN_PORT};
use toml::de::{DeTable, DeValue};

use super::{
    ConfigError, discover,
    error::wrong_type,
    table::{self, Lines, ObjectLines, Reader},
};
use crate::model::{
    Attachment, Cluster, Endpoint, Finding, Host, Located, NetworkSpec, Parts, Rx,
    discovery::Settings,
    rule::{Field, PartRef},
};

/// Parses a configuration, or returns all errors.
pub(super) fn cluster(text: &str) -> Result<Cluster, Vec<ConfigError>> {
    let lines = Lines::new(text);
    let document = DeTable::parse(text).map_err(|error| {
        let line = lines.at(error.span().map_or(text.trim_end().len(), |span| span.start));
        let text = text.lines().nth(line - 1).unwrap_or_default().trim().to_owned();
        // The parser reports a word without quotes as an invalid number.
        let message =
            if is_bare_word(&text) { "a string needs quotes".into() } else { error.message().replace('\n', " ") };
        let finding = Finding::new("syntax", message, format!("correct the line `{text}`"));
        vec![ConfigError { line: Some(line), finding }]
    })?;
    let mut converter = Converter {
        lines: &lines,
        rx: Rx::default(),
        parts: Parts::default(),
        object_lines: ObjectLines::default(),
        networks: HashMap::new(),
        hosts: HashMap::new(),
        errors: Vec::new(),
    };
    converter.document(document.get_ref());
    converter.finish()
}

struct Converter<'t> {
    lines: &'t Lines,
    rx: Rx,
    /// The valid objects.
    parts: Parts,
    /// The lines of the objects in `parts`.
    object_lines: ObjectLines,
    /// Networks by name; `None`: the network is invalid.
    networks: HashMap<String, Option<Vni>>,
    /// Hosts by name and by address; `None`: the host is invalid.
    hosts: HashMap<String, Option<VtepAddr>>,
    errors: Vec<ConfigError>,
}

impl<'t> Converter<'t> {
    fn document(&mut self, document: &'t DeTable<'t>) {
        let mut reader = Reader::new(document, 0, self.lines);
        self.rx = reader.optional(Field::Rx, table::rx).unwrap_or_default();
        self.parts.fdb_size = reader.optional(Field::FdbSize, table::fdb_size);
        let [hosts, networks, endpoints] =
            [Field::Hosts, Field::Networks, Field::Endpoints].map(|field| tables(&mut reader, field));
        let discover = discover_table(&mut reader);
        let is_empty = |value: &DeValue<'_>| value.as_array().is_some_and(|array| array.is_empty());
        let has_hosts = document.get(Field::Hosts.key()).is_some_and(|value| !is_empty(value.get_ref()));
        if !has_hosts && !document.contains_key(Field::Discover.key()) {
            // An empty or truncated file must not remove the data path.
            let remedy = "add a [[hosts]] table with name and address for each host, or [discover]";
            reader.fail(Field::Hosts, Finding::unnamed("there are no hosts", remedy));
        }
        self.object_lines.file = reader.finish("file", &mut self.errors);

        if let Some((table, offset)) = discover {
            self.discover(Reader::new(table, offset, self.lines));
        }
        for (index, (table, offset)) in hosts.into_iter().enumerate() {
            self.host(index, Reader::new(table, offset, self.lines));
        }
        for (index, (table, offset)) in networks.into_iter().enumerate() {
            self.network(index, Reader::new(table, offset, self.lines));
        }
        for (index, (table, offset)) in endpoints.into_iter().enumerate() {
            self.endpoint(index, Reader::new(table, offset, self.lines));
        }
    }

    fn discover(&mut self, mut reader: Reader<'t>) {
        let default = Settings::default();
        let vxlan = reader.optional(Field::Vxlan, discover::devices).unwrap_or_default();
        let docker = reader.optional(Field::Docker, discover::docker).unwrap_or(default.docker);
        let netns_dir = reader.optional(Field::NetnsDir, discover::directory).unwrap_or(default.netns_dir);
        let [allow, deny] =
            [Field::Allow, Field::Deny].map(|field| reader.optional(field, discover::selectors).unwrap_or_default());
        reader.finish("discover", &mut self.errors);
        self.parts.discover = Some(Settings { vxlan, docker, netns_dir, allow, deny });
    }

    fn host(&mut self, index: usize, mut reader: Reader<'t>) {
        let name = reader.required(Field::Name, table::text, "\"node01\"");
        let address = reader.required(Field::Address, table::address, "\"192.168.1.9\"").map(VtepAddr::from);
        let rx = reader.optional(Field::Rx, table::rx).unwrap_or(self.rx);
        let key_lines = reader.finish(&label("host", index, name.as_deref()), &mut self.errors);

        for key in name.iter().cloned().chain(address.map(|address| address.to_string())) {
            self.hosts.entry(key).or_insert(address);
        }
        if let (Some(name), Some(address)) = (name, address) {
            self.parts.hosts.push(Host { name, address, rx });
            self.object_lines.hosts.push(key_lines);
        }
    }

    fn network(&mut self, index: usize, mut reader: Reader<'t>) {
        let name = reader.required(Field::Name, table::text, "\"my-overlay-network\"");
        let vni = reader.required(Field::Vni, table::vni, "4097");
        let subnet = reader.required(Field::Subnet, table::subnet, "\"10.0.1.0/24\"");
        let gateway = reader.optional(Field::Gateway, table::address);
        let mtu = reader.optional(Field::Mtu, table::mtu);
        let port = reader.optional(Field::Port, table::port).unwrap_or(VXLAN_PORT);
        let strict = reader.optional(Field::Strict, table::boolean).unwrap_or_default();
        let overlap = reader.optional(Field::Overlap, table::boolean).unwrap_or_default();
        let key_lines = reader.finish(&label("network", index, name.as_deref()), &mut self.errors);

        if let Some(name) = name.clone() {
            // Endpoints refer to a network by its VNI: a duplicate VNI must not cause errors in endpoints.
            let own = vni.filter(|vni| subnet.is_some() && self.parts.networks.iter().all(|other| other.vni != *vni));
            self.networks.entry(name).or_insert(own);
        }
        if let (Some(name), Some(vni), Some(subnet)) = (name, vni, subnet) {
            let first = Ipv4Addr::from_bits(subnet.network().to_bits().saturating_add(1));
            let gateway = gateway.unwrap_or(first);
            self.parts.networks.push(NetworkSpec { name, vni, subnet, gateway, mtu, port, strict, overlap });
            self.object_lines.networks.push(key_lines);
        }
    }

    fn endpoint(&mut self, index: usize, mut reader: Reader<'t>) {
        let network = reader.required(Field::Network, table::text, "\"my-overlay-network\"");
        let name = reader.required(Field::Name, table::text, "\"gindemo1\"");
        let ip = reader.required(Field::Ip, table::address, "\"10.0.1.2\"");
        let mac = reader.optional(Field::Mac, table::mac);
        let host = reader.required(Field::Host, table::text, "\"node01\"");
        let netns = reader.optional(Field::Netns, table::netns);
        let port = reader.optional(Field::Port, table::text);

        let vni = network.as_ref().and_then(|name| {
            let found = self.networks.get(name).copied();
            if found.is_none() {
                let remedy = "add it as [[networks]], or correct the endpoint's network";
                reader.fail(Field::Network, Finding::unnamed(format!("there is no network {name:?}"), remedy));
            }
            found.flatten()
        });
        let host = host.and_then(|name| {
            let found = self.hosts.get(&name).copied();
            if found.is_none() {
                let problem = format!("there is no host with name or address {name:?}");
                let remedy = "add it as [[hosts]], or correct the endpoint's host";
                reader.fail(Field::Host, Finding::unnamed(problem, remedy));
            }
            found.flatten()
        });
        let attachment = match (netns, port) {
            (Some(_), Some(_)) => {
                let remedy = "keep netns to create a veth, or port to use an existing interface";
                reader.fail(Field::Port, Finding::unnamed("netns and port are both given", remedy));
                None
            }
            (Some(path), None) => Some(Attachment::Netns(path)),
            (None, Some(name)) => Some(Attachment::Port(name)),
            (None, None) => Some(Attachment::Unspecified),
        };
        let full_name = match (&network, &name) {
            (Some(network), Some(name)) => Some(format!("{network}/{name}")),
            _ => name.clone(),
        };
        let key_lines = reader.finish(&label("endpoint", index, full_name.as_deref()), &mut self.errors);

        if let (Some(vni), Some(name), Some(ip), Some(host), Some(attachment)) = (vni, name, ip, host, attachment) {
            let mac = mac.unwrap_or(MacAddr::from_ipv4(ip.octets()));
            self.parts.endpoints.push(Endpoint { name, vni, ip, mac, host, attachment });
            self.object_lines.endpoints.push(key_lines);
        }
    }

    /// Applies the model's rules to the valid objects even if others are invalid: one run reports all errors.
    fn finish(mut self) -> Result<Cluster, Vec<ConfigError>> {
        let broken = match Cluster::new(self.parts) {
            Ok(cluster) if self.errors.is_empty() => return Ok(cluster),
            Ok(_) => return Err(self.errors),
            Err(broken) => broken,
        };
        for Located { part, field, other, mut finding } in broken {
            if let Some(line) = other.and_then(|other| self.object_lines.line(other, field)) {
                finding.problem += &format!(" (line {line})");
            }
            if part == PartRef::Cluster {
                finding.object = "file".into();
            }
            self.errors.push(ConfigError { line: self.object_lines.line(part, field), finding });
        }
        Err(self.errors)
    }
}

/// The table `[discover]` and its offset.
fn discover_table<'t>(reader: &mut Reader<'t>) -> Option<(&'t DeTable<'t>, usize)> {
    let value = reader.value(Field::Discover)?;
    let table = value.get_ref().as_table().map(|table| (table, value.span().start));
    if table.is_none() {
        let wanted = "[discover], in one bracket, and its keys below";
        reader.fail(Field::Discover, wrong_type(Field::Discover, "not a table", wanted));
    }
    table
}

/// The elements of an array of tables and their offsets.
fn tables<'t>(reader: &mut Reader<'t>, field: Field) -> Vec<(&'t DeTable<'t>, usize)> {
    let Some(value) = reader.value(field) else { return Vec::new() };
    let found = match value.get_ref() {
        DeValue::Array(array) => array
            .iter()
            .map(|element| Some((element.get_ref().as_table()?, element.span().start)))
            .collect::<Option<Vec<_>>>(),
        _ => None,
    };
    found.unwrap_or_else(|| {
        let wanted = match field {
            Field::Hosts => "[[hosts]], in two brackets, before each host",
            Field::Networks => "[[networks]], in two brackets, before each network",
            _ => "[[endpoints]], in two brackets, before each endpoint",
        };
        reader.fail(field, wrong_type(field, "not an array of tables", wanted));
        Vec::new()
    })
}

/// Whether a line assigns a word without quotes, like `name = node01`.
fn is_bare_word(line: &str) -> bool {
    let value = line.split_once('=').map_or("", |(_, value)| value.split('#').next().unwrap_or_default().trim());
    value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !value.contains(['"', '\''])
        && value.parse::<f64>().is_err()
        && value.parse::<bool>().is_err()
}

fn label(kind: &str, index: usize, name: Option<&str>) -> String {
    name.map_or_else(|| format!("{kind} number {}", index + 1), |name| format!("{kind} {name:?}"))
}
