//! The kernel's own tables as a source of truth: VXLAN networks that Docker, flannel or a person has made.
//!
//! ```text
//!  namespaces (inotify) ─┐
//!  tables (netlink) ─────┼─► facts ─► decide (pure) ─► Found
//!  rules, XFRM (looked) ─┤
//!  Docker's API ─────────┘
//! ```
//!
//! | file | what it knows |
//! |---|---|
//! | `facts` | everything that is decided from, as plain data |
//! | `decide` | which networks there are |
//! | `network`, `places` | one VXLAN device: who is local, who is where |
//! | `encryption`, `filters` | what the kernel would do to the frames that the programs would not |
//! | `namespaces` | the files that stand for them |
//! | `read`, `watch`, `follow` | reading the facts (one visit of a namespace in a round), hearing of changes, and when to do which |
//!
//! Nothing is written: no entry, address, route or rule of anybody is touched. What is in doubt is left to the kernel.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::watch as channel, task::AbortHandle};

use super::{Found, Source, SourceError, SourceResult, Update};
use crate::{
    model::{Cluster, discovery::Settings},
    sys::netns::Netns,
};

mod decide;
pub(crate) mod docker;
mod encryption;
mod facts;
mod filters;
mod follow;
mod namespaces;
mod network;
mod places;
mod read;
mod watch;

#[cfg(any(test, feature = "testing"))]
#[path = "tests/example.rs"]
pub(crate) mod example;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub(crate) use {
    decide::decide,
    facts::{Facts, HostFacts, NetnsFacts, VethPeer},
};

/// Events that the kernel may queue for one namespace, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;
/// How long the first decision waits for Docker's first word.
const DOCKERS_FIRST_WORD: Duration = Duration::from_secs(1);

/// The discovery as a source: looks at this host, in a task that ends with this value.
#[derive(Debug)]
pub struct Discovery {
    settings: channel::Sender<Option<Settings>>,
    found: channel::Receiver<Found>,
    /// `false`: the task has ended, and that was said.
    runs: bool,
    task: AbortHandle,
}

/// What the command line says of discovery, over what a configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Override {
    /// Networks that others made are looked for also where no configuration says so.
    pub discover: Option<Settings>,
    /// [`Settings::netns_dir`].
    pub netns_dir: Option<PathBuf>,
    /// [`Settings::docker`].
    pub docker: Option<PathBuf>,
}

impl Override {
    /// A configuration's settings with these over them; `None`: nothing is looked for.
    #[must_use]
    pub(crate) fn settings(&self, configured: Option<Settings>) -> Option<Settings> {
        let mut settings = configured.or_else(|| self.discover.clone())?;
        if let Some(directory) = &self.netns_dir {
            settings.netns_dir.clone_from(directory);
        }
        if let Some(socket) = &self.docker {
            settings.docker = Some(socket.clone());
        }
        Some(settings)
    }

    /// A configuration with these over it.
    #[must_use]
    pub(crate) fn over(&self, cluster: Cluster) -> Cluster {
        let settings = self.settings(cluster.discover.clone());
        cluster.with_discovery(settings)
    }
}

impl Discovery {
    /// Looks at everything once, and follows it from then on; without settings nothing is followed. The calling thread's
    /// network namespace is the one of the underlay.
    ///
    /// # Errors
    /// [`SourceError::Netns`] where `/proc` is not mounted.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn start(settings: Option<Settings>) -> Result<(Self, Found), SourceError> {
        Self::start_with(settings, RECEIVE_BUFFER).await
    }

    /// [`Self::start`] with another size of the sockets' receive buffers, in bytes.
    ///
    /// # Errors
    /// As [`Self::start`].
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(settings: Option<Settings>, receive_buffer: usize) -> Result<(Self, Found), SourceError> {
        let underlay = Netns::open(Path::new("/proc/thread-self/ns/net"))
            .map_err(|error| SourceError::Netns(error.to_string()))?;
        let (settings, configured) = channel::channel(settings);
        let mut follower = follow::Follower::new(configured, underlay, receive_buffer);
        follower.hear_docker(DOCKERS_FIRST_WORD).await;
        let first = follower.round().await;
        let (sender, found) = channel::channel(first.clone());
        let task = tokio::spawn(follower.run(sender)).abort_handle();
        Ok((Self { settings, found, runs: true, task }, first))
    }
}

impl Source for Discovery {
    /// When the task has ended, the networks are unknown: none is reported then.
    async fn next(&mut self) -> SourceResult {
        if self.runs && self.found.changed().await.is_ok() {
            return Ok(Update::Found(self.found.borrow_and_update().clone()));
        }
        if std::mem::replace(&mut self.runs, false) {
            return Ok(Update::Found(Found::default()));
        }
        std::future::pending().await
    }

    fn in_force(&mut self, cluster: &Cluster) {
        self.settings.send_if_modified(|settings| {
            let changed = *settings != cluster.discover;
            settings.clone_from(&cluster.discover);
            changed
        });
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.task.abort();
    }
}
