//! The Docker of the nodes: the machine's, or that of another Debian suite.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Environment variable with the root directory of another Debian; `cargo xtask test --docker SUITE` sets it.
const ROOT: &str = "OVERLAY_DOCKER_ROOT";

/// `PATH` of a node: its own `iptables` first, and Debian's Docker, not one in /usr/local.
pub(super) const PATH: &str = "/run/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Programs of a node, and their Debian packages.
const PROGRAMS: [(&str, &str); 6] = [
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("iptables-nft", "iptables"),
    ("busybox", "busybox-static"),
];

/// A Docker, with the Debian that it is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    root: PathBuf,
}

impl Engine {
    /// The Docker below the directory in `OVERLAY_DOCKER_ROOT`; without it, the machine's.
    #[must_use]
    pub fn of_environment() -> Self {
        Self { root: env::var_os(ROOT).map_or_else(|| "/".into(), PathBuf::from) }
    }

    /// Root directory of its Debian: `/` for the machine's.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Version of its dockerd, like `20.10.24+dfsg1`.
    ///
    /// # Errors
    /// When dockerd cannot be started.
    pub fn version(&self) -> Result<String> {
        let output =
            Command::new("chroot").arg(&self.root).args(["dockerd", "--version"]).env("PATH", PATH).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // `Docker version 20.10.24+dfsg1, build 5d6db84`
        let version = text.split(' ').nth(2).map(|word| word.trim_end_matches(',').to_owned());
        version.with_context(|| format!("{}: dockerd printed no version: {text}", self.root.display()))
    }

    /// # Errors
    /// The first missing program, and its Debian package.
    pub(super) fn check_programs(&self) -> Result<()> {
        let directories = || PATH.split(':').map(|directory| self.root.join(directory.trim_start_matches('/')));
        for (program, package) in PROGRAMS {
            let found = directories().any(|directory| directory.join(program).is_file());
            ensure!(
                found,
                "{}: {program} is missing; install Debian's package {package}, or run `cargo xtask setup`",
                self.root.display()
            );
        }
        Ok(())
    }
}
