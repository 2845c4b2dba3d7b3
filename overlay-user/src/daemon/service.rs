//! What a service manager is told, by the protocol of `sd_notify(3)`; without `NOTIFY_SOCKET` nothing is.
//!
//! Ready is a daemon whose tables are true. Alive is one whose loop comes round: the watchdog is answered from the loop
//! that extends the deadline, by no task of its own.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::debug;

use super::{Daemon, wait_until};
use crate::model::counted;

/// The watchdog is answered so many times before it would bite.
const TIMES: u32 = 3;

/// What a service manager was told, and when it wants to hear more.
#[derive(Debug)]
pub(super) struct Service {
    /// `None`: no manager watches.
    every: Option<Duration>,
    next: Option<Instant>,
    ready: bool,
    status: String,
}

impl Service {
    /// As the manager has said in `WATCHDOG_USEC`.
    pub(super) fn of_environment() -> Self {
        let every = sd_notify::watchdog_enabled().map(|limit| limit / TIMES);
        Self { every, next: every.map(|every| Instant::now() + every), ready: false, status: String::new() }
    }

    /// Ready when the watchdog has to be answered.
    pub(super) async fn due(&self) {
        wait_until(self.next).await;
    }

    /// Answers the watchdog.
    pub(super) fn alive(&mut self) {
        notify(&[NotifyState::Watchdog]);
        self.next = self.every.map(|every| Instant::now() + every);
    }

    /// The daemon ends; the data path does not.
    pub(super) fn stopping(&self) {
        notify(&[NotifyState::Stopping, NotifyState::Status("the data path goes on until its deadline")]);
    }

    fn ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            notify(&[NotifyState::Ready]);
        }
    }

    fn notify_status(&mut self, status: String) {
        if status != self.status {
            notify(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }
}

impl Daemon {
    /// Tells the manager how things are, if they are otherwise than it knows.
    pub(super) fn notify_systemd(&mut self) {
        let networks = self.inputs.view.as_ref().map_or(0, |view| view.networks().len());
        let (endpoints, external) = (self.applied.facts.ports.len(), self.networks.accelerated().count());
        let mut status = format!(
            "{}, {} here, {}",
            counted(networks, "network"),
            counted(endpoints, "endpoint"),
            counted(external, "external network")
        );
        for finding in self.health.findings() {
            // One line.
            status = format!("{status}; {}", finding.reason().replace('\n', " "));
        }
        if self.heartbeat.trusted {
            self.service.ready();
        }
        self.service.notify_status(status);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // A manager that is gone cannot be told so.
    if let Err(error) = sd_notify::notify(states) {
        debug!("the service manager cannot be told: {error}");
    }
}
