//! The daemon's side of the socket.

use std::{io, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{net::UnixStream, sync::Semaphore, time::sleep};
use tracing::{debug, warn};

use super::{
    Failure, Listener, Request,
    wire::{self, Answer, REQUEST_MAX},
};

/// Clients that are served at once; more wait.
const CLIENTS: usize = 64;
/// How long a client may take to say what it wants, and to read its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be taken, for instance because there are no descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// Who knows the answers.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request with the document for it. Is not cancelled when the client goes away: what was begun is
    /// brought to its end.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Value, Failure>> + Send;
}

/// Answers whoever connects, until the future is dropped. Nothing that a client does ends it.
pub async fn serve(listener: Listener, handler: Arc<impl Handler>) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.listener.accept().await {
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
                warn!("socket {}: no connection can be taken: {error}", listener.path().display());
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
            Answer::Error(Failure::refused(format!(
                "request: it cannot be read ({error}); use the `overlay` of the daemon's version, {version}"
            )))
        }
        Err(error) => return Err(error),
    };
    wire::write(write, &answer, PATIENCE).await
}
