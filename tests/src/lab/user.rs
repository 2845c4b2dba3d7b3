//! A host where daemons and commands run as an ordinary user, with the capabilities that they are given.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use anyhow::{Context, Result};

use super::{Host, Place, mounts::BPFFS, overlay_binary};

/// A user without an entry in `/etc/passwd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
}

/// A [`Host`] as a user of it sees it.
#[derive(Clone, Debug)]
pub struct Unprivileged {
    /// The host.
    pub host: Host,
    /// Who runs what is run here.
    pub user: User,
    /// Without `CAP_` and in small letters, for instance `net_admin`.
    pub capabilities: Vec<String>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Variables of the environment.
    pub environment: Vec<(String, OsString)>,
}

impl User {
    /// This user on a host, with these capabilities and nothing else.
    #[must_use]
    pub fn on(self, host: &Host, capabilities: &[&str]) -> Unprivileged {
        let capabilities = capabilities.iter().map(|name| (*name).to_owned()).collect();
        Unprivileged { host: host.clone(), user: self, capabilities, groups: Vec::new(), environment: Vec::new() }
    }

    /// A directory that belongs to this user, where there was none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(self, path: &Path, mode: u32) -> Result<()> {
        let made = || {
            fs::DirBuilder::new().mode(mode).create(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            chown(path, Some(self.uid), Some(self.gid))
        };
        made().with_context(|| format!("cannot make {} for user {}", path.display(), self.uid))
    }

    /// What `tmpfiles.d` and a service manager prepare for the daemon's user, in the test's own mounts: pin roots of these
    /// names in a BPF filesystem that is otherwise closed, and the directory of the sockets.
    ///
    /// # Errors
    /// When it cannot be made; the mounts are those of [`private_bpffs`](super::private_bpffs).
    pub fn prepare(self, pin_roots: &[&str]) -> Result<()> {
        let closed = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        closed(Path::new(BPFFS), 0o711).context("cannot close the BPF filesystem")?;
        for name in pin_roots {
            self.directory(&Path::new(BPFFS).join(name), 0o750)?;
        }
        let sockets = Path::new(overlay_user::testing::apply::DIRECTORY);
        closed(sockets, 0o750)
            .and_then(|()| chown(sockets, Some(self.uid), Some(self.gid)))
            .context("cannot give the directory of the sockets away")
    }
}

impl Unprivileged {
    /// The same with one more variable in the environment.
    #[must_use]
    pub fn with(mut self, variable: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((variable.to_owned(), value.into()));
        self
    }
}

/// A copy of the `overlay` binary in `directory` that every user can execute.
///
/// # Errors
/// When there is no binary, or it cannot be copied.
pub fn public_binary(directory: &Path) -> Result<PathBuf> {
    let copy = directory.join("overlay");
    if !copy.exists() {
        fs::copy(overlay_binary()?, &copy)
            .and_then(|_| fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot put a copy of overlay into {}", directory.display()))?;
    }
    Ok(copy)
}

impl Place for Unprivileged {
    fn name(&self) -> &str {
        self.host.name()
    }

    fn command(&self, program: &OsStr) -> Command {
        let mut command = (*self.host).command("setpriv");
        let list: String = self.capabilities.iter().map(|name| format!(",+{name}")).collect();
        for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.arg(format!("{set}=-all{list}"));
        }
        command.args(["--reuid", &self.user.uid.to_string(), "--regid", &self.user.gid.to_string()]);
        if self.groups.is_empty() {
            command.arg("--clear-groups");
        } else {
            let groups: Vec<_> = self.groups.iter().map(ToString::to_string).collect();
            command.args(["--groups", &groups.join(",")]);
        }
        // The kernel forgets it when the user changes.
        command.args(["--pdeathsig", "KILL"]);
        command.arg(program).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        command.spawn()
    }

    fn settle(&self) -> Result<()> {
        self.host.settle_all()
    }
}
