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

/// Concurrent clients; more are queued.
const CLIENTS: usize = 64;
/// Timeout for a client to send its request, and to read its answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay after a failed accept, for example without free descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// Timeout for requests in progress when the daemon stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request with its document. A disconnect of the client does not cancel the request.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Value, Failure>> + Send;
}

/// A listening socket. Errors of clients do not stop it.
#[derive(Debug)]
pub(crate) struct Server {
    accept: JoinHandle<()>,
    clients: Arc<Semaphore>,
}

impl Server {
    /// Starts to answer clients.
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

    /// Accepts no more connections, and waits for requests in progress.
    pub(crate) async fn close(self) {
        self.accept.abort();
        let all = u32::try_from(CLIENTS).unwrap_or(u32::MAX);
        if timeout(DRAIN, self.clients.acquire_many(all)).await.is_err() {
            warn!("the daemon stops while requests are in progress");
        }
    }
}

async fn accept(listener: UnixListener, file: SocketFile, clients: Arc<Semaphore>, handler: Arc<impl Handler>) {
    // Dropping the guard at the end of this task removes the socket's file.
    let _file = file;
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    if let Err(error) = client(stream, &*handler).await {
                        debug!("client of the socket: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!("cannot accept a connection on the socket: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn client(mut stream: UnixStream, handler: &impl Handler) -> io::Result<()> {
    let (read, write) = stream.split();
    let answer = match wire::read::<Request>(read, REQUEST_MAX, CLIENT_TIMEOUT).await {
        Ok(request) => handler.handle(request).await.map_or_else(Answer::Error, Answer::Ok),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let version = env!("CARGO_PKG_VERSION");
            let remedy = format!("use the `overlay` of the daemon's version, {version}");
            Answer::Error(Failure::refused(Finding::new("request", format!("cannot be read ({error})"), remedy)))
        }
        Err(error) => return Err(error),
    };
    wire::write(write, &answer, CLIENT_TIMEOUT).await
}
