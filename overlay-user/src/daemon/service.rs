//! Notifications to a service manager (`sd_notify(3)`), if `NOTIFY_SOCKET` is set.
//!
//! The daemon is ready after the first reconciliation. The main loop notifies the watchdog and extends the heartbeat
//! deadline, so that a loop that hangs is detected.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::debug;

use super::{Daemon, wait_until};
use crate::model::counted;

/// Watchdog notifications per watchdog timeout.
const NOTIFICATIONS_PER_TIMEOUT: u32 = 3;

/// The last notifications, and the time of the next one.
#[derive(Debug)]
pub(super) struct Service {
    /// `None`: there is no watchdog.
    every: Option<Duration>,
    next: Option<Instant>,
    ready: bool,
    status: String,
}

impl Service {
    /// Reads the watchdog timeout from `WATCHDOG_USEC`.
    pub(super) fn of_environment() -> Self {
        let every = sd_notify::watchdog_enabled().map(|limit| limit / NOTIFICATIONS_PER_TIMEOUT);
        Self { every, next: every.map(|every| Instant::now() + every), ready: false, status: String::new() }
    }

    /// Ready when the watchdog has to be notified.
    pub(super) async fn due(&self) {
        wait_until(self.next).await;
    }

    /// Notifies the watchdog.
    pub(super) fn notify_watchdog(&mut self) {
        notify(&[NotifyState::Watchdog]);
        self.next = self.every.map(|every| Instant::now() + every);
    }

    /// Reports that the daemon stops; the data path stays in place.
    pub(super) fn notify_stopping(&self) {
        let status = "stopped; the fast path is in use until the heartbeat deadline";
        notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    fn notify_ready(&mut self) {
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
    /// Sends the status to the service manager, if it has changed.
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
            // The status is one line.
            status = format!("{status}; {}", finding.reason().replace('\n', " "));
        }
        if self.heartbeat.trusted {
            self.service.notify_ready();
        }
        self.service.notify_status(status);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("cannot notify the service manager: {error}");
    }
}
