//! The tests that run on other kernels.

use std::fmt;

use clap::ValueEnum;

/// Suites with tests for other kernels.
pub(super) const SUITES: [&str; 4] = ["differential", "two_hosts", "upgrade", "vm"];

/// NICs with as many queues as a machine has CPUs.
const QUEUES: &str = "OVERLAY_LAB_QUEUES=4";

/// The tests of the suite `two_hosts` that CI runs.
const TWO_HOSTS: &str = "binary(two_hosts)";

/// The tests of the suite `upgrade` that CI runs.
const UPGRADE: &str = "binary(upgrade)";

/// The same packets by both paths, and traffic between containers.
const UNDERLAYS: &str = "binary(differential) & test(/^send::/) | binary(two_hosts) & test(/^forwarding::/)";

/// Tests that one machine runs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// A Docker Swarm with service addresses, the ingress mesh and an encrypted network
    Swarm,
    /// Two hosts, on NICs with several queues
    TwoHosts,
    /// Restarts and upgrades, on NICs with several queues
    Upgrade,
    /// A VLAN, a bond and a port of a VRF as underlay device
    Underlays,
    /// The kernel's own tests of VXLAN devices, with overlay beside them
    Selftests,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// A run of nextest.
pub(super) struct Run {
    /// Environment variables of the lab, as words of the shell.
    pub(super) environment: &'static str,
    /// Filter expression of all tests.
    pub(super) all: &'static str,
    /// Filter expression of the tests of CI.
    pub(super) ci: &'static str,
}

impl Part {
    /// The runs, one after another.
    pub(super) fn runs(self) -> Vec<Run> {
        let run = |environment, all, ci| Run { environment, all, ci };
        match self {
            Self::Swarm => vec![run("", "binary(vm) & test(/^swarm::/)", "binary(vm) & test(/^swarm::/)")],
            Self::TwoHosts => vec![run(QUEUES, "binary(two_hosts)", TWO_HOSTS)],
            Self::Upgrade => vec![run(QUEUES, "binary(upgrade)", UPGRADE)],
            Self::Underlays => ["OVERLAY_LAB_NIC=vlan", "OVERLAY_LAB_NIC=bond", "OVERLAY_LAB_NIC=vrf"]
                .map(|nic| run(nic, UNDERLAYS, UNDERLAYS))
                .into(),
            Self::Selftests => vec![run("", "binary(vm) & test(/^selftests::/)", "binary(vm) & test(/^selftests::/)")],
        }
    }
}
