//! Our objects in the kernel.

use std::{collections::BTreeSet, net::Ipv4Addr};

use overlay_common::Vni;

use super::Difference;
use crate::host::{
    Bridge, DesiredHost, FdbPort, HostChange, HostPlan, HostState, Veth, Vxlan, bridge_name, vxlan_name,
};

/// What differs between the wanted objects and the found ones: the plan from one to the other, told object by object.
///
/// Entries of a device that has to be made anew are not told one by one. `complaint`: what the daemon could not do, if
/// anything.
#[must_use]
pub fn kernel(wanted: &DesiredHost, found: &HostState, plan: &HostPlan, complaint: Option<&str>) -> Vec<Difference> {
    let changes = || plan.before.iter().chain(&plan.after);
    let made: BTreeSet<String> =
        changes().filter_map(|change| change.made()?.split_once(':').map(|(_, name)| name.to_owned())).collect();
    let own = changes().filter(|change| !change.is_entry() || !change.needs().iter().any(|name| made.contains(name)));
    let mut differences: Vec<_> = own.filter_map(|change| difference(change, wanted, found)).collect();
    if let Some(complaint) = complaint {
        for difference in &mut differences {
            difference.cause = format!("{}; or it could not be made: {complaint}", difference.cause);
        }
    }
    differences
}

fn difference(change: &HostChange, wanted: &DesiredHost, found: &HostState) -> Option<Difference> {
    let (table, object, wanted, found) = match change {
        HostChange::CreateBridge(vni, _) | HostChange::SetBridge(vni, _) | HostChange::DeleteBridge(vni) => {
            ("devices", bridge_name(*vni), wanted.bridges.get(vni).map(bridge), found.bridges.get(vni).map(bridge))
        }
        // It is made again.
        HostChange::DeleteVxlan(vni) if wanted.vxlans.contains_key(vni) => return None,
        HostChange::CreateVxlan(vni, _) | HostChange::SetVxlan(vni, _) | HostChange::DeleteVxlan(vni) => {
            ("devices", vxlan_name(*vni), wanted.vxlans.get(vni).map(vxlan), found.vxlans.get(vni).map(vxlan))
        }
        HostChange::DeleteVeth(name) if wanted.veths.contains_key(name) => return None,
        HostChange::CreateVeth(name, _) | HostChange::SetVeth(name, _) | HostChange::DeleteVeth(name) => {
            ("devices", name.clone(), wanted.veths.get(name).map(veth), found.veths.get(name).map(veth))
        }
        HostChange::ReleasePort(name, _) if wanted.ports.contains_key(name) => return None,
        HostChange::AdoptPort(name, _) | HostChange::ReleasePort(name, _) => {
            let bridge = |vni: &Vni| format!("a port of {}", bridge_name(*vni));
            ("devices", name.clone(), wanted.ports.get(name).map(bridge), found.ports.get(name).map(bridge))
        }
        HostChange::SetFdb(vni, mac, _) | HostChange::DeleteFdb(vni, mac, _) => {
            let key = (*vni, *mac);
            let object = format!("{} {mac}", vxlan_name(*vni));
            let said = |table: &HostState| table.fdb.get(&key).map(vtep);
            ("fdb", object, said(wanted), said(found))
        }
        HostChange::AddFlood(vni, vtep) | HostChange::DeleteFlood(vni, vtep) => {
            let said = |table: &HostState| table.flood.contains(&(*vni, *vtep)).then(|| format!("VTEP {vtep}"));
            ("flood", format!("{} {vtep}", vxlan_name(*vni)), said(wanted), said(found))
        }
        HostChange::SetBridgeFdb(vni, mac, _) | HostChange::DeleteBridgeFdb(vni, mac, _) => {
            let key = (*vni, *mac);
            let said = |table: &HostState| table.bridge_fdb.get(&key).map(|found| port(found, *vni));
            ("bridge_fdb", format!("{} {mac}", bridge_name(*vni)), said(wanted), said(found))
        }
        HostChange::SetNeighbour(vni, ip, _) | HostChange::DeleteNeighbour(vni, ip) => {
            let key = (*vni, *ip);
            let said = |table: &HostState| table.neighbours.get(&key).map(ToString::to_string);
            ("neighbours", format!("{} {ip}", bridge_name(*vni)), said(wanted), said(found))
        }
    };
    // An entry that has to be written again because its device is.
    (wanted != found).then(|| Difference::new(table, object, wanted, found, cause(table).to_owned()))
}

fn cause(table: &str) -> &'static str {
    match table {
        "fdb" | "flood" | "bridge_fdb" => {
            "somebody else changed the device's FDB: another tool, or a person with `bridge fdb`"
        }
        "neighbours" => "somebody else changed the bridge's neighbours (`ip neighbour`), or its MAC address",
        _ => "somebody else changed it: another tool, or a person with `ip link` or `ip address`",
    }
}

fn vtep(vtep: &Ipv4Addr) -> String {
    if vtep.is_unspecified() { "an entry that ages or has options".to_owned() } else { format!("VTEP {vtep}") }
}

fn port(port: &FdbPort, vni: Vni) -> String {
    match port {
        FdbPort::Movable => "an entry that is not sticky".to_owned(),
        port => format!("port {}", port.interface(vni)),
    }
}

fn state(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn bridge(bridge: &Bridge) -> String {
    let Bridge { alias, mtu, mac, addresses, up } = bridge;
    let mac = mac.map_or_else(|| "any".to_owned(), |mac| mac.to_string());
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("{}, MTU {mtu}, MAC {mac}, addresses [{}], alias {alias:?}", state(*up), addresses.join(" "))
}

fn vxlan(vxlan: &Vxlan) -> String {
    let Vxlan { alias, mtu, port, local, underlay, plain, enslaved, up } = vxlan;
    let options = if *plain { "plain" } else { "with other options" };
    let master = if *enslaved { "a quiet port of its bridge" } else { "not a quiet port of its bridge" };
    let state = state(*up);
    format!(
        "{state}, MTU {mtu}, UDP {port}, from {local} by interface {underlay}, {options}, {master}, alias {alias:?}"
    )
}

fn veth(veth: &Veth) -> String {
    let Veth { alias, vni, netns, mtu, mac, address, gateway: _, up } = veth;
    let bridge = vni.map_or_else(|| "no bridge".to_owned(), bridge_name);
    let netns = netns.as_ref().map_or_else(|| "elsewhere".to_owned(), |path| path.display().to_string());
    let address = address.map_or_else(|| "no address".to_owned(), |address| address.to_string());
    format!("{}, in {bridge}, MTU {mtu}, eth0 in {netns} with {mac} and {address}, alias {alias:?}", state(*up))
}
