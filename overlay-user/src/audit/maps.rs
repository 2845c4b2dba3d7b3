//! The BPF maps.

use std::{collections::BTreeMap, fmt::Debug, net::Ipv4Addr, path::PathBuf};

use overlay_common::{
    MacAddr,
    maps::{FdbEntry, Network, Port, PortKey, Sender, Underlay, Vtep},
    names,
};

use super::{Difference, Names};
use crate::plan::tables::Tables;

/// What differs between what the maps should hold and what they do.
///
/// `written` is what the daemon knows to have written: what is right there and wrong in the map was changed by somebody
/// else. `complaint`: why the daemon could not write, if it could not.
#[must_use]
pub fn maps(
    wanted: &Tables,
    found: &Tables,
    written: &Tables,
    names: &Names,
    complaint: Option<&str>,
) -> Vec<Difference> {
    let mut comparison = Comparison { complaint, differences: Vec::new() };
    comparison.table(
        names::PORTS,
        [&wanted.ports, &found.ports, &written.ports],
        |key| (names.device(*key), names.place(key.site)),
        port,
    );
    let vteps = [&wanted.vteps, &found.vteps];
    comparison.table(
        names::FDB,
        [&wanted.fdb, &found.fdb, &written.fdb],
        |key| (format!("VNI {} {}", key.vni, MacAddr(key.mac)), None),
        |entry| fdb(entry, names, vteps),
    );
    comparison.table(
        names::VTEPS,
        [&wanted.vteps, &found.vteps, &written.vteps],
        |index| (format!("index {index}"), None),
        |entry| vtep(entry, names),
    );
    comparison.table(
        names::SENDERS,
        [&wanted.senders, &found.senders, &written.senders],
        |key| (format!("VNI {} {}", key.vni, Ipv4Addr::from(key.addr)), None),
        sender,
    );
    comparison.table(
        names::NETWORKS,
        [&wanted.networks, &found.networks, &written.networks],
        |vni| (format!("VNI {vni}"), None),
        network,
    );
    let one = |tables: &Tables| BTreeMap::from([(0, tables.underlay)]);
    comparison.table(
        names::UNDERLAY,
        [&one(wanted), &one(found), &one(written)],
        |_| ("index 0".to_owned(), None),
        |entry| underlay(entry, names),
    );
    // The map does not know the namespace of an interface; the rest says whether it is the right one.
    let mut txports = found.txports.clone();
    for (key, port) in &mut txports {
        port.site = wanted.txports.get(key).map_or(port.site, |wanted| wanted.site);
    }
    comparison.table(
        names::TXPORTS,
        [&wanted.txports, &txports, &written.txports],
        |key| (format!("key {key}"), None),
        |port| format!("{} (interface {})", names.device(*port), port.ifindex),
    );
    comparison.differences
}

struct Comparison<'a> {
    complaint: Option<&'a str>,
    differences: Vec<Difference>,
}

impl Comparison<'_> {
    /// Compares one map: what is wanted in it, found in it, and known to be written.
    fn table<K: Ord, V: PartialEq + Debug>(
        &mut self,
        map: &str,
        [wanted, found, written]: [&BTreeMap<K, V>; 3],
        object: impl Fn(&K) -> (String, Option<PathBuf>),
        say: impl Fn(&V) -> String,
    ) {
        let missing = wanted.keys().filter(|key| !found.contains_key(key));
        for key in missing.chain(found.keys()) {
            let values = (wanted.get(key), found.get(key));
            if values.0 == values.1 {
                continue;
            }
            let mut texts = (values.0.map(&say), values.1.map(&say));
            if texts.0 == texts.1 {
                // In something that is not worth a word in any other case.
                let whole = |value: Option<&V>| value.map(|value| format!("{value:?}"));
                texts = (whole(values.0), whole(values.1));
            }
            let cause = self.cause(values.1.is_some(), values.0.is_some(), written.get(key) == values.0);
            let (object, netns) = object(key);
            self.differences.push(Difference::new(map, object, texts.0, texts.1, cause).inside(netns));
        }
    }

    /// `known`: the daemon believes that the entry is right.
    fn cause(&self, found: bool, wanted: bool, known: bool) -> String {
        let what = match (found, wanted) {
            (false, _) => "removed",
            (true, true) => "changed",
            (true, false) => "wrote",
        };
        match (known, self.complaint) {
            (true, _) => format!("somebody else {what} it: another program, or a person with bpftool"),
            (false, Some(complaint)) => format!("the daemon could not write it: {complaint}"),
            (false, None) => "the daemon has not written it yet".to_owned(),
        }
    }
}

fn port(port: &Port) -> String {
    let Port { vni, slot, flags, ip, mac, mtu } = port;
    let (ip, mac) = (Ipv4Addr::from(*ip), MacAddr(*mac));
    format!("VNI {vni}, {ip}, {mac}, MTU {mtu}, slot {slot}, flags {flags}")
}

fn fdb(entry: &FdbEntry, names: &Names, vteps: [&BTreeMap<u32, Vtep>; 2]) -> String {
    let FdbEntry { kind, site, target, via, tx } = *entry;
    match kind {
        FdbEntry::REMOTE => {
            let vtep = vteps.iter().find_map(|vteps| vteps.get(&target));
            let address = vtep.map_or_else(|| "nobody".to_owned(), |vtep| Ipv4Addr::from(vtep.outer.dst).to_string());
            format!("VTEP {address} (index {target})")
        }
        FdbEntry::LOCAL | FdbEntry::LOCAL_PEER => {
            let device = names.device(PortKey { site: site.into(), ifindex: target });
            let how = if kind == FdbEntry::LOCAL { "" } else { ", by its peer" };
            format!("port {device} (interface {target}, namespace {site}, shim {via}, transmit key {tx}{how})")
        }
        kind => format!("kind {kind}, target {target}"),
    }
}

fn vtep(vtep: &Vtep, names: &Names) -> String {
    let address = Ipv4Addr::from(vtep.outer.dst);
    let port = u16::from_be_bytes(vtep.outer.udp_dst);
    if vtep.resolved == 0 {
        return format!("{address} UDP {port}, not resolved");
    }
    let (hop, source) = (MacAddr(vtep.outer.eth_dst), Ipv4Addr::from(vtep.outer.src));
    let device = names.device(PortKey::host(vtep.ifindex));
    format!("{address} UDP {port} from {source} by {device}, next hop {hop}, MTU {}", vtep.mtu)
}

fn sender(sender: &Sender) -> String {
    let Sender { vtep, slot, port, flags } = sender;
    format!("VTEP index {vtep}, slot {slot}, UDP {port}, flags {flags}")
}

fn network(network: &Network) -> String {
    let Network { slot, flags, mtu, port } = network;
    format!("UDP {port}, MTU {mtu}, slot {slot}, flags {flags}")
}

fn underlay(underlay: &Underlay, names: &Names) -> String {
    let (addr, mac) = (Ipv4Addr::from(underlay.addr), MacAddr(underlay.mac));
    let device = names.device(PortKey::host(underlay.ifindex));
    let ports: Vec<_> = underlay.ports.iter().map(u16::to_string).collect();
    format!("{device} {addr} {mac}, UDP {}", ports.join(" "))
}
