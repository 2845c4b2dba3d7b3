//! Reads the host's netfilter rules, and reports those that drop packets of managed networks on the kernel path.

use std::{collections::BTreeSet, time::Duration};

use overlay_common::Vni;
use tokio::time::Instant;
use tracing::{info, warn};

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
    /// Its time and networks.
    read: Option<(Instant, BTreeSet<Vni>)>,
    /// Its result.
    pub(super) findings: Vec<Finding>,
}

/// The rules of this host that drop packets of these networks on the kernel path. `true`: an option of the network's
/// bridge passes its packets to iptables.
pub(crate) async fn findings(networks: Vec<(NetworkSpec, bool)>) -> Vec<Finding> {
    if networks.is_empty() {
        return Vec::new();
    }
    let read = move || {
        let chains = kernel::bridge_chains(networks.iter().any(|(_, is_passed)| *is_passed));
        kernel_path::findings(&chains, networks.iter().map(|(network, is_passed)| (network, *is_passed)))
    };
    // The thread fails only with the runtime.
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

impl Daemon {
    /// Reads the rules again, and logs changes of the findings.
    pub(super) async fn check_kernel_path(&mut self, snapshot: &Snapshot) {
        let networks: BTreeSet<Vni> = self.inputs.view.iter().flat_map(View::networks).map(|(vni, _)| *vni).collect();
        let is_current = |(at, read): &(Instant, BTreeSet<Vni>)| at.elapsed() < INTERVAL && *read == networks;
        if self.kernel_path.read.as_ref().is_some_and(is_current) {
            return;
        }
        // A round that cannot read the links fails.
        let links = snapshot.links().await.unwrap_or_default();
        let is_passed = |vni: Vni| {
            let bridge = links.iter().find(|link| link.name == kernel::bridge_name(vni));
            bridge.and_then(|bridge| bridge.bridge).is_some_and(|options| options.nf_call)
        };
        let specs = self.inputs.view.iter().flat_map(View::networks);
        let specs = specs.map(|(vni, network)| (network.network().clone(), is_passed(*vni))).collect();
        let found = findings(specs).await;
        let before = std::mem::replace(&mut self.kernel_path.findings, found);
        for finding in self.kernel_path.findings.iter().filter(|finding| !before.contains(finding)) {
            warn!("{finding}");
        }
        for finding in before.iter().filter(|finding| !self.kernel_path.findings.contains(finding)) {
            info!("{}: solved: {}", finding.object, finding.problem);
        }
        self.kernel_path.read = Some((Instant::now(), networks));
    }
}
