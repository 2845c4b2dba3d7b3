//! The heartbeat: the programs trust the maps until a deadline, which the daemon's main loop extends.
//!
//! A daemon that hangs does not extend the deadline. A failed reconciliation does not stop the heartbeat: the error is
//! reported, and stale entries are removed from the maps. Where stale entries cannot be removed, the deadline expires.
//! Where the kernel's tables cannot be read, any entry may be stale, and the deadline expires at once.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Daemon, health::Part, wait_until};
use crate::apply::bpf;

/// Heartbeats per deadline.
const HEARTBEATS_PER_DEADLINE: u32 = 3;

/// Time of the next heartbeat.
pub(super) struct HeartbeatTimer {
    length: Option<Duration>,
    /// This daemon has reconciled the maps at least once. Until then an earlier daemon's deadline is not extended.
    pub(super) trusted: bool,
    /// `None`: not yet, or never.
    next: Option<Instant>,
    /// The last heartbeat was omitted because of stale entries.
    skipped: bool,
    /// The last round could not read the kernel's tables.
    pub(super) is_blind: bool,
}

impl HeartbeatTimer {
    pub(super) fn new(length: Option<Duration>) -> Self {
        Self { length, trusted: false, next: None, skipped: false, is_blind: false }
    }

    /// Ready when the deadline has to be extended.
    pub(super) async fn due(&self) {
        wait_until(self.next).await;
    }
}

impl Daemon {
    /// Starts the heartbeat once this daemon has reconciled the maps, and resumes it when the stale entries are
    /// removed.
    pub(super) fn resume(&mut self) {
        let is_repaired = self.heartbeat.skipped && !self.has_stale_entries();
        if is_repaired || self.heartbeat.trusted && self.heartbeat.next.is_none() {
            self.extend_deadline();
        }
    }

    /// Lets the deadline expire at once: the kernel's tables cannot be read. Before this daemon has reconciled the maps,
    /// they are an earlier daemon's.
    pub(super) fn expire_deadline(&mut self) {
        // Once: the deadline would be this moment again, and the programs trust the maps until it is past.
        if !self.heartbeat.trusted || std::mem::replace(&mut self.heartbeat.is_blind, true) {
            return;
        }
        self.heartbeat.skipped = true;
        if let Err(error) = self.datapath.extend_deadline(&self.ledger, Some(Duration::ZERO)) {
            error!("the heartbeat deadline cannot be set: {error}");
        }
    }

    fn has_stale_entries(&self) -> bool {
        self.heartbeat.is_blind || self.health.is_failed(Part::Entries)
    }

    /// Sets the deadline to its full length from now, unless a map holds stale entries.
    pub(super) fn extend_deadline(&mut self) {
        self.heartbeat.next = self.heartbeat.length.map(|length| Instant::now() + length / HEARTBEATS_PER_DEADLINE);
        let has_stale_entries = self.has_stale_entries();
        let skipped = std::mem::replace(&mut self.heartbeat.skipped, has_stale_entries);
        if has_stale_entries {
            if !skipped {
                warn!("the heartbeat deadline is not extended while a map holds stale entries");
            }
            return;
        }
        if matches!(self.datapath.maps.deadline(), Ok(bpf::Deadline::Expired)) {
            info!("the heartbeat deadline had expired; packets take the fast path again");
        }
        // The next heartbeat retries.
        if let Err(error) = self.datapath.extend_deadline(&self.ledger, self.heartbeat.length) {
            error!("the heartbeat deadline cannot be extended: {error}");
        }
    }
}
