//! Services of Debian packages: setup installs servers that the benchmark starts, and no service of the machine.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::command::check;

/// Packages with a service of the same name.
const PACKAGES: [&str; 4] = ["redis-server", "memcached", "nginx", "postgresql"];

/// The program that maintainer scripts ask before they start a service (invoke-rc.d(8), deb-systemd-invoke(1p)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Its exit code for a service that must not start.
const FORBIDDEN: i32 = 101;

/// First line of setup's own policy, after the interpreter.
const MARK: &str = "# Written by `cargo xtask setup` for the time of an installation. It can be deleted.";

/// While this exists, the services of [`PACKAGES`] do not start when their packages are installed.
pub(super) struct Stopped {
    /// Services that the machine did not have.
    new: Vec<&'static str>,
    has_written_policy: bool,
}

impl Stopped {
    /// Forbids the services of these packages to start.
    ///
    /// # Errors
    ///
    /// When the machine has a policy that lets one of them start.
    pub(super) fn new(packages: &[&str]) -> Result<Self> {
        let services: Vec<_> = PACKAGES.into_iter().filter(|service| packages.contains(service)).collect();
        let found = fs::read_to_string(POLICY);
        let has_policy = found.is_ok_and(|text| !text.contains(MARK));
        for service in services.iter().filter(|_| has_policy) {
            if !forbids(Path::new(POLICY), service)? {
                bail!("{POLICY} lets the service {service} start when its package is installed; change or move it");
            }
        }
        let new = services.iter().copied().filter(|service| !script(service).exists()).collect();
        let mut stopped = Self { new, has_written_policy: false };
        if !services.is_empty() && !has_policy {
            stopped.has_written_policy = true;
            write(Path::new(POLICY), &policy(std::process::id()))?;
        }
        Ok(stopped)
    }

    /// Disables the new services, so that they do not start when the machine does.
    ///
    /// # Errors
    ///
    /// When `update-rc.d` fails.
    pub(super) fn disable(&self) -> Result<()> {
        for service in self.new.iter().filter(|service| script(service).exists()) {
            check(Command::new("update-rc.d").args([service, "disable"]))?;
        }
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.has_written_policy
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("setup: cannot remove {POLICY}: {error}");
        }
    }
}

/// Every service of Debian 12 has one, also for systemd.
fn script(service: &str) -> PathBuf {
    Path::new("/etc/init.d").join(service)
}

/// A policy that forbids the services of [`PACKAGES`] and their instances, as long as the process runs.
fn policy(pid: u32) -> String {
    let patterns = PACKAGES.map(|service| format!("{service}|{service}[.@]*")).join("|");
    format!(
        "#!/bin/sh\n{MARK}\nkill -0 {pid} 2>/dev/null || exit 0\nfor word; do\n    case $word in {patterns}) \
         exit {FORBIDDEN};; esac\ndone\nexit 0\n"
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    let write = || {
        // A new file: the old one may be running.
        let _ = fs::remove_file(path);
        let mut file = File::create_new(path)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(0o755))
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn forbids(policy: &Path, service: &str) -> Result<bool> {
    let status = Command::new(policy).args([service, "start"]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {}", policy.display()))?;
    Ok(status.code() == Some(FORBIDDEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_forbids_the_services_while_its_process_runs() {
        let directory = std::env::temp_dir().join(format!("overlay-policy-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let asked = |pid, service| {
            let path = directory.join("policy-rc.d");
            fs::write(&path, policy(pid)).unwrap();
            // With the interpreter: a file that was just written may still be open in a child of another test.
            let status = Command::new("sh").arg(&path).args(["--quiet", service, "start"]).status().unwrap();
            status.code()
        };
        let running = std::process::id();
        for service in ["nginx", "redis-server.service", "postgresql@15-main.service"] {
            assert_eq!(asked(running, service), Some(FORBIDDEN), "{service}");
        }
        assert_eq!(asked(running, "ssh.service"), Some(0));
        // Larger than the largest process id of Linux.
        assert_eq!(asked(1 << 30, "nginx"), Some(0));
        fs::remove_dir_all(directory).unwrap();
    }
}
