//! Asking the daemon.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Pins, output};
use crate::{
    api::{
        self, CallError,
        types::{DaemonReport, Request},
    },
    apply::socket,
    observe::{ObserveError, Snapshot},
};

/// How long a daemon that runs may take to say what it knows; the maps say the most without it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the daemon listens.
#[derive(Args, Clone, Debug)]
pub(super) struct SocketArgs {
    #[command(flatten)]
    pub(super) pins: Pins,
    /// The daemon's Unix socket. Default: /run/overlay/overlay.sock, and for any other pin root a name made from it.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl SocketArgs {
    pub(super) fn path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| socket::socket_path(&self.pins.pin_root))
    }
}

/// What is loaded, with the daemon's word where it answers.
pub(super) struct Seen {
    pub(super) snapshot: Snapshot,
    /// Why the daemon says nothing; `None`: it does.
    pub(super) silence: Option<String>,
}

/// What all subcommands that ask the daemon take.
#[derive(Args, Clone, Debug)]
pub(super) struct Remote {
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Remote {
    /// Asks, and prints the answer: as it is with `--json`, otherwise as `render` has it.
    pub(super) async fn show<T: DeserializeOwned>(
        &self,
        request: &Request,
        render: impl FnOnce(T) -> String,
    ) -> anyhow::Result<()> {
        let answer: Value = self.ask(request).await?;
        if self.json {
            return output::json(&answer);
        }
        Ok(output::print(&render(read(answer)?))?)
    }

    /// Reads what is loaded. A daemon that does not answer costs names, and nothing else.
    pub(super) async fn look(&self) -> Result<Seen, ObserveError> {
        let snapshot = Snapshot::read(&self.socket.pins.pin_root).await?;
        let answer = match snapshot.daemon_pid() {
            Some(_) => api::call_within(&self.socket.path(), &Request::Status, PATIENCE).await,
            None => Err(CallError::NoDaemon(self.socket.path())),
        };
        let answer = answer.map_err(anyhow::Error::from).and_then(read::<DaemonReport>);
        let (daemon, silence) = match answer {
            Ok(report) => (Some(report), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Seen { snapshot: snapshot.with_daemon(daemon), silence })
    }

    /// Asks.
    pub(super) async fn ask(&self, request: &Request) -> Result<Value, CallError> {
        api::call(&self.socket.path(), request).await
    }

    /// Asks what the daemon may take longer than usual for.
    pub(super) async fn ask_patiently(&self, request: &Request, patience: Duration) -> Result<Value, CallError> {
        api::call_within(&self.socket.path(), request, patience).await
    }
}

/// Reads an answer.
pub(super) fn read<T: DeserializeOwned>(answer: Value) -> anyhow::Result<T> {
    serde_json::from_value(answer).map_err(|error| {
        anyhow::anyhow!("the daemon's answer cannot be read ({error}); use the `overlay` of the daemon's version")
    })
}

/// The exit code for a question without an answer.
pub(super) fn exit_code(error: &CallError) -> u8 {
    match error {
        CallError::NoDaemon(_) => 3,
        CallError::Failure(failure) if failure.kind == api::types::FailureKind::Refused => 2,
        CallError::Denied(_) | CallError::Broken { .. } | CallError::Failure(_) => 1,
    }
}
