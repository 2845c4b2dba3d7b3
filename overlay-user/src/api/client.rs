//! The command line's side of the socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{
    types::{Failure, Request},
    wire::{self, ANSWER_MAX, Answer},
};

/// How long the daemon may take to take the connection and the question.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait before a connection is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// How long the daemon may take to answer: longer than any of its own limits.
const ANSWER: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody listens.
    #[error("no daemon answers at {0}; start one with `overlay run`, or name its --pin-root or --socket")]
    NoDaemon(PathBuf),
    /// This user may not.
    #[error("socket {0}: permission denied; be root or in the group that the daemon was given with --socket-group")]
    Denied(PathBuf),
    /// The connection broke or took too long.
    #[error(
        "socket {path}: the daemon's answer did not come ({source}); look at what was done with the `ls` subcommands"
    )]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon says no.
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// Asks the daemon that listens at `path`.
///
/// # Errors
/// [`CallError`].
pub(crate) async fn call(path: &Path, request: &Request) -> Result<Value, CallError> {
    call_within(path, request, ANSWER).await
}

/// [`call`] for a client that can do without the answer and does not want to wait for it.
///
/// # Errors
/// [`CallError`].
pub(crate) async fn call_within(path: &Path, request: &Request, patience: Duration) -> Result<Value, CallError> {
    let broken = |source| CallError::Broken { path: path.to_owned(), source };
    let connected = timeout(CONNECT, connect(path)).await.map_err(|_| broken(io::ErrorKind::TimedOut.into()))?;
    let mut stream = connected.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CallError::NoDaemon(path.to_owned()),
        io::ErrorKind::PermissionDenied => CallError::Denied(path.to_owned()),
        _ => broken(error),
    })?;
    let (read, write) = stream.split();
    wire::write(write, request, CONNECT).await.map_err(broken)?;
    match wire::read(read, ANSWER_MAX, patience).await.map_err(broken)? {
        Answer::Ok(document) => Ok(document),
        Answer::Error(failure) => Err(failure.into()),
    }
}

/// Connects, and waits while the daemon's queue is full (`EAGAIN`, unix(7)).
async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(RETRY).await,
            result => return result,
        }
    }
}
