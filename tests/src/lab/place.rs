//! Where a daemon can run.

use std::{
    ffi::OsStr,
    fmt::Debug,
    io,
    process::{Child, Command},
};

use anyhow::Result;

use super::Host;

/// A host, however it is made.
pub trait Place: Debug + Send + Sync {
    /// For messages.
    fn name(&self) -> &str;

    /// A command that will run on the host, to be started by [`Self::spawn`].
    fn command(&self, program: &OsStr) -> Command;

    /// Starts a command of [`Self::command`].
    ///
    /// # Errors
    /// As [`Command::spawn`].
    fn spawn(&self, command: &mut Command) -> io::Result<Child>;

    /// Waits until the devices of the host, and those of containers that a daemon gives devices to, can send.
    ///
    /// # Errors
    /// When that takes more than 10 s.
    fn settle(&self) -> Result<()>;
}

impl Place for Host {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn command(&self, program: &OsStr) -> Command {
        (**self).command(program)
    }

    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        command.spawn()
    }

    fn settle(&self) -> Result<()> {
        self.settle_all()
    }
}
