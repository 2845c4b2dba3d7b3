//! The last sampled events, which the daemon reads from the programs' ring buffer.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use nix::net::if_::if_indextoname;
use overlay_common::Event;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::EventRow;
use crate::apply::bpf::{Events, Sampling, TableIoError};

/// Events that are kept per reason, so that a flood of one reason does not evict the others.
const KEPT: usize = 64;

/// `overlay events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventsReport {
    /// The newest last.
    pub events: Vec<EventRow>,
    /// Number of the daemon's last event, for the next request.
    pub last: u64,
    /// Samples that were lost since the maps were created, because no daemon was running or it was too slow.
    pub lost: u64,
}

/// The last sampled events.
pub(crate) struct EventLog {
    kept: Mutex<EventBuffer>,
    sampling: Sampling,
}

#[derive(Default)]
struct EventBuffer {
    /// By reason.
    rows: BTreeMap<String, VecDeque<EventRow>>,
    last: u64,
}

impl EventLog {
    /// Reads the samples of the programs with maps at the pin root `root`, until the process exits.
    ///
    /// # Errors
    /// [`TableIoError`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn start(root: &Path) -> Result<Arc<Self>, TableIoError> {
        let mut events = Events::open(root)?;
        let log = Arc::new(Self { kept: Mutex::default(), sampling: Sampling::open(root)? });
        let writer = Arc::clone(&log);
        tokio::spawn(async move {
            loop {
                match events.next().await {
                    Ok(events) => events.iter().for_each(|event| writer.push(event)),
                    Err(error) => return error!("events can no longer be read: {error}"),
                }
            }
        });
        Ok(log)
    }

    fn push(&self, event: &Event) {
        let Some(mut row) = EventRow::new(event) else { return };
        if event.netns_id == 0 {
            row.device = if_indextoname(event.ifindex).ok().and_then(|name| name.into_string().ok());
        }
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }

    /// The kept events with a number greater than `after`.
    #[must_use]
    pub(crate) fn report(&self, after: u64) -> EventsReport {
        let lost = self.sampling.lost().unwrap_or_else(|error| {
            warn!("{error}");
            0
        });
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).report(after, lost)
    }
}

impl EventBuffer {
    fn push(&mut self, mut row: EventRow) {
        self.last += 1;
        row.number = self.last;
        let rows = self.rows.entry(row.reason.clone()).or_default();
        if rows.len() == KEPT {
            rows.pop_front();
        }
        rows.push_back(row);
    }

    fn report(&self, after: u64, lost: u64) -> EventsReport {
        let of_all = self.rows.values().flatten();
        let mut events: Vec<_> = of_all.filter(|row| row.number > after).cloned().collect();
        events.sort_unstable_by_key(|row| row.number);
        EventsReport { events, last: self.last, lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_events_of_each_reason_are_kept_and_numbered() {
        let mut kept = EventBuffer::default();
        kept.push(EventRow { reason: "rare".into(), ..EventRow::default() });
        for _ in 0..KEPT + 3 {
            kept.push(EventRow::default());
        }
        let all = kept.report(0, 5);
        assert_eq!((all.events.len(), all.last, all.lost), (KEPT + 1, KEPT as u64 + 4, 5));
        assert_eq!((all.events[0].number, all.events[1].number), (1, 5));
        assert_eq!(kept.report(all.last - 1, 0).events.len(), 1);
        assert!(kept.report(all.last, 0).events.is_empty());
    }
}
