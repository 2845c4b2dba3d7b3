//! Trying again: against others who change the same keys, and over a change of the database's leader.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::StoreError;

/// For so long others may win.
const CONTENTION: Duration = Duration::from_secs(20);
/// For so long the database may be away: an election of etcd's takes one to two seconds.
const OUTAGE: Duration = Duration::from_secs(6);
/// Longest pause between two attempts, in milliseconds.
const PAUSE: u64 = 64;

/// Counts attempts, and pauses between them for a random time that grows.
pub(super) struct Attempts {
    object: String,
    started: Instant,
    lost: u32,
    outage: Option<Instant>,
}

impl Attempts {
    /// For errors, with what is worked on: `network "red"`.
    pub(super) fn new(object: String) -> Self {
        Self { object, started: Instant::now(), lost: 0, outage: None }
    }

    /// Another was faster.
    pub(super) async fn lost(&mut self) -> Result<(), StoreError> {
        self.outage = None;
        self.lost += 1;
        if self.started.elapsed() > CONTENTION {
            return Err(StoreError::Contended { object: self.object.clone() });
        }
        if self.lost > 2 {
            let longest = PAUSE.min(1 << self.lost.min(16));
            sleep(Duration::from_micros(fastrand::u64(0..longest * 1000))).await;
        }
        Ok(())
    }

    /// Passes an answer on; `None`: the database was away, and it may be asked again.
    pub(super) async fn over_outage<T>(&mut self, answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
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
