//! Client of the daemon's socket.

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

/// Timeout for connecting and sending the request.
const CONNECT: Duration = Duration::from_secs(5);
/// Interval between attempts to connect.
const RETRY: Duration = Duration::from_millis(20);
/// Timeout for the answer, longer than the daemon's own timeouts.
const ANSWER: Duration = Duration::from_secs(60);

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No daemon listens.
    #[error("no daemon answers at {0}; start one with `overlay run`, or set --pin-root or --socket")]
    NoDaemon(PathBuf),
    /// The user has no permission.
    #[error("socket {0}: permission denied; run as root, or as a member of the group of the daemon's --socket-group")]
    Denied(PathBuf),
    /// The connection failed or timed out.
    #[error(
        "socket {path}: no answer from the daemon ({source}); check with `overlay status` and the `ls` subcommands, and restart a daemon that hangs"
    )]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The daemon reports a failure.
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// Sends a request to the daemon that listens at `path`.
///
/// # Errors
/// [`CallError`].
pub(crate) async fn call(path: &Path, request: &Request) -> Result<Value, CallError> {
    call_within(path, request, ANSWER).await
}

/// [`call`] with another timeout for the answer.
///
/// # Errors
/// [`CallError`].
pub(crate) async fn call_within(path: &Path, request: &Request, limit: Duration) -> Result<Value, CallError> {
    let broken = |source| CallError::Broken { path: path.to_owned(), source };
    let connected = timeout(CONNECT, connect(path)).await.map_err(|_| broken(io::ErrorKind::TimedOut.into()))?;
    let mut stream = connected.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CallError::NoDaemon(path.to_owned()),
        io::ErrorKind::PermissionDenied => CallError::Denied(path.to_owned()),
        _ => broken(error),
    })?;
    let (read, write) = stream.split();
    wire::write(write, request, CONNECT).await.map_err(broken)?;
    match wire::read(read, ANSWER_MAX, limit).await.map_err(broken)? {
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
