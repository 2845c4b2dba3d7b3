//! The state of the managed networks' devices, judged by the same rules as that of external networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use overlay_common::{MacAddr, Vni, wire::inner_mtu};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Daemon, DaemonError, EndpointKey, REFRESH, Scope, reconcile::interface};
use crate::{
    kernel::{self, Deviations, KernelError, Link, LinkKind, Reader, Role, Snapshot, TrafficControl, VethPeer},
    model::{
        Finding, View, endpoint_label,
        network::{Cause, Refusal},
    },
    plan::{
        bridged_path::BridgedRules,
        device_state::{
            judge, judge_address, judge_bridge, judge_egress, judge_frames, judge_port, peer_xdp, redirects_to_peer,
        },
        tables::PortFact,
    },
};

/// Shortest interval between two reads of the details for an event.
const PAUSE: Duration = Duration::from_millis(500);

/// State that is not in the attributes of a link.
#[derive(Debug)]
struct Details {
    /// Features, and the other ends of veths, by interface index.
    links: BTreeMap<u32, (Deviations, Option<VethPeer>)>,
    traffic_control: Result<TrafficControl, String>,
}

impl Default for Details {
    fn default() -> Self {
        Self { links: BTreeMap::new(), traffic_control: Ok(TrafficControl::default()) }
    }
}

/// The judged devices, and what the judgement depends on.
#[derive(Debug, Default)]
pub(super) struct ManagedDevices {
    /// Time of the last read of the details.
    read: Option<Instant>,
    details: Details,
    pub(super) judged: Judged,
}

impl ManagedDevices {
    /// Makes the next round read the details. Returns when that may be: a container can cause events in a loop.
    pub(super) fn expire(&mut self) -> Option<Instant> {
        self.read.take().map(|read| read + PAUSE)
    }
}

/// The judged devices.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Networks whose bridge or VXLAN device does not suit the fast path.
    pub(super) networks: BTreeMap<Vni, Refusal>,
    /// MAC addresses of the VXLAN devices.
    pub(super) tunnels: BTreeMap<Vni, MacAddr>,
    /// The ports of endpoints.
    pub(super) ports: BTreeMap<EndpointKey, PortFact>,
    /// Why ports do not suit the fast path.
    pub(super) findings: BTreeMap<EndpointKey, Finding>,
}

/// The devices of managed networks.
struct Devices<'l> {
    /// Bridge and VXLAN device.
    tunnels: BTreeMap<Vni, (&'l Link, &'l Link)>,
    ports: BTreeMap<EndpointKey, &'l Link>,
    /// Interfaces that this round makes ports, or sets up.
    joining: BTreeSet<String>,
}

impl<'l> Devices<'l> {
    /// The existing devices. `joining`: only the ports of their network's bridge, and these interfaces.
    fn find(view: &View, links: &'l [Link], joining: Option<BTreeSet<String>>) -> Self {
        let by_name: BTreeMap<&str, &Link> = links.iter().map(|link| (link.name.as_str(), link)).collect();
        let named = |name: String| by_name.get(name.as_str()).copied();
        let is_any = joining.is_none();
        let joining = joining.unwrap_or_default();
        let mut devices = Self { tunnels: BTreeMap::new(), ports: BTreeMap::new(), joining };
        for (vni, network) in view.networks() {
            let bridge = named(kernel::bridge_name(*vni));
            let is_member = |link: &&Link| link.master.is_some() && link.master == bridge.map(|bridge| bridge.index);
            let tunnel = named(kernel::vxlan_name(*vni)).filter(is_member);
            devices.tunnels.extend(bridge.zip(tunnel).map(|devices| (*vni, devices)));
            for endpoint in network.local() {
                let port = interface(&network.network().name, endpoint).and_then(named);
                let is_port = |port: &&Link| is_any || is_member(port) || devices.joining.contains(&port.name);
                let port = port.filter(is_port);
                devices.ports.extend(port.map(|port| ((*vni, endpoint.name.clone()), port)));
            }
        }
        devices
    }

    /// All devices.
    fn all(&self) -> impl Iterator<Item = &'l Link> {
        self.tunnels.values().flat_map(|(bridge, tunnel)| [*bridge, *tunnel]).chain(self.ports.values().copied())
    }

    /// Reads the details.
    async fn details(&self, snapshot: &Snapshot) -> Result<Details, KernelError> {
        let wanted: Vec<Link> = self.all().cloned().collect();
        snapshot.host().read(|reader| Ok(details(reader, wanted))).await
    }

    fn judge(
        &self,
        view: &View,
        links: &[Link],
        underlay: &Link,
        (details, rules): (&Details, &BridgedRules),
    ) -> Judged {
        let mut judged = Judged::default();
        let state = |link: &Link| {
            let (features, peer) = details.links.get(&link.index).cloned().unwrap_or_default();
            (Link { deviations: link.deviations.iter().cloned().chain(features).collect(), ..link.clone() }, peer)
        };
        for (vni, (bridge, tunnel)) in &self.tunnels {
            judged.tunnels.insert(*vni, tunnel.mac);
            let (tunnel, _) = state(tunnel);
            let of_device = judge(&tunnel.name, &tunnel.deviations, Role::Vxlan).map(|found| (Cause::Device, found));
            let of_bridge = || judge_bridge(bridge, &tunnel, links).map(|found| (Cause::Bridge, found));
            let filtered = || {
                let found = judge_frames(bridge, &tunnel, links, (&details.traffic_control, rules))?;
                Some((Cause::Filtered, found))
            };
            if let Some((cause, found)) = of_device.or_else(of_bridge).or_else(filtered) {
                judged.networks.insert(*vni, Refusal::new(cause, found.problem, found.remedy));
            }
        }
        for (key, port) in &self.ports {
            let (mut port, peer) = state(port);
            if self.joining.contains(&port.name) {
                port.deviations.retain(|deviation| !deviation.is_down());
            }
            // The other end may be in this namespace too.
            let is_peer = |link: &&Link| port.lower_netns.is_none() && Some(link.index) == port.lower;
            let here = || links.iter().find(is_peer).filter(|_| port.kind == LinkKind::Veth);
            let peer = peer.or_else(|| here().cloned().map(VethPeer::from));
            let network = &view.networks()[&key.0];
            let mtu = network.network().mtu.unwrap_or(inner_mtu(underlay.mtu));
            let finding = judge_port(&port, peer.as_ref(), mtu.into())
                .or_else(|| judge_egress(&port, &details.traffic_control))
                .or_else(|| {
                    let mac = network.local().iter().find(|endpoint| endpoint.name == key.1)?.mac;
                    judge_address(mac, peer.as_ref()?)
                });
            let fact = PortFact {
                ifindex: port.index,
                redirect_peer: redirects_to_peer(&port, peer.as_ref()),
                peer: port.lower,
                peer_xdp: peer_xdp(&port, peer.as_ref()),
                is_refused: finding.is_some(),
            };
            judged.ports.insert(key.clone(), fact);
            let finding = finding.map(|found| found.about(endpoint_label(&network.network().name, &key.1)));
            judged.findings.extend(finding.map(|finding| (key.clone(), finding)));
        }
        judged
    }
}

/// State of the existing devices of managed networks that does not suit the fast path, for a command. Without the rules of
/// [`super::rule_findings`].
pub(crate) async fn findings(snapshot: &Snapshot, view: &View, underlay: &Link) -> Result<Vec<Finding>, KernelError> {
    let links = snapshot.links().await?;
    let devices = Devices::find(view, links, None);
    let Judged { networks, findings, .. } = {
        let details = devices.details(snapshot).await?;
        devices.judge(view, links, underlay, (&details, &BridgedRules::default()))
    };
    let of_networks = networks
        .into_iter()
        .map(|(vni, refusal)| refusal.of(format!("network {:?}", view.networks()[&vni].network().name)).finding);
    Ok(of_networks.chain(findings.into_values()).collect())
}

impl Daemon {
    /// Judges the devices of the managed networks, and admits the networks again if the result has changed. `joining`:
    /// interfaces that this round makes ports of a strict network, or sets up.
    pub(super) async fn judge_devices(
        &mut self,
        scope: Scope,
        underlay: Option<&Link>,
        snapshot: &Snapshot,
        joining: BTreeSet<String>,
    ) -> Result<(), DaemonError> {
        let (Some(view), Some(underlay)) = (&self.inputs.view, underlay) else {
            self.applied.managed = ManagedDevices::default();
            return Ok(());
        };
        let links = snapshot.links().await?;
        let devices = Devices::find(view, links, Some(joining));
        let managed = &mut self.applied.managed;
        // Changes of features and of filters have events, those in containers and of TCX programs have none.
        let is_due = scope == Scope::Everything
            || managed.read.is_none_or(|read| read.elapsed() >= REFRESH)
            || devices.all().any(|link| !managed.details.links.contains_key(&link.index));
        if is_due {
            (managed.details, managed.read) = (devices.details(snapshot).await?, Some(Instant::now()));
        }
        let judged = devices.judge(view, links, underlay, (&managed.details, &self.firewall.rules));
        let before = std::mem::replace(&mut managed.judged, judged);
        let now = &managed.judged;
        for (_, finding) in now.findings.iter().filter(|(key, found)| before.findings.get(*key) != Some(*found)) {
            warn!("{finding}; its packets take the kernel path");
        }
        for (_, finding) in before.findings.iter().filter(|(key, _)| !now.findings.contains_key(*key)) {
            info!("{}: solved: {}", finding.object, finding.problem);
        }
        if before.networks != now.networks {
            self.admit();
        }
        Ok(())
    }
}

fn details(reader: &Reader, mut links: Vec<Link>) -> Details {
    if links.is_empty() {
        return Details::default();
    }
    let names: Vec<_> = links.iter().map(|link| (link.index, link.name.clone())).collect();
    let traffic_control = reader.traffic_control(&names).map_err(|error| error.to_string());
    links.iter_mut().for_each(|link| link.deviations.clear());
    kernel::read_features(links.iter_mut());
    let details = links.into_iter().map(|link| {
        let peer = match (&link.kind, link.lower, link.lower_netns) {
            // The interface of a removed container is missing.
            (LinkKind::Veth, Some(index), Some(netns)) => reader.link_in(netns, index).ok().flatten(),
            _ => None,
        };
        (link.index, (link.deviations, peer.map(VethPeer::from)))
    });
    Details { links: details.collect(), traffic_control }
}
