//! Requests to the daemon.

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

/// Timeout of the daemon's part of `status` and the like; most of the report is read from the maps.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Options that select the daemon.
#[derive(Args, Clone, Debug)]
pub(super) struct SocketArgs {
    #[command(flatten)]
    pub(super) pins: Pins,
    /// Unix socket of the daemon. Default: /run/overlay/overlay.sock, or a name derived from any other --pin-root.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl SocketArgs {
    pub(super) fn path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| socket::socket_path(&self.pins.pin_root))
    }
}

/// The loaded data path, with the daemon's report if it answers.
pub(super) struct Observation {
    pub(super) snapshot: Snapshot,
    /// Why there is no report of the daemon; `None`: there is one.
    pub(super) daemon_error: Option<String>,
}

/// Options of the subcommands that send requests to the daemon.
#[derive(Args, Clone, Debug)]
pub(super) struct Remote {
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Remote {
    /// Sends a request and prints the answer, with `--json` as it is, otherwise rendered.
    pub(super) async fn show<T: DeserializeOwned>(
        &self,
        request: &Request,
        render: impl FnOnce(T) -> String,
    ) -> anyhow::Result<()> {
        let answer: Value = self.call(request).await?;
        if self.json {
            return output::json(&answer);
        }
        Ok(output::print(&render(read(answer)?))?)
    }

    /// Reads the loaded data path. Without an answer of the daemon only names are missing.
    pub(super) async fn observe(&self) -> Result<Observation, ObserveError> {
        let snapshot = Snapshot::read(&self.socket.pins.pin_root).await?;
        let answer = match snapshot.daemon_pid() {
            Some(_) => api::call_within(&self.socket.path(), &Request::Status, TIMEOUT).await,
            None => Err(CallError::NoDaemon(self.socket.path())),
        };
        let answer = answer.map_err(anyhow::Error::from).and_then(read::<DaemonReport>);
        let (daemon, daemon_error) = match answer {
            Ok(report) => (Some(report), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Observation { snapshot: snapshot.with_daemon(daemon), daemon_error })
    }

    /// Sends a request and returns the answer.
    pub(super) async fn call(&self, request: &Request) -> Result<Value, CallError> {
        api::call(&self.socket.path(), request).await
    }

    /// As [`Self::call`], with a timeout.
    pub(super) async fn call_within(&self, timeout: Duration, request: &Request) -> Result<Value, CallError> {
        api::call_within(&self.socket.path(), request, timeout).await
    }
}

/// Reads an answer.
pub(super) fn read<T: DeserializeOwned>(answer: Value) -> anyhow::Result<T> {
    serde_json::from_value(answer).map_err(|error| {
        anyhow::anyhow!("the daemon's answer cannot be read ({error}); use the `overlay` of the daemon's version")
    })
}

/// The exit code for a request without an answer.
pub(super) fn exit_code(error: &CallError) -> u8 {
    match error {
        CallError::NoDaemon(_) => 3,
        CallError::Failure(failure) if failure.kind == api::types::FailureKind::Refused => 2,
        CallError::Denied(_) | CallError::Broken { .. } | CallError::Failure(_) => 1,
    }
}
