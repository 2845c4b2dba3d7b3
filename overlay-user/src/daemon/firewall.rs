//! Follows the host's netfilter rules, and judges by them which outer packets the programs may send and receive, and which
//! networks' frames they may forward.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use overlay_common::{Vni, VtepAddr};
use tokio::time::Instant;
use tracing::debug;

use super::DaemonError;
use crate::{
    kernel::{self, Chain, ChainsVersion, Host, Obstacle, Snapshot, bridge_name, vxlan_name},
    model::{Finding, NetworkSpec},
    plan::{
        bridged_path::{BridgedRules, TO_READ_RULES},
        outer_path::{self, Accepted, OuterPacket, Refusing},
    },
};

/// Shortest interval between two reads of the rules.
const PAUSE: Duration = Duration::from_millis(500);

/// The rules of the daemon's network namespace.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    pub(super) rules: BridgedRules,
    /// Time of the last read, and the version of what it read.
    read: Option<(Instant, Option<ChainsVersion>)>,
    /// A rule depends on the VNI.
    asks_for_vni: bool,
    /// Results of the rules.
    judged: Mutex<BTreeMap<OuterPacket, Result<Accepted, Refusing>>>,
}

/// Why packets take the kernel path, in one direction: by VTEP, UDP port, and network if that matters.
pub(super) type Refused = BTreeMap<(VtepAddr, u16, Option<Vni>), Obstacle>;

/// The rules of this host that do not plainly accept frames of these networks, for a command.
pub(crate) async fn findings(networks: impl IntoIterator<Item = NetworkSpec>) -> Vec<Finding> {
    let networks: Vec<_> = networks.into_iter().collect();
    let judge = move || {
        let rules = BridgedRules::new(kernel::chains()?);
        let of = |network: NetworkSpec| {
            let [bridge, tunnel] = [bridge_name(network.vni), vxlan_name(network.vni)];
            let is_inside = |pattern: &kernel::Interface| pattern.matches(&bridge) || pattern.matches(&tunnel);
            let finding = rules.judge(&bridge, false, is_inside)?;
            Some(finding.about(format!("network {:?}", network.name)))
        };
        Ok(networks.into_iter().filter_map(of).collect())
    };
    let found = tokio::task::spawn_blocking(judge).await.map_err(std::io::Error::other).flatten();
    found.inspect_err(|error| debug!("the netfilter rules cannot be read: {error}")).unwrap_or_default()
}

impl Firewall {
    /// When the rules may be read again.
    pub(super) fn next_read(&self) -> Option<Instant> {
        self.read.map(|(at, _)| at + PAUSE)
    }

    /// Reads the rules again if they can have changed.
    pub(super) async fn refresh(&mut self) {
        let last = self.read;
        let read = move || {
            // Read first: a change during the dump is read the next time.
            let version = kernel::chains_version();
            let is_unchanged = last.is_some_and(|(_, last)| version.is_some() && last == version);
            Ok((version, if is_unchanged { None } else { Some(kernel::chains()?) }))
        };
        let result = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other).flatten();
        match result {
            Ok((version, chains)) => {
                self.read = Some((Instant::now(), version));
                if let Some(chains) = chains.filter(|chains| *chains != self.rules.chains) {
                    self.asks_for_vni = outer_path::asks_for_vni(&chains);
                    self.rules = BridgedRules::new(chains);
                    self.judged.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
                }
            }
            // Another process is changing the rules: the next round reads them again.
            Err(error) if self.read.is_some() => debug!("the netfilter rules cannot be read: {error}"),
            Err(error) => self.rules.chains.unreadable = vec![("nft", error.to_string())],
        }
    }

    /// Whether there is no rule.
    pub(super) fn accepts_all(&self) -> bool {
        let mut chains = self.rules.chains.tables.iter().flat_map(|table| table.chains.values());
        let accepts = |chain: &Chain| chain.rules.is_empty() && chain.base.as_ref().is_none_or(|base| !base.drops);
        self.rules.chains.unreadable.is_empty() && chains.all(accepts)
    }

    /// The network as far as the rules depend on it.
    pub(super) fn vni(&self, vni: Vni) -> Option<Vni> {
        self.asks_for_vni.then_some(vni)
    }

    /// What the rules do with the packets.
    fn judge(&self, packet: OuterPacket) -> Result<Accepted, Obstacle> {
        if let Some((command, error)) = self.rules.chains.unreadable.first() {
            return Err(Obstacle::new(format!("the rules of {command} cannot be read ({error})"), TO_READ_RULES));
        }
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match judged.get(&packet) {
            Some(known) => known.clone(),
            None => {
                let result = outer_path::judge(&self.rules.chains, &packet);
                judged.insert(packet, result.clone());
                result
            }
        };
        result.map_err(|Refusing { problem, remedy }| Obstacle::new(problem, remedy))
    }

    /// Why these packets take the kernel path. The rules of routing and the addresses are read where it depends on them.
    ///
    /// # Errors
    /// [`DaemonError`] if they cannot be read.
    pub(super) async fn refused(
        &self,
        packets: impl IntoIterator<Item = OuterPacket>,
        host: &Host,
        snapshot: &Snapshot,
    ) -> Result<Refused, DaemonError> {
        let mut refused = Refused::new();
        let mut rules = None;
        for packet in packets.into_iter().collect::<BTreeSet<_>>() {
            let key = (packet.vtep, packet.port, packet.vni);
            let (local, is_received, device) = (packet.local, packet.is_received, packet.device.1);
            let obstacle = match self.judge(packet) {
                Err(obstacle) => Some(obstacle),
                Ok(Accepted { mark, masquerade }) => {
                    let masquerade = match masquerade {
                        Some(Refusing { problem, remedy }) if !is_only_address(snapshot, device, local).await? => {
                            Some(Obstacle::new(problem, remedy))
                        }
                        _ => None,
                    };
                    if mark != Some(0) && rules.is_none() {
                        rules = Some(host.read(kernel::Reader::rules).await?);
                    }
                    let rules = rules.iter().flatten().filter(|_| mark != Some(0));
                    let by_mark = rules.filter_map(|rule| rule.by_mark(mark)).next().map(|why| {
                        let packets = if is_received { "packets from it" } else { "packets to it" };
                        Obstacle::new(format!("netfilter rules mark {packets}, and {why}"), "remove one of the rules")
                    });
                    masquerade.or(by_mark)
                }
            };
            refused.extend(obstacle.map(|obstacle| (key, obstacle)));
        }
        Ok(refused)
    }
}

/// Whether a device has this address and no other one, so that masquerading keeps it.
async fn is_only_address(snapshot: &Snapshot, device: u32, address: VtepAddr) -> Result<bool, DaemonError> {
    let mut of_device = snapshot.addresses().await?.iter().filter(|(index, _)| *index == device);
    let is_it = of_device.next().is_some_and(|(_, found)| found.addr() == address.ipv4());
    Ok(is_it && of_device.next().is_none())
}
