//! Verdict on numbered datagrams: lost, reordered, duplicated, corrupt.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::pattern;

/// Report on datagrams.
#[derive(Clone, Debug, Default)]
pub struct UdpReport {
    /// Datagrams passed to the sender's kernel.
    pub sent: u64,
    /// All received datagrams.
    pub datagrams: u64,
    /// Payload bytes of all received datagrams.
    pub bytes: u64,
    /// Datagrams with a sequence number and valid content, each counted once.
    pub received: u64,
    /// Datagrams with a number that was received before.
    pub duplicates: u64,
    /// Datagrams with a content that was not sent. Datagrams without a number are not checked.
    pub corrupt: u64,
    /// Send times of the lost datagrams, in order.
    pub lost_at: Vec<Instant>,
    /// Send times of the datagrams that arrived after a higher number, in order.
    pub reordered_at: Vec<Instant>,
    /// The first error of `send`. The datagram counts as sent and lost.
    pub refused: Option<String>,
    /// From the first datagram to the end of sending.
    pub elapsed: Duration,
    /// Longest time without a new datagram.
    pub longest_gap: Duration,
}

impl UdpReport {
    /// Datagrams that were sent and not received.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Datagrams that arrived after a higher number.
    #[must_use]
    pub fn reordered(&self) -> u64 {
        self.reordered_at.len() as u64
    }

    /// Thousands of datagrams received per second.
    #[must_use]
    pub fn received_kpps(&self) -> f64 {
        self.datagrams as f64 / self.elapsed.as_secs_f64() / 1e3
    }
}

/// Verifies datagrams as they arrive.
pub(super) struct Verifier {
    report: UdpReport,
    /// One bit for each received number.
    seen: Vec<u64>,
    /// Numbers lower than an earlier one.
    late: BTreeSet<u64>,
    highest: u64,
    last: Instant,
}

impl Verifier {
    pub(super) fn new() -> Self {
        Self { report: UdpReport::default(), seen: Vec::new(), late: BTreeSet::new(), highest: 0, last: Instant::now() }
    }

    /// Counts a datagram without checking it.
    pub(super) fn count(&mut self, datagram: &[u8]) -> &UdpReport {
        self.report.datagrams += 1;
        self.report.bytes += datagram.len() as u64;
        &self.report
    }

    /// Counts a datagram and checks its content. Numbers from `sent` on have not been sent.
    pub(super) fn take(&mut self, datagram: &[u8], sent: u64) -> &UdpReport {
        self.count(datagram);
        let report = &mut self.report;
        let Some(number) = pattern::sequence(datagram).filter(|number| *number < sent) else {
            report.corrupt += 1;
            return report;
        };
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            report.duplicates += 1;
            return report;
        }
        self.seen[word] |= bit;
        report.received += 1;
        if number < self.highest {
            self.late.insert(number);
        }
        self.highest = self.highest.max(number);
        let now = Instant::now();
        report.longest_gap = report.longest_gap.max(now - self.last);
        self.last = now;
        report
    }

    /// Completes the report; `times` are the send times in the order of the numbers.
    pub(super) fn finish(self, times: impl Iterator<Item = Instant>) -> UdpReport {
        let is_missing = |number: usize| self.seen.get(number / 64).is_none_or(|word| word & 1 << (number % 64) == 0);
        let mut report = self.report;
        for (number, time) in times.enumerate() {
            if is_missing(number) {
                report.lost_at.push(time);
            } else if self.late.contains(&(number as u64)) {
                report.reordered_at.push(time);
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Report for the arrival of these numbers when 100 datagrams were sent; `change` modifies each before its arrival.
    fn report_of(numbers: &[u64], change: impl Fn(&mut Vec<u8>)) -> (u64, [u64; 4], usize) {
        let mut verifier = Verifier::new();
        for number in numbers {
            let mut datagram = vec![0; 64];
            pattern::datagram(&mut datagram, *number);
            change(&mut datagram);
            verifier.take(&datagram, 100);
        }
        let report = verifier.finish((0..100).map(|_| Instant::now()));
        let UdpReport { received, duplicates, corrupt, ref lost_at, .. } = report;
        (received, [100 - received, duplicates, report.reordered(), corrupt], lost_at.len())
    }

    #[test]
    fn loss_reordering_duplicates_and_corruption_are_counted() {
        let all: Vec<u64> = (0..100).collect();
        let unmodified = |_: &mut Vec<u8>| ();
        assert_eq!(report_of(&all, unmodified), (100, [0, 0, 0, 0], 0));
        assert_eq!(report_of(&all[1..], unmodified), (99, [1, 0, 0, 0], 1));
        assert_eq!(report_of(&all[..99], unmodified), (99, [1, 0, 0, 0], 1));
        assert_eq!(report_of(&[&all[..], &[70]].concat(), unmodified), (100, [0, 1, 0, 0], 0));
        let mut swapped = all.clone();
        swapped.swap(64, 65);
        assert_eq!(report_of(&swapped, unmodified), (100, [0, 0, 1, 0], 0));
        // A number that was not sent.
        assert_eq!(report_of(&[&all[..], &[100]].concat(), unmodified), (100, [0, 0, 0, 1], 0));
        for byte in [0, 7, 8, 63] {
            assert_eq!(report_of(&[5], |datagram| datagram[byte] ^= 1), (0, [100, 0, 0, 1], 100), "byte {byte}");
        }
        assert_eq!(report_of(&[5], |datagram| datagram.truncate(7)), (0, [100, 0, 0, 1], 100));
    }
}
