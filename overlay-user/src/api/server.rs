//! The daemon's side of the socket.

use std::{io, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    types::{Failure, Request},
    wire::{self, Answer, REQUEST_MAX},
};
use crate::{
    apply::socket::{Listener, SocketFile},
    model::Finding,
};

/// Clients that are served at once; more wait.
const CLIENTS: usize = 64;
/// How long a client may take to say what it wants, and to read its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be taken, for instance because there are no descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// How long requests that are under way may take when the daemon ends.
const DRAIN: Duration = Duration::from_secs(10);

/// Who knows the answers.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request with the document for it. Is not cancelled when the client goes away: what was running is
    /// brought to its end.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Value, Failure>> + Send;
}

/// The socket while it is served. Nothing that a client does ends it.
#[derive(Debug)]
pub(crate) struct Server {
    accept: JoinHandle<()>,
    clients: Arc<Semaphore>,
}

impl Server {
    /// Answers whoever connects.
    ///
    /// # Errors
    /// When the socket cannot listen.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn start(listener: Listener, handler: Arc<impl Handler>) -> io::Result<Self> {
        let (listener, file) = listener.listen()?;
        let clients = Arc::new(Semaphore::new(CLIENTS));
        let accept = tokio::spawn(accept(listener, file, Arc::clone(&clients), handler));
        Ok(Self { accept, clients })
    }

    /// Takes no more connections, and waits until what was running is done.
    pub(crate) async fn close(self) {
        self.accept.abort();
        let everybody = u32::try_from(CLIENTS).unwrap_or(u32::MAX);
        if timeout(DRAIN, self.clients.acquire_many(everybody)).await.is_err() {
            warn!("the daemon ends while requests are under way");
        }
    }
}

async fn accept(listener: UnixListener, file: SocketFile, clients: Arc<Semaphore>, handler: Arc<impl Handler>) {
    // The file goes with this task.
    let _file = file;
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    if let Err(error) = client(stream, &*handler).await {
                        debug!("a client of the socket: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!("no connection can be taken from the socket: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn client(mut stream: UnixStream, handler: &impl Handler) -> io::Result<()> {
    let (read, write) = stream.split();
    let answer = match wire::read::<Request>(read, REQUEST_MAX, PATIENCE).await {
        Ok(request) => handler.handle(request).await.map_or_else(Answer::Error, Answer::Ok),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let version = env!("CARGO_PKG_VERSION");
            let remedy = format!("use the `overlay` of the daemon's version, {version}");
            Answer::Error(Failure::refused(Finding::new("request", format!("it cannot be read ({error})"), remedy)))
        }
        Err(error) => return Err(error),
    };
    wire::write(write, &answer, PATIENCE).await
}
