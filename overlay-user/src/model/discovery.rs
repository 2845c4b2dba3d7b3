//! Where external networks are discovered.

use std::{collections::BTreeSet, path::PathBuf};

use overlay_common::Vni;

/// Where Docker has the network namespaces of its networks and containers.
const NETNS_DIR: &str = "/var/run/docker/netns";
/// Where Docker listens.
pub(crate) const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Whether this build can ask Docker.
#[must_use]
pub(crate) const fn has_docker_client() -> bool {
    cfg!(feature = "docker")
}

/// Which external networks are followed, and what is asked about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// VXLAN devices by name; `None`: all.
    pub vxlan: Option<BTreeSet<String>>,
    /// The socket of Docker's API; `None`: Docker is not asked, as by default in a build without the feature `docker`.
    pub docker: Option<PathBuf>,
    /// A directory of files that stand for network namespaces; those in it are searched beside the daemon's own.
    pub netns_dir: PathBuf,
    /// Where it is not empty, all other networks are left to the kernel. A VNI on it also vouches that the network is
    /// not encrypted where that cannot be found out.
    pub allow: BTreeSet<Selector>,
    /// These networks are left to the kernel.
    pub deny: BTreeSet<Selector>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            vxlan: None,
            docker: has_docker_client().then(|| DOCKER_SOCKET.into()),
            netns_dir: NETNS_DIR.into(),
            allow: BTreeSet::new(),
            deny: BTreeSet::new(),
        }
    }
}

/// One element of a list of networks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// By VNI.
    Vni(Vni),
    /// By the orchestrator's name.
    Name(String),
}

impl Selector {
    /// Whether a network is meant.
    #[must_use]
    pub fn is(&self, vni: Vni, name: Option<&str>) -> bool {
        match self {
            Self::Vni(wanted) => *wanted == vni,
            Self::Name(wanted) => Some(wanted.as_str()) == name,
        }
    }
}

/// A network namespace that holds networks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetnsRef {
    /// The daemon's own.
    Own,
    /// Another one.
    Other {
        /// A file that stands for it, for instance `/var/run/docker/netns/1-abcdef`.
        path: PathBuf,
        /// The namespace's inode number: the same path may stand for another namespace later.
        inode: u64,
    },
}

impl NetnsRef {
    /// The file that stands for it; `None`: the daemon's own.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Own => None,
            Self::Other { path, .. } => Some(path),
        }
    }
}
