//! The kernel's own tables as a source of truth: VXLAN networks that Docker, flannel or a person has made.
//!
//! ```text
//!  namespaces (inotify) ─┐
//!  tables (netlink) ─────┼─► facts ─► decide (pure) ─► Mirrored, for the data path
//!  rules, XFRM (looked) ─┤                         └─► Report, for people
//!  Docker's API ─────────┘
//! ```
//!
//! | file | what it knows |
//! |---|---|
//! | `facts` | everything that is decided from, as plain data |
//! | `decide` | which networks are accelerated; what they must agree on |
//! | `network`, `places` | one VXLAN device: who is local, who is where |
//! | `encryption`, `filters` | what the kernel would do to the frames that the programs would not |
//! | `namespaces` | the files that stand for them |
//! | `read`, `watch`, `follow` | reading the facts (one visit of a namespace in a round), hearing of changes, and when to do which |
//! | `report` | what people want to know |
//!
//! Nothing is written: no entry, address, route or rule of anybody is touched. What is in doubt is left to the kernel.

use std::{path::Path, time::Duration};

use tokio::task::AbortHandle;

use crate::{
    host::netns::{Netns, NetnsError},
    model::mirror::{Mirrored, Settings},
};

mod decide;
mod encryption;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod example;
mod facts;
mod filters;
mod follow;
mod namespaces;
mod network;
mod places;
mod read;
mod report;
mod watch;

#[cfg(test)]
mod tests;

pub use decide::{Decision, decide};
pub use facts::{Facts, HostFacts, SiteFacts, VethPeer};
pub use report::Report;

/// Events that the kernel may queue for one namespace, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;
/// How long the first decision waits for Docker's first word.
const DOCKERS_FIRST_WORD: Duration = Duration::from_secs(1);

/// Follows the foreign networks of this host, in a task that ends with this value.
#[derive(Debug)]
pub struct Mirror {
    settings: tokio::sync::watch::Sender<Option<Settings>>,
    mirrored: tokio::sync::watch::Receiver<Mirrored>,
    report: tokio::sync::watch::Receiver<Report>,
    tasks: [AbortHandle; 2],
}

impl Mirror {
    /// Looks at everything once, and follows it from then on; without settings nothing is followed. The calling thread's network namespace is the one of the
    /// underlay.
    ///
    /// # Errors
    /// [`NetnsError`] where `/proc` is not mounted.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn start(settings: Option<Settings>) -> Result<Self, NetnsError> {
        Self::start_with(settings, RECEIVE_BUFFER).await
    }

    /// [`Self::start`] with another size of the sockets' receive buffers, in bytes.
    ///
    /// # Errors
    /// As [`Self::start`].
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(settings: Option<Settings>, receive_buffer: usize) -> Result<Self, NetnsError> {
        let underlay = Netns::open(Path::new("/proc/thread-self/ns/net"))?;
        let (settings, configured) = tokio::sync::watch::channel(settings);
        let mut follower = follow::Follower::new(configured, underlay, receive_buffer);
        follower.hear_docker(DOCKERS_FIRST_WORD).await;
        let first = follower.round().await;
        let (mirrored_sender, mirrored) = tokio::sync::watch::channel(first.mirrored.clone());
        let (report_sender, report) = tokio::sync::watch::channel(first.report.clone());
        let (decisions, mut decided) = tokio::sync::watch::channel(first);
        let publish = async move {
            while decided.changed().await.is_ok() {
                let Decision { mirrored, report } = decided.borrow_and_update().clone();
                mirrored_sender.send_if_modified(|current| replace(current, mirrored));
                report_sender.send_if_modified(|current| replace(current, report));
            }
        };
        let tasks = [tokio::spawn(follower.run(decisions)).abort_handle(), tokio::spawn(publish).abort_handle()];
        Ok(Self { settings, mirrored, report, tasks })
    }

    /// The networks, and news of them.
    #[must_use]
    pub fn updates(&self) -> tokio::sync::watch::Receiver<Mirrored> {
        self.mirrored.clone()
    }

    /// What people want to know, and news of it.
    #[must_use]
    pub fn report(&self) -> tokio::sync::watch::Receiver<Report> {
        self.report.clone()
    }

    /// Takes new settings over; `None`: follows nothing any more.
    pub fn configure(&self, settings: Option<Settings>) {
        self.settings.send_if_modified(|current| replace(current, settings));
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Whether the new value differs.
fn replace<T: PartialEq>(current: &mut T, new: T) -> bool {
    let changed = *current != new;
    *current = new;
    changed
}
