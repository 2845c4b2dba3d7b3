//! The tests that run on other kernels.

use std::fmt;

use clap::ValueEnum;

/// Suites with tests for other kernels.
pub(super) const SUITES: [&str; 4] = ["differential", "two_hosts", "upgrade", "vm"];

/// NICs with as many queues as a machine has CPUs.
const QUEUES: &str = "OVERLAY_LAB_QUEUES=4";

/// The tests of the suite `two_hosts` that CI runs: those that depend most on the kernel.
const TWO_HOSTS: &str = "binary(two_hosts) & test(/^(cpus::|xdp::xdp_receives|kernel_peer::node01_interoperates_with_static\
    |forwarding::(pings|ipv6|udp_super_packets_are)|clsact::hooks|local::containers|lifecycle::down_under\
    |changes::endpoints|underlay::traffic_recovers_after_peer)/)";

/// The tests of the suite `upgrade` that CI runs.
const UPGRADE: &str = "binary(upgrade) & test(/^changes::upgrade_and_downgrade_lose/)";

/// The same packets by both paths, and traffic between containers.
const UNDERLAYS: &str = "binary(differential) & test(/^send::/) | binary(two_hosts) & test(/^forwarding::/)";

/// The tests of [`UNDERLAYS`] that CI runs.
const UNDERLAYS_IN_CI: &str =
    "binary(differential) & test(/^send::every_dscp/) | binary(two_hosts) & test(/^forwarding::pings/)";

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
            Self::Underlays => vec![
                run("", "binary(vm) & test(/^underlays::/)", "binary(vm) & test(/^underlays::/)"),
                run("OVERLAY_LAB_NIC=vlan", UNDERLAYS, UNDERLAYS_IN_CI),
                run("OVERLAY_LAB_NIC=bond", UNDERLAYS, UNDERLAYS_IN_CI),
            ],
            Self::Selftests => {
                vec![run("", "binary(vm) & test(/^selftests::/)", "binary(vm) & test(/^selftests::vxlan_over_/)")]
            }
        }
    }
}
