//! Errors of kernel network objects.

use std::{fmt, io, path::PathBuf};

use overlay_common::Vni;

use crate::{
    apply::ledger::PinError,
    kernel::KernelError,
    model::counted,
    sys::{netlink::NetlinkError, netns::NetnsError},
};

/// A failure to read or change the kernel's networking objects.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A request to the kernel failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An endpoint's network namespace cannot be used.
    #[error("endpoint {endpoint}: {source}")]
    EndpointNetns {
        /// `<network>/<endpoint>`.
        endpoint: String,
        /// Names the path.
        source: NetnsError,
    },
    /// An endpoint's network namespace is the host's own.
    #[error("endpoint {endpoint}: {} is the host's own network namespace; give the container's", path.display())]
    NetnsIsHost {
        /// `<network>/<endpoint>`.
        endpoint: String,
        /// The namespace's path.
        path: PathBuf,
    },
    /// A required device does not exist.
    #[error("interface {name} does not exist; create it, or correct the name in the configuration")]
    NoLink {
        /// The interface.
        name: String,
    },
    /// A port is in a bridge that overlay does not own.
    #[error(
        "interface {name} is already a port of {bridge}; detach it (ip link set dev {name} nomaster), \
        or use another interface"
    )]
    PortInUse {
        /// The interface.
        name: String,
        /// The name of its master: a bridge, bond or other device.
        bridge: String,
    },
    /// The name of a device is taken by a device without owner mark.
    #[error(
        "interface {name} ({kind}) exists and was not created by overlay; remove it (ip link delete {name}), \
        or change the network's VNI"
    )]
    NotOwned {
        /// The interface.
        name: String,
        /// The kind of device.
        kind: String,
    },
    /// The name of a device is taken by a device of another overlay daemon.
    #[error(
        "interface {name} belongs to another overlay daemon, or its pin root is lost; run `overlay down` with that \
        daemon's pin root, or remove the interface (ip link delete {name})"
    )]
    OtherOverlay {
        /// The interface.
        name: String,
    },
    /// Another VXLAN device has the same VNI and UDP port.
    #[error("VNI {vni} on UDP port {port} is already used by {holder}; remove it, or change the network's VNI or port")]
    VniInUse {
        /// The network.
        vni: Vni,
        /// The network's UDP port.
        port: u16,
        /// The conflicting device, or how to find it.
        holder: String,
    },
    /// The UDP port is already bound.
    #[error("UDP port {port} of VNI {vni} is already used by {holder}; stop it, or change the network's port")]
    UdpPortInUse {
        /// The network.
        vni: Vni,
        /// The network's UDP port.
        port: u16,
        /// The socket's process, the conflicting device, or how to find it.
        holder: String,
    },
    /// GRO cannot be enabled.
    #[error("endpoint {endpoint}: cannot enable GRO on {device}: {source}")]
    Gro {
        /// `<network>/<endpoint>`.
        endpoint: String,
        /// The container's interface.
        device: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The ownership record cannot be written.
    #[error(transparent)]
    Ledger(#[from] PinError),
    /// Some changes of a plan failed; the others are applied.
    #[error(transparent)]
    Changes(#[from] ChangeErrors),
}

impl HostError {
    pub(crate) fn netlink(action: impl Into<String>) -> impl FnOnce(NetlinkError) -> Self {
        move |source| KernelError::netlink(action)(source).into()
    }
}

impl From<NetnsError> for HostError {
    fn from(error: NetnsError) -> Self {
        Self::Kernel(error.into())
    }
}

/// A failed or skipped change.
#[derive(Debug)]
pub struct FailedChange {
    /// The action, as in "cannot ...".
    pub action: String,
    /// The error; `None`: skipped because a required device is missing, whose error is in the list.
    pub error: Option<Box<HostError>>,
}

/// The failed and skipped changes of one [`crate::kernel::Host::apply`], in order.
#[derive(Debug, Default)]
pub struct ChangeErrors {
    /// At least one, and at least one with an error.
    pub failed: Vec<FailedChange>,
}

impl fmt::Display for ChangeErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for failed in &self.failed {
            if let Some(error) = &failed.error {
                write!(f, "{separator}cannot {}: {error}", failed.action)?;
                separator = "\n";
            }
        }
        match self.failed.iter().filter(|failed| failed.error.is_none()).count() {
            0 => Ok(()),
            skipped => write!(f, "{separator}{} skipped because of these errors", counted(skipped, "change")),
        }
    }
}

impl std::error::Error for ChangeErrors {}
