//! `overlay status NETWORK` as text.

use crate::{
    api::types::{NetworkDetail, NetworkKind, NetworkStatus},
    model::counted,
};

use super::{output, problems, state};

/// One network in full.
pub(super) fn text(detail: &NetworkDetail) -> String {
    let network = &detail.network;
    let sections = [header(network), ports(network), vteps(detail)];
    let sections: Vec<_> = sections.into_iter().filter(|section| !section.is_empty()).collect();
    let mut text = sections.join("\n");
    let of_vteps = detail.unresolved.iter().map(|vtep| &vtep.finding);
    text.extend(problems::of_networks([network]).into_iter().chain(of_vteps).map(problems::on_kernel_path));
    text
}

fn header(network: &NetworkStatus) -> String {
    let kind = match network.kind {
        NetworkKind::Managed => "managed",
        NetworkKind::Bridged => "bridged",
        NetworkKind::Routed => "routed",
    };
    let strict = if network.strict { ", strict" } else { "" };
    let fast = network.tx.zip(network.rx).map_or_else(
        || "-".to_owned(),
        |(tx, rx)| {
            format!("TX packets {} bytes {}, RX packets {} bytes {}", tx.packets, tx.bytes, rx.packets, rx.bytes)
        },
    );
    let kernel = network
        .kernel
        .map_or_else(|| "-".to_owned(), |count| format!("TX packets {}, RX packets {}", count.tx, count.rx));
    format!(
        "network  {}\nVNI      {}, UDP {}, MTU {}\nkind     {kind}{strict}\nstate    {}\ndevice   {}\nremote   {}\n\
         fast     {fast}\nkernel   {kernel}\n",
        network.name.as_deref().unwrap_or("-"),
        network.vni,
        network.port,
        network.mtu,
        state(network),
        output::inside(&network.device, network.sandbox.as_deref()),
        counted(network.remote, "MAC"),
    )
}

fn ports(network: &NetworkStatus) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rows = network.ports.iter().map(|port| {
        let path = if port.finding.is_none() { super::state(network) } else { "kernel path".to_owned() };
        [port.name.clone(), or_none(&port.container), or_none(&port.mac), path]
    });
    if network.ports.is_empty() { String::new() } else { output::table(["PORT", "CONTAINER", "MAC", "STATE"], rows) }
}

fn vteps(detail: &NetworkDetail) -> String {
    let network = &detail.network;
    let rows = network.vteps.iter().map(|address| {
        let known = detail.next_hops.iter().find(|vtep| vtep.address == *address);
        let resolved = known.filter(|vtep| vtep.resolved);
        [
            address.to_string(),
            resolved.and_then(|vtep| vtep.device.clone()).unwrap_or_else(|| "-".to_owned()),
            match (known, resolved.and_then(|vtep| vtep.next_hop.clone())) {
                (_, Some(next_hop)) => next_hop,
                (Some(_), None) => "unresolved (kernel path)".to_owned(),
                (None, None) => "-".to_owned(),
            },
            resolved.map_or_else(|| "-".to_owned(), |vtep| vtep.mtu.to_string()),
        ]
    });
    if network.vteps.is_empty() {
        return String::new();
    }
    output::table(["VTEP", "DEVICE", "NEXT HOP", ">INNER MTU"], rows)
}
