//! The programs trust the tables until a deadline, which a daemon extends for as long as it is alive.
//!
//! Alive is a daemon whose loop comes round: one that hangs, however that came about, does not extend. Not that all is
//! well: what a reconciliation cannot mend it complains of, and what is in doubt is taken out of the maps. Only where even
//! that fails the deadline is left to run out.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Daemon, health::Part, wait_until};
use crate::apply::bpf;

/// A deadline is extended so many times before it would be over.
const TIMES: u32 = 3;

/// What a daemon knows of its deadline.
pub(super) struct HeartbeatTimer {
    length: Option<Duration>,
    /// This daemon has compared the tables with what is true at least once. Until then an earlier one's deadline runs on.
    pub(super) trusted: bool,
    /// When to extend it next; `None`: not yet, or never.
    next: Option<Instant>,
    /// It was not extended when it was due.
    skipped: bool,
}

impl HeartbeatTimer {
    pub(super) fn new(length: Option<Duration>) -> Self {
        Self { length, trusted: false, next: None, skipped: false }
    }

    /// Ready when the deadline has to be extended.
    pub(super) async fn due(&self) {
        wait_until(self.next).await;
    }
}

impl Daemon {
    /// Lets the programs trust the tables from now on, if this daemon has made them true.
    pub(super) fn resume(&mut self) {
        let is_repaired = self.heartbeat.skipped && !self.health.is_failed(Part::Entries);
        if is_repaired || self.heartbeat.trusted && self.heartbeat.next.is_none() {
            self.extend_deadline();
        }
    }

    /// Extends the deadline by its whole length from now.
    ///
    /// Not while a map holds what is known not to be so: then the deadline is what keeps packets from going astray.
    pub(super) fn extend_deadline(&mut self) {
        self.heartbeat.next = self.heartbeat.length.map(|length| Instant::now() + length / TIMES);
        let skipped = std::mem::replace(&mut self.heartbeat.skipped, self.health.is_failed(Part::Entries));
        if self.health.is_failed(Part::Entries) {
            if !skipped {
                warn!("the deadline of the fast path is not extended as long as a map holds what is not so");
            }
            return;
        }
        if matches!(self.datapath.maps.deadline(), Ok(bpf::Deadline::Expired)) {
            info!("the deadline was over, and packets were left to the kernel; they take the fast path again");
        }
        // It is tried again, and the programs do the right thing meanwhile.
        if let Err(error) = self.datapath.extend_deadline(&self.ledger, self.heartbeat.length) {
            error!("the deadline of the fast path cannot be extended: {error}");
        }
    }
}
