//! Reads the host's netfilter rules, and reports those that drop packets of managed networks on the kernel path.

use std::{io, time::Duration};

use overlay_common::Vni;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Daemon;
use crate::{
    kernel::{self, Snapshot},
    model::{Finding, NetworkSpec, View},
    plan::kernel_path,
};

/// Shortest interval between two reads of unchanged networks: rules have no events, and rounds can be frequent.
const INTERVAL: Duration = Duration::from_secs(2);

/// The last read of the rules.
#[derive(Debug, Default)]
pub(super) struct KernelPath {
    read: Option<Read>,
    /// Its result.
    pub(super) findings: Vec<Finding>,
}

/// What a result depends on.
#[derive(Debug)]
struct Read {
    at: Instant,
    networks: Networks,
    version: Option<([bool; 2], u32)>,
}

/// Networks; `true`: an option of the network's bridge passes its packets to iptables.
type Networks = Vec<(NetworkSpec, bool)>;

/// The rules of this host that drop packets of these networks on the kernel path, for a command.
pub(crate) async fn findings(networks: impl IntoIterator<Item = NetworkSpec>) -> Vec<Finding> {
    let networks = networks.into_iter().map(|network| (network, false)).collect();
    read(networks).await.map(|(findings, _)| findings).unwrap_or_default()
}

/// Reads the rules.
async fn read(networks: Networks) -> io::Result<(Vec<Finding>, Networks)> {
    let read = move || {
        if networks.is_empty() {
            return Ok((Vec::new(), networks));
        }
        let chains = kernel::bridge_chains(networks.iter().any(|(_, is_passed)| *is_passed))?;
        let specs = networks.iter().map(|(network, is_passed)| (network, *is_passed));
        Ok((kernel_path::findings(&chains, specs), networks))
    };
    let result = tokio::task::spawn_blocking(read).await.map_err(io::Error::other).flatten();
    result.inspect_err(|error| debug!("the netfilter rules cannot be read: {error}"))
}

impl Daemon {
    /// Reads the rules again if they can have changed, and logs changes of the findings.
    pub(super) async fn check_kernel_path(&mut self, snapshot: &Snapshot) {
        // A round that cannot read the links fails.
        let links = snapshot.links().await.unwrap_or_default();
        let is_passed = |vni: Vni| {
            let bridge = links.iter().find(|link| link.name == kernel::bridge_name(vni));
            bridge.and_then(|bridge| bridge.bridge).is_some_and(|options| options.nf_call)
        };
        let specs = self.inputs.view.iter().flat_map(View::networks);
        let networks: Networks = specs.map(|(vni, network)| (network.network().clone(), is_passed(*vni))).collect();
        let last = self.kernel_path.read.as_ref().filter(|last| last.networks == networks);
        if last.is_some_and(|last| last.at.elapsed() < INTERVAL) {
            return;
        }
        // Read first: a change during the dump is read the next time.
        let version = kernel::bridge_chains_version();
        if last.is_some_and(|last| version.is_some() && last.version == version) {
            return;
        }
        // Another process is changing the rules: the next round reads them again.
        let Ok((found, networks)) = read(networks).await else { return };
        let before = std::mem::replace(&mut self.kernel_path.findings, found);
        for finding in self.kernel_path.findings.iter().filter(|finding| !before.contains(finding)) {
            warn!("{finding}");
        }
        for finding in before.iter().filter(|finding| !self.kernel_path.findings.contains(finding)) {
            info!("{}: solved: {}", finding.object, finding.problem);
        }
        self.kernel_path.read = Some(Read { at: Instant::now(), networks, version });
    }
}
