//! Where the desired state comes from: one file per source of truth, all behind [`Source`].

use std::future::Future;

use overlay_common::Vni;

use crate::model::{Cluster, RemoteEndpoint};

pub mod docker;
pub mod file;
pub mod mirror;
pub mod store;

/// What a source has to say: the complete new desired state, or an error to report while the running state stays.
pub type Update = Result<Cluster, SourceError>;

/// What a source has to say to a follower that knows what it said before.
pub type Change = Result<News, SourceError>;

/// News for a follower that knows what was said before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The complete new desired state.
    Cluster(Cluster),
    /// Endpoints of other hosts, in networks that the follower takes part in; all else is as it was.
    Remote(Vec<RemoteChange>),
}

/// What became of one endpoint of another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteChange {
    /// Its network's VNI.
    pub vni: Vni,
    /// Its name, unique in the network.
    pub name: String,
    /// As it is now; `None`: it has gone.
    pub endpoint: Option<RemoteEndpoint>,
}

/// A stream of model changes. It has no end: a source that lost its origin says so once and waits for it.
pub trait Source: Send {
    /// Waits for the next update. The first one is the state at the start.
    ///
    /// Cancel-safe: nothing is lost when the future is dropped before it is ready, as in `tokio::select!`.
    fn next(&mut self) -> impl Future<Output = Update> + Send;

    /// The same for who follows from the first update on and need not be told again what has not changed. Cancel-safe.
    fn next_change(&mut self) -> impl Future<Output = Change> + Send {
        async { self.next().await.map(News::Cluster) }
    }
}

/// A source that has nothing to say, for a daemon without a configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Source for Silent {
    async fn next(&mut self) -> Update {
        std::future::pending().await
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
    /// The configuration file was there and is not any more.
    #[error("{file}: file: cannot be read any more ({reason}); put it back, the running state stays until then")]
    Gone {
        /// The path.
        file: String,
        /// The operating system's error.
        reason: String,
    },
}
