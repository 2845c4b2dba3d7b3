//! What can go wrong in the daemon.

use std::path::PathBuf;

use overlay_common::VtepAddr;

use crate::{
    apply::{
        bpf::{AttachError, LoadError, TableIoError},
        ledger::PinError,
        net::HostError,
    },
    kernel::KernelError,
    plan::{host::DesiredError, tables::TableError},
    sources::SourceError,
};

/// Why the daemon could not start, or could not do what a new configuration asks.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// This host cannot do what the configuration says.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The kernel's networking objects.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The pin root.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The programs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A table's size.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A map.
    #[error(transparent)]
    TableIo(#[from] TableIoError),
    /// A hook.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl From<KernelError> for DaemonError {
    fn from(error: KernelError) -> Self {
        Self::Host(error.into())
    }
}

impl DaemonError {
    /// The fast path lacks something, and the kernel carries its packets: no reason to refuse a configuration.
    pub(super) const fn is_carried(&self) -> bool {
        matches!(self, Self::TableIo(_) | Self::Attach(AttachError::Attach { .. }))
    }
}

/// What this host cannot do, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Missing capabilities.
    #[error(
        "overlay needs {0}; run it as root, or give it these capabilities (AmbientCapabilities= and \
         CapabilityBoundingSet= of its service, or setpriv)"
    )]
    Privileges(String),
    /// What is not needed cannot be given up.
    #[error("capabilities that are not needed cannot be given up: {0}")]
    Drop(String),
    /// This host is not in the cluster.
    #[error(
        "no interface of this host has the address of one of the cluster's hosts ({0}); \
         add this host to [[hosts]], or give its underlay device the address"
    )]
    NotAHost(String),
    /// This host is in the cluster more than once.
    #[error(
        "this host has the addresses of several of the cluster's hosts ({0}); \
         start one daemon in each one's network namespace"
    )]
    SeveralHosts(String),
    /// The underlay's address went away.
    #[error("no interface has the address {address} any more; give it back to the underlay device")]
    NoAddress {
        /// This host's address.
        address: VtepAddr,
    },
    /// The underlay device is not Ethernet.
    #[error("underlay device {device} is not an Ethernet device; the programs need one")]
    NotEthernet {
        /// The device.
        device: String,
    },
    /// The model does not fit this host.
    #[error(transparent)]
    Desired(#[from] DesiredError),
    /// A namespace that is not there.
    #[error("endpoint {endpoint}: there is no network namespace {}; create it (ip netns add), or correct `netns`", path.display())]
    NoNetns {
        /// Network and name.
        endpoint: String,
        /// The path.
        path: PathBuf,
    },
    /// A port that is not there.
    #[error("endpoint {endpoint}: there is no interface {port}; create it, or correct `port`")]
    NoPort {
        /// Network and name.
        endpoint: String,
        /// The interface.
        port: String,
    },
    /// A port in another bridge, bond or VRF.
    #[error(
        "endpoint {endpoint}: interface {port} is already in {master}; \
         take it out (ip link set dev {port} nomaster), or use another"
    )]
    PortInUse {
        /// Network and name.
        endpoint: String,
        /// The interface.
        port: String,
        /// Its bridge, bond or other master.
        master: String,
    },
    /// XDP on a veth whose packets have no checksums.
    #[error(
        "rx = \"xdp\": {device} is a veth with TX checksum offload; packets that XDP redirects from such a wire have no \
         valid checksum. Turn it off at both ends (ethtool -K {device} tx off), or set rx = \"tc\""
    )]
    XdpOnVeth {
        /// The underlay device.
        device: String,
    },
    /// A device or a socket is in the way of ours, or a namespace is none that can be used.
    #[error(transparent)]
    Conflict(HostError),
    /// An XDP program is on the NIC already.
    #[error(transparent)]
    Xdp(AttachError),
}
