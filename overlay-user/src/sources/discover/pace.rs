//! Pauses between the reads of one namespace because of events: a container can cause any number of these.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest and longest pause. It doubles with each read until there is a calm.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(2));
/// Longest pause before changes that a container cannot cause by sending frames.
const CHANGED: Duration = Duration::from_millis(50);
/// A calm: no read for this time and the pause.
const CALM: Duration = Duration::from_secs(1);

/// The last read because of events, and the pause after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    read: Instant,
    pause: Duration,
}

impl Pace {
    /// No read yet: the first one does not wait.
    pub(super) const fn new(now: Instant) -> Self {
        Self { read: now, pause: Duration::ZERO }
    }

    /// When the next read may begin; `is_changed`: links or entries that are not learned were changed.
    pub(super) fn due(self, is_changed: bool) -> Instant {
        self.read + self.pause.min(if is_changed { CHANGED } else { PAUSE.1 })
    }

    /// Records the end of a read.
    pub(super) fn record(&mut self, now: Instant) {
        let is_calm = now >= self.read + self.pause + CALM;
        self.pause = if is_calm { PAUSE.0 } else { (2 * self.pause).clamp(PAUSE.0, PAUSE.1) };
        self.read = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses between reads, each of which begins as soon as it is due.
    fn pauses(is_changed: bool, reads: u32) -> Vec<Duration> {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let next = |_| {
            pace.record(now);
            let pause = pace.due(is_changed) - now;
            now += pause;
            pause
        };
        (0..reads).map(next).collect()
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let learned = pauses(false, 20);
        assert_eq!((learned[0], learned[19]), PAUSE);
        assert!(learned.windows(2).all(|pair| pair[1] == (2 * pair[0]).min(PAUSE.1)), "{learned:?}");
        let changed = pauses(true, 20);
        assert_eq!((changed[0], changed[19]), (PAUSE.0, CHANGED));
    }

    #[test]
    fn first_read_and_read_after_calm_do_not_wait() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.due(false), now);
        (0..20).for_each(|_| pace.record(now));
        assert_eq!(pace.due(false), now + PAUSE.1);
        let later = now + PAUSE.1 + CALM;
        pace.record(later);
        assert_eq!(pace.due(false), later + PAUSE.0);
    }
}
