//! A host where daemons and commands run as an ordinary user with selected capabilities.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use anyhow::{Context, Result};

use super::{DaemonHost, Host, mounts::BPFFS, overlay_binary};

/// A user without an entry in `/etc/passwd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// A [`Host`] where commands run as an ordinary user.
#[derive(Clone, Debug)]
pub struct Unprivileged {
    /// The host.
    pub host: Host,
    /// The user of the commands.
    pub user: User,
    /// Without `CAP_` and in lower case, for instance `net_admin`.
    pub capabilities: Vec<String>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Environment variables.
    pub environment: Vec<(String, OsString)>,
}

impl User {
    /// This user on a host, with only these capabilities.
    #[must_use]
    pub fn on(self, host: &Host, capabilities: &[&str]) -> Unprivileged {
        let capabilities = capabilities.iter().map(|name| (*name).to_owned()).collect();
        Unprivileged { host: host.clone(), user: self, capabilities, groups: Vec::new(), environment: Vec::new() }
    }

    /// Creates a directory that belongs to this user.
    ///
    /// # Errors
    /// When the directory exists or cannot be created.
    pub fn directory(self, path: &Path, mode: u32) -> Result<()> {
        let create = || {
            fs::DirBuilder::new().mode(mode).create(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            chown(path, Some(self.uid), Some(self.gid))
        };
        create().with_context(|| format!("cannot create {} for user {}", path.display(), self.uid))
    }

    /// Prepares the pin roots and the socket directory for the daemon's user, like `tmpfiles.d` and a service manager,
    /// in the private mounts of the test. The user cannot write elsewhere in the BPF filesystem.
    ///
    /// # Errors
    /// When a directory cannot be created or changed; the mounts are those of [`private_bpffs`](super::private_bpffs).
    pub fn prepare(self, pin_roots: &[&str]) -> Result<()> {
        let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        set_mode(Path::new(BPFFS), 0o711).with_context(|| format!("cannot set the mode of {BPFFS}"))?;
        for name in pin_roots {
            self.directory(&Path::new(BPFFS).join(name), 0o750)?;
        }
        let sockets = Path::new(overlay_user::testing::apply::DIRECTORY);
        set_mode(sockets, 0o750)
            .and_then(|()| chown(sockets, Some(self.uid), Some(self.gid)))
            .with_context(|| format!("cannot change the owner of {}", sockets.display()))
    }
}

impl Unprivileged {
    /// Adds an environment variable.
    #[must_use]
    pub fn with(mut self, variable: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((variable.to_owned(), value.into()));
        self
    }
}

/// Copies the `overlay` binary to `directory`, with execute permission for every user.
///
/// # Errors
/// When there is no binary, or the copy fails.
pub fn public_binary(directory: &Path) -> Result<PathBuf> {
    let copy = directory.join("overlay");
    if !copy.exists() {
        fs::copy(overlay_binary()?, &copy)
            .and_then(|_| fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot copy overlay to {}", directory.display()))?;
    }
    Ok(copy)
}

impl DaemonHost for Unprivileged {
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
        // The kernel clears the parent-death signal when the user id changes.
        command.args(["--pdeathsig", "KILL"]);
        command.arg(program).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        command.spawn()
    }

    fn wait_for_devices(&self) -> Result<()> {
        self.host.wait_for_all_devices()
    }
}
