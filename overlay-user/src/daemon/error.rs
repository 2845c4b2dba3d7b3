//! Errors of the daemon.

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

/// The daemon could not start, or could not apply a new configuration.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The configuration does not fit this host.
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
    /// Whether the hook is left to filters or programs of another owner, or to TC, at the start too.
    pub(super) const fn is_yielding(&self) -> bool {
        use AttachError as E;
        matches!(self, Self::Attach(E::InTheWay { .. } | E::XdpBypass { .. } | E::XdpVlan { .. }))
    }

    /// Whether the failure only degrades the fast path: its packets take the kernel path, and a configuration is not
    /// refused.
    pub(super) const fn is_degraded(&self) -> bool {
        matches!(self, Self::TableIo(_) | Self::Attach(AttachError::Attach { .. })) || self.is_yielding()
    }
}

/// A configuration does not fit this host.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Missing capabilities.
    #[error(
        "missing capabilities {0}; run overlay as root, or grant them (AmbientCapabilities= and \
         CapabilityBoundingSet= of its service, or setpriv)"
    )]
    Privileges(String),
    /// Unneeded capabilities cannot be dropped.
    #[error("unneeded capabilities cannot be dropped: {0}")]
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
    /// The underlay address was removed.
    #[error("no interface has the address {address} any more; add it to the underlay device again")]
    NoAddress {
        /// This host's address.
        address: VtepAddr,
    },
    /// The underlay device is not Ethernet.
    #[error("underlay device {device} is not an Ethernet device; use an address of an Ethernet device")]
    NotEthernet {
        /// The device.
        device: String,
    },
    /// The model does not fit this host.
    #[error(transparent)]
    Desired(#[from] DesiredError),
    /// A missing network namespace.
    #[error(
        "endpoint {endpoint}: network namespace {} does not exist; create it (ip netns add), or correct `netns`",
        path.display()
    )]
    NoNetns {
        /// Network and name.
        endpoint: String,
        /// The path.
        path: PathBuf,
    },
    /// A missing port.
    #[error("endpoint {endpoint}: interface {port} does not exist; create it, or correct `port`")]
    NoPort {
        /// Network and name.
        endpoint: String,
        /// The interface.
        port: String,
    },
    /// A port in another bridge, bond or VRF.
    #[error(
        "endpoint {endpoint}: interface {port} is already a port of {master}; \
         detach it (ip link set dev {port} nomaster), or use another interface"
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
        "rx = \"xdp\": {device} is a veth with TX checksum offload, and packets that XDP redirects from it have no \
         valid checksum; turn the offload off at both ends (ethtool -K {device} tx off), or set rx = \"tc\""
    )]
    XdpOnVeth {
        /// The underlay device.
        device: String,
    },
    /// An existing device or socket conflicts with one of overlay, or a namespace cannot be used.
    #[error(transparent)]
    Conflict(HostError),
    /// Another XDP program is attached to the NIC.
    #[error(transparent)]
    Xdp(AttachError),
}
