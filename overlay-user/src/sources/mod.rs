//! Sources of the desired state. Each implements [`Source`].

use std::{future::Future, path::Path, sync::Arc};

use notify::{EventKind, RecommendedWatcher, event::AccessKind};
use tokio::sync::Notify;

use crate::model::{Cluster, Network, RemoteChange};

pub(crate) mod discover;
pub(crate) mod file;
pub(crate) mod store;

/// An update, or an error to report; on an error the running state is unchanged.
pub type SourceResult = Result<Update, SourceError>;

/// An update from a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The complete new desired state.
    Cluster(Cluster),
    /// Changed endpoints of other hosts, in networks of this host. Everything else is unchanged.
    Remote(Vec<RemoteChange>),
    /// All external networks of this host.
    Discovered(Discovered),
}

/// The external networks of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// In no order. A network that falls back to the kernel path because of its own state carries the refusal.
    pub networks: Arc<Vec<Network>>,
    /// The state of Docker's API, without its networks.
    pub docker: discover::docker::DockerState,
}

/// A stream of desired states. It does not end: a source that loses its origin returns one error and waits for it.
pub trait Source: Send {
    /// Waits for the next update. The first one is the initial state.
    ///
    /// Cancel-safe: no update is lost when the future is dropped before it is ready, as in `tokio::select!`.
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

    /// Reports that the daemon has applied this configuration.
    fn set_applied(&mut self, _cluster: &Cluster) {}
}

/// The sources of one daemon: managed networks (optional) and external networks.
#[derive(Debug)]
pub(crate) struct Sources<S> {
    managed: Option<S>,
    discovery: discover::Discovery,
    options: discover::Override,
}

/// The first update of each source.
#[derive(Clone, Debug, Default)]
pub struct InitialState {
    /// The configuration; `None` without a source of managed networks.
    pub cluster: Option<Cluster>,
    /// The external networks.
    pub found: Discovered,
}

impl<S: Source> Sources<S> {
    /// Waits for the first update of each source. `options` override the configuration's discovery settings. The
    /// calling thread's network namespace is the underlay's.
    ///
    /// # Errors
    /// The first update of `managed`, if that is an error, and [`SourceError::Netns`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub(crate) async fn start(
        mut managed: Option<S>,
        options: discover::Override,
    ) -> Result<(Self, InitialState), SourceError> {
        let cluster = match &mut managed {
            None => None,
            Some(managed) => Some(options.over(managed.next_cluster().await?)),
        };
        let settings = match &cluster {
            Some(cluster) => cluster.discover.clone(),
            None => options.settings(None),
        };
        let (discovery, found) = discover::Discovery::start(settings).await?;
        Ok((Self { managed, discovery, options }, InitialState { cluster, found }))
    }
}

impl<S: Source> Source for Sources<S> {
    async fn next(&mut self) -> SourceResult {
        let Self { managed, discovery, options } = self;
        let managed = async {
            match managed {
                Some(managed) => managed.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            update = managed => Ok(match update? {
                Update::Cluster(cluster) => Update::Cluster(options.over(cluster)),
                other => other,
            }),
            update = discovery.next() => update,
        }
    }

    fn set_applied(&mut self, cluster: &Cluster) {
        if let Some(managed) = &mut self.managed {
            managed.set_applied(cluster);
        }
        self.discovery.set_applied(cluster);
    }
}

/// A source cannot provide a new state. Each line of the message names the object, the problem and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The configuration file is invalid, or was never readable.
    #[error(transparent)]
    Config(#[from] file::ConfigErrors),
    /// The store cannot be followed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The daemon's own network namespace cannot be opened.
    #[error("{0}")]
    Netns(String),
    /// The configuration file is no longer readable.
    #[error("{file}: file: no longer readable ({reason}); restore it, the last configuration stays active")]
    Gone {
        /// The path.
        file: String,
        /// The operating system's error.
        reason: String,
    },
}

/// Notifies `wake` of inotify events, except accesses for which `is_ignored` holds. `None`: the kernel has no inotify
/// instance left.
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
            "{}: no inotify instance ({error}), polling instead; raise the sysctl fs.inotify.max_user_instances",
            path.display()
        );
    };
    watcher.inspect_err(explain).ok()
}
