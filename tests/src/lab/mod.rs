//! The lab: hosts as network namespaces, connected by a wire, with containers on them.
//!
//! ```text
//!  node01 192.168.1.9                        node02 192.168.1.10
//!  ┌───────────────────────┐   the wire    ┌───────────────────────┐
//!  │ gindemo1       enp0s3 ├───────────────┤ enp0s3       gindemo2 │
//!  │ 10.0.1.2              │               │              10.0.1.6 │
//!  └───────────────────────┘               └───────────────────────┘
//! ```
//!
//! The setup uses `ip` and `bridge` from iproute2, independently of the code under test. Interfaces, routes and
//! firewall of the machine are never changed. Needs root.

mod cluster;
mod daemon;
mod daemon_host;
mod docker_api;
mod etcd;
pub mod firewall;
mod injector;
mod mounts;
mod netns;
mod packet;
mod session;
pub mod snapshot;
mod store_cluster;
pub mod swarm;
pub(crate) mod sys;
mod systemd;
mod topology;
pub mod traffic;
mod user;
mod vxlan;

use std::{env, time::Duration};

pub use cluster::{Cluster, ClusterHost, Endpoint, Network, docker_mac, replace};
pub use daemon::{Daemon, other_overlay_binary, overlay_binary, previous_overlay_binary};
pub use daemon_host::DaemonHost;
pub use docker_api::{Docker, DockerApi};
pub use etcd::{Client as EtcdClient, Etcd};
pub use injector::{Fault, FaultyWire, Injector};
pub use mounts::{BPFFS, ensure_bpffs, private_bpffs, private_directory};
pub use netns::NetNs;
pub use packet::{Offload, OffloadSocket, PacketSocket};
pub use session::{NETNS_DIR, Session};
pub use store_cluster::StoreCluster;
pub use systemd::{Booted, Systemd};
pub use topology::{Container, Host, Lab, LabBuilder, NIC, Nic};
pub use user::{Unprivileged, User, public_binary};
pub use vxlan::{Flavour, KernelVxlan, kernel_vxlan};

/// Environment variable: a factor for the limits of waiting, for an emulated machine.
const PATIENCE: &str = "OVERLAY_LAB_PATIENCE";

/// The longest time to wait where an ordinary machine needs at most `limit`.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    let factor = env::var(PATIENCE).ok().and_then(|factor| factor.parse().ok());
    limit * factor.unwrap_or(1)
}
