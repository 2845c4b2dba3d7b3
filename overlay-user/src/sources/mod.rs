//! Where the desired state comes from: one file per source of truth, all behind [`Source`].

use std::{future::Future, path::Path, sync::Arc};

use notify::{EventKind, RecommendedWatcher, event::AccessKind};
use tokio::sync::Notify;

use crate::model::{Cluster, Network, RemoteChange};

pub(crate) mod discover;
pub(crate) mod file;
pub(crate) mod store;

/// What a source has to say, or an error to report while the running state stays.
pub type SourceResult = Result<Update, SourceError>;

/// What is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The complete new desired state.
    Cluster(Cluster),
    /// Endpoints of other hosts, in networks that this host takes part in; all else is as it was.
    Remote(Vec<RemoteChange>),
    /// All networks of this host that others made.
    Found(Found),
}

/// The networks of this host that others made, as they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In no order; each with the reason why it is left to the kernel if that is a matter of the network itself.
    pub networks: Arc<Vec<Network>>,
    /// What is heard from Docker, without its networks.
    pub docker: discover::docker::DockerState,
}

/// A stream of what should be. It has no end: a source that lost its origin says so once and waits for it.
pub trait Source: Send {
    /// Waits for what is new. The first is the state at the start.
    ///
    /// Cancel-safe: nothing is lost when the future is dropped before it is ready, as in `tokio::select!`.
    fn next(&mut self) -> impl Future<Output = SourceResult> + Send;

    /// Waits for the next complete desired state. Cancel-safe.
    fn next_cluster(&mut self) -> impl Future<Output = Result<Cluster, SourceError>> + Send {
        async {
            loop {
                if let Update::Cluster(cluster) = self.next().await? {
                    return Ok(cluster);
                }
            }
        }
    }

    /// The daemon has taken over this configuration.
    fn in_force(&mut self, _cluster: &Cluster) {}
}

/// The sources of one daemon: where its own networks come from, if anywhere, and the networks that others made.
#[derive(Debug)]
pub(crate) struct Sources<S> {
    own: Option<S>,
    discovery: discover::Discovery,
    options: discover::Override,
}

/// What the sources said first.
#[derive(Clone, Debug, Default)]
pub struct First {
    /// The configuration; `None` without a source of own networks.
    pub cluster: Option<Cluster>,
    /// The networks that others made.
    pub found: Found,
}

impl<S: Source> Sources<S> {
    /// Waits for the first word of each. `options` go over what a configuration says of discovery. The calling thread's
    /// network namespace is the one of the underlay.
    ///
    /// # Errors
    /// The first word of `own`, if that is an error, and [`SourceError::Netns`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub(crate) async fn start(mut own: Option<S>, options: discover::Override) -> Result<(Self, First), SourceError> {
        let cluster = match &mut own {
            None => None,
            Some(own) => Some(options.over(own.next_cluster().await?)),
        };
        let settings = match &cluster {
            Some(cluster) => cluster.discover.clone(),
            None => options.settings(None),
        };
        let (discovery, found) = discover::Discovery::start(settings).await?;
        Ok((Self { own, discovery, options }, First { cluster, found }))
    }
}

impl<S: Source> Source for Sources<S> {
    async fn next(&mut self) -> SourceResult {
        let Self { own, discovery, options } = self;
        let own = async {
            match own {
                Some(own) => own.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            said = own => Ok(match said? {
                Update::Cluster(cluster) => Update::Cluster(options.over(cluster)),
                other => other,
            }),
            said = discovery.next() => said,
        }
    }

    fn in_force(&mut self, cluster: &Cluster) {
        if let Some(own) = &mut self.own {
            own.in_force(cluster);
        }
        self.discovery.in_force(cluster);
    }
}

/// Why a source has no new state to give. Each line of the message names the object, what is wrong and what mends it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The configuration file was read and is refused as a whole, or was never there.
    #[error(transparent)]
    Config(#[from] file::ConfigErrors),
    /// The store cannot be followed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The daemon's own network namespace.
    #[error("{0}")]
    Netns(String),
    /// The configuration file was there and is not any more.
    #[error("{file}: file: cannot be read any more ({reason}); put it back, the running state stays until then")]
    Gone {
        /// The path.
        file: String,
        /// The operating system's error.
        reason: String,
    },
}

/// Wakes at events of inotify, but for accesses that `is_ignored`. `None`: there is no inotify instance to be had.
fn watcher(
    path: &Path,
    wake: Arc<Notify>,
    is_ignored: impl Fn(AccessKind) -> bool + Send + 'static,
) -> Option<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(kind) if is_ignored(kind))) {
            wake.notify_one();
        }
    });
    let explain = |error: &notify::Error| {
        tracing::warn!(
            "{}: no inotify instance ({error}), polling; raise the sysctl fs.inotify.max_user_instances",
            path.display()
        );
    };
    watcher.inspect_err(explain).ok()
}
