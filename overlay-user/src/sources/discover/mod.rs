//! The kernel's tables as a source: external VXLAN networks, made by Docker, flannel or by hand.
//!
//! ```text
//!  namespaces (inotify) ─┐
//!  tables (netlink) ─────┼─► facts ─► decide (pure) ─► Discovered
//!  rules, XFRM (polled) ─┤
//!  Docker's API ─────────┘
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `facts` | the input of `decide`, as plain data |
//! | `decide` | the networks |
//! | `network`, `locations` | one VXLAN device: its ports and remote MAC addresses |
//! | `encryption`, `filters` | kernel features that apply to the frames and that the programs lack |
//! | `namespaces` | the netns files |
//! | `read`, `watch`, `follow` | reads (one visit per namespace and round), events, and the schedule |
//! | `pace` | pauses between reads because of events |
//!
//! Read-only: discovery changes no entry, address, route or rule. Ambiguous addresses stay on the kernel path.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::watch as channel, task::AbortHandle};

use super::{Discovered, Source, SourceError, SourceResult, Update};
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
mod locations;
mod namespaces;
mod network;
mod pace;
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
    facts::{Facts, HostFacts, NetnsFacts},
};

/// Receive buffer for the events of one namespace, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Maximum wait for Docker's first answer at the start.
const DOCKER_TIMEOUT: Duration = Duration::from_secs(1);

/// Discovery as a source: follows this host in a task that is aborted on drop.
#[derive(Debug)]
pub struct Discovery {
    settings: channel::Sender<Option<Settings>>,
    found: channel::Receiver<Discovered>,
    /// `false`: the task has ended, and the empty update was returned.
    is_running: bool,
    task: AbortHandle,
}

/// Discovery options of the command line. They override the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Override {
    /// Settings used when the configuration has no `[discover]`.
    pub discover: Option<Settings>,
    /// [`Settings::netns_dir`].
    pub netns_dir: Option<PathBuf>,
    /// [`Settings::docker`].
    pub docker: Option<PathBuf>,
}

impl Override {
    /// The effective settings; `None`: discovery is off.
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

    /// The configuration with the effective settings.
    #[must_use]
    pub(crate) fn over(&self, cluster: Cluster) -> Cluster {
        let settings = self.settings(cluster.discover.clone());
        cluster.with_discovery(settings)
    }
}

impl Discovery {
    /// Reads all facts once, then follows them; without settings discovery is off. The calling thread's network
    /// namespace is the underlay's.
    ///
    /// # Errors
    /// [`SourceError::Netns`] if `/proc` is not mounted.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn start(settings: Option<Settings>) -> Result<(Self, Discovered), SourceError> {
        Self::start_with(settings, RECEIVE_BUFFER).await
    }

    /// [`Self::start`] with another size of the sockets' receive buffers, in bytes.
    ///
    /// # Errors
    /// As [`Self::start`].
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(
        settings: Option<Settings>,
        receive_buffer: usize,
    ) -> Result<(Self, Discovered), SourceError> {
        let underlay = Netns::open(Path::new("/proc/thread-self/ns/net"))
            .map_err(|error| SourceError::Netns(error.to_string()))?;
        let (settings, configured) = channel::channel(settings);
        let mut follower = follow::Follower::new(configured, underlay, receive_buffer);
        follower.wait_for_docker(DOCKER_TIMEOUT).await;
        let first = follower.round().await;
        let (sender, found) = channel::channel(first.clone());
        let task = tokio::spawn(follower.run(sender)).abort_handle();
        Ok((Self { settings, found, is_running: true, task }, first))
    }
}

impl Source for Discovery {
    /// When the task ends, the networks are unknown: the last update has none.
    async fn next(&mut self) -> SourceResult {
        if self.is_running && self.found.changed().await.is_ok() {
            return Ok(Update::Discovered(self.found.borrow_and_update().clone()));
        }
        if std::mem::replace(&mut self.is_running, false) {
            return Ok(Update::Discovered(Discovered::default()));
        }
        std::future::pending().await
    }

    fn set_applied(&mut self, cluster: &Cluster) {
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
