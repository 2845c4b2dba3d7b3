//! Settings for the discovery of external networks.

use std::{collections::BTreeSet, path::PathBuf};

use overlay_common::Vni;

/// Docker's directory of network namespaces of networks and containers.
const NETNS_DIR: &str = "/var/run/docker/netns";
/// The socket of Docker's API.
pub(crate) const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Whether this build has the client of Docker's API.
#[must_use]
pub(crate) const fn has_docker_client() -> bool {
    cfg!(feature = "docker")
}

/// Which external networks are accelerated, and where they are discovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// VXLAN devices by name; `None`: all.
    pub vxlan: Option<BTreeSet<String>>,
    /// The socket of Docker's API; `None`: not used, the default of builds without the feature `docker`.
    pub docker: Option<PathBuf>,
    /// A directory of network namespaces, which are searched besides the daemon's own.
    pub netns_dir: PathBuf,
    /// If it is not empty, all other networks use the kernel path. A VNI in it also declares that the network is not
    /// encrypted, where discovery cannot determine it.
    pub allow: BTreeSet<Selector>,
    /// Networks that use the kernel path.
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
    /// Whether a network matches.
    #[must_use]
    pub fn matches(&self, vni: Vni, name: Option<&str>) -> bool {
        match self {
            Self::Vni(wanted) => *wanted == vni,
            Self::Name(wanted) => Some(wanted.as_str()) == name,
        }
    }
}

/// A network namespace with networks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetnsRef {
    /// The daemon's own.
    Own,
    /// Another one.
    Other {
        /// Path of the namespace, for instance `/var/run/docker/netns/1-abcdef`.
        path: PathBuf,
        /// Inode number of the namespace: the path may refer to another namespace later.
        inode: u64,
    },
}

impl NetnsRef {
    /// Path of the namespace; `None`: the daemon's own.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Own => None,
            Self::Other { path, .. } => Some(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_is_selected_by_vni_or_name() {
        let vni = |number| Vni::new(number).unwrap();
        let (by_vni, by_name) = (Selector::Vni(vni(7)), Selector::Name("blue".into()));
        assert!(by_vni.matches(vni(7), None) && by_vni.matches(vni(7), Some("red")));
        assert!(!by_vni.matches(vni(8), Some("7")));
        assert!(by_name.matches(vni(8), Some("blue")));
        assert!(!by_name.matches(vni(8), Some("red")) && !by_name.matches(vni(8), None));
    }

    #[test]
    fn docker_is_asked_by_default_if_this_build_can() {
        assert_eq!(Settings::default().docker.is_some(), cfg!(feature = "docker"));
    }
}
