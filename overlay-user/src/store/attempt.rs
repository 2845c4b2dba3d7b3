//! Retries after concurrent changes of the same keys and after a change of the database's leader.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::StoreError;

/// Maximum time of retries after conflicts.
const CONTENTION: Duration = Duration::from_secs(20);
/// Maximum time of retries during an outage: a leader election of etcd takes one to two seconds.
const OUTAGE: Duration = Duration::from_secs(6);
/// Maximum pause between two attempts, in milliseconds.
const PAUSE: u64 = 64;

/// Counts attempts, with a growing random pause between them.
pub(super) struct Attempts {
    object: String,
    started: Instant,
    conflicts: u32,
    outage: Option<Instant>,
}

impl Attempts {
    /// `object` names the changed object in errors: `network "red"`.
    pub(super) fn new(object: String) -> Self {
        Self { object, started: Instant::now(), conflicts: 0, outage: None }
    }

    /// Pauses before a retry after a conflict.
    pub(super) async fn retry_conflict(&mut self) -> Result<(), StoreError> {
        self.outage = None;
        self.conflicts += 1;
        if self.started.elapsed() > CONTENTION {
            return Err(StoreError::Contended { object: self.object.clone() });
        }
        if self.conflicts > 2 {
            let longest = PAUSE.min(1 << self.conflicts.min(16));
            sleep(Duration::from_micros(fastrand::u64(0..longest * 1000))).await;
        }
        Ok(())
    }

    /// Returns the answer; `None`: the database was unreachable, and the request may be repeated.
    pub(super) async fn retry_outage<T>(&mut self, answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match answer {
            Err(error) if error.is_unreachable() => {
                let since = *self.outage.get_or_insert_with(Instant::now);
                if since.elapsed() > OUTAGE {
                    return Err(error);
                }
                sleep(Duration::from_millis(fastrand::u64(50..250))).await;
                Ok(None)
            }
            other => other.map(Some),
        }
    }
}
