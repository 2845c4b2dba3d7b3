//! What can go wrong with the kernel's objects, and what mends it.

use std::{fmt, io, path::PathBuf};

use overlay_common::Vni;

use crate::{
    apply::ledger::PinError,
    kernel::KernelError,
    sys::{netlink::NetlinkError, netns::NetnsError},
};

/// A failure to read or change the kernel's networking objects.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel could not be asked, or refused a request that has no more special explanation.
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
    /// An endpoint's network namespace is the one that the bridge is in.
    #[error("endpoint {endpoint}: {} is the host's own network namespace; give the container's", path.display())]
    NetnsIsHost {
        /// `<network>/<endpoint>`.
        endpoint: String,
        /// The namespace's path.
        path: PathBuf,
    },
    /// A device that is needed is not there.
    #[error("there is no interface {name}; create it, or correct the name in the configuration")]
    NoLink {
        /// The interface.
        name: String,
    },
    /// A port is in a bridge that is not ours.
    #[error(
        "interface {name} is already in bridge {bridge}; take it out (ip link set {name} nomaster), \
         or use another interface"
    )]
    PortInUse {
        /// The interface.
        name: String,
        /// The name of the bridge, bond or other master that it is enslaved to.
        bridge: String,
    },
    /// A device of our name was made by somebody else.
    #[error(
        "interface {name} ({kind}) exists, but overlay did not make it; remove it (ip link delete {name}), \
         or change the network's VNI"
    )]
    NotOurs {
        /// The interface.
        name: String,
        /// What kind of device it is.
        kind: String,
    },
    /// A device of our name was made by an overlay daemon, but not by this one.
    #[error(
        "interface {name} was made by another overlay daemon, or by one whose pin root is lost; run `overlay down` with \
         that daemon's pin root, or remove the interface (ip link delete {name})"
    )]
    OtherOverlay {
        /// The interface.
        name: String,
    },
    /// Another VXLAN device has the same VNI and UDP port.
    #[error("VNI {vni} on UDP port {port} is taken by {holder}; remove it, or change the network's VNI or port")]
    VniInUse {
        /// The network.
        vni: Vni,
        /// The network's UDP port.
        port: u16,
        /// The device in the way, or how to find it.
        holder: String,
    },
    /// The UDP port is bound by something else.
    #[error("UDP port {port} of VNI {vni} is taken by {holder}; stop it, or change the network's port")]
    UdpPortInUse {
        /// The network.
        vni: Vni,
        /// The network's UDP port.
        port: u16,
        /// The socket's process or the device in the way, or how to find it.
        holder: String,
    },
    /// A device feature could not be set.
    #[error("cannot turn GRO on for {device} of endpoint {endpoint}: {source}")]
    Gro {
        /// `<network>/<endpoint>`.
        endpoint: String,
        /// The container's interface.
        device: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The ownership record cannot be written.
    #[error(transparent)]
    Ledger(#[from] PinError),
    /// Some changes of a plan failed; the others are done.
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

/// A change that was not made.
#[derive(Debug)]
pub struct FailedChange {
    /// What was to be done.
    pub action: String,
    /// Why; `None`: it was left out because a device that it needs is missing, for a reason that is in the list.
    pub error: Option<Box<HostError>>,
}

/// The changes of one [`crate::kernel::Host::apply`] that were not made, in order.
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
            skipped => write!(f, "{separator}left out because it depends on these: {skipped} more"),
        }
    }
}

impl std::error::Error for ChangeErrors {}
