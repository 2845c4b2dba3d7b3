//! The Docker of another Debian suite, for the tests: unpacked below the target directory, not installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::command::{check, output, target_directory};

/// Environment variable of the lab with the root directory of the Debian whose Docker its nodes run.
pub(crate) const ROOT: &str = "OVERLAY_DOCKER_ROOT";

/// A Debian suite with another Docker than Debian 12.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Suite {
    /// Debian 13: Docker 26.1.
    Trixie,
    /// The newest packages, which change daily: Docker 28.5.
    Sid,
}

/// Docker, and what a node calls.
const PACKAGES: &str = "docker.io,docker-cli,iptables,busybox-static,mount";

/// Unpacks the suite's Docker and its dependencies, unless they are unpacked already, and returns their directory and
/// the version. The packages are not configured, so none of their scripts runs.
///
/// # Errors
///
/// When apt cannot download the packages, or their signature is not one of the machine's Debian keys.
pub(crate) fn unpack(suite: Suite) -> Result<(PathBuf, String)> {
    let cache = target_directory()?.join("docker");
    fs::create_dir_all(&cache)?;
    // Concurrent runs would overwrite each other's files.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    let suite = suite.to_possible_value().context("every suite has a name")?;
    let root = cache.join(suite.get_name());
    if !root.exists() {
        eprintln!("docker: unpacking the packages of Debian {} (100 MB)", suite.get_name());
        let unfinished = cache.join("unfinished");
        check(Command::new("rm").args(["-rf", "--one-file-system"]).arg(&unfinished))?;
        download(suite.get_name(), &unfinished, &cache.join("acquire.conf"))?;
        fs::rename(&unfinished, &root)?;
    }
    let version = output(Command::new("chroot").arg(&root).args(["/usr/sbin/dockerd", "--version"]));
    Ok((root, version.context("dockerd cannot be started")?.trim().to_owned()))
}

fn download(suite: &str, root: &Path, settings: &Path) -> Result<()> {
    // The machine's proxies, and its mirror of Debian.
    let acquire = output(Command::new("apt-config").args(["dump", "Acquire"])).unwrap_or_default();
    fs::write(settings, acquire)?;
    let filters = ["Origin: Debian", "Label: Debian", "Created-By: Packages"];
    let sources = output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).args(filters));
    let mut unpack = Command::new("mmdebstrap");
    unpack.args(["--variant=extract", "--include=?essential", "--include", PACKAGES]);
    unpack.arg(format!("--aptopt={}", settings.display())).arg(suite).arg(root);
    unpack.args(sources.as_deref().and_then(|sources| sources.lines().next()));
    check(&mut unpack)
}
