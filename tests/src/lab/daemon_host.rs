//! Hosts that can run a daemon.

use std::{
    ffi::OsStr,
    fmt::Debug,
    io,
    process::{Child, Command},
};

use anyhow::Result;

use super::Host;

/// A host that can run a daemon: a [`Host`], a node of a Swarm, a systemd container, a host with an ordinary user.
pub trait DaemonHost: Debug + Send + Sync {
    /// Name for messages.
    fn name(&self) -> &str;

    /// A command for the host, to be started with [`Self::spawn`].
    fn command(&self, program: &OsStr) -> Command;

    /// Starts a command of [`Self::command`].
    ///
    /// # Errors
    /// As [`Command::spawn`].
    fn spawn(&self, command: &mut Command) -> io::Result<Child>;

    /// Waits until the devices of the host and of its containers can send.
    ///
    /// # Errors
    /// After 10 s.
    fn wait_for_devices(&self) -> Result<()>;
}

impl DaemonHost for Host {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn command(&self, program: &OsStr) -> Command {
        (**self).command(program)
    }

    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        command.spawn()
    }

    fn wait_for_devices(&self) -> Result<()> {
        self.wait_for_all_devices()
    }
}
