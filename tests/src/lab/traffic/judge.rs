//! What became of numbered datagrams: lost, late, twice, damaged.

use std::time::{Duration, Instant};

use super::pattern;

/// What became of datagrams.
#[derive(Clone, Debug, Default)]
pub struct UdpReport {
    /// Datagrams that the sender handed to its kernel.
    pub sent: u64,
    /// All datagrams that came.
    pub datagrams: u64,
    /// Payload bytes of all.
    pub bytes: u64,
    /// Datagrams with a sequence number and the right content, each counted once.
    pub received: u64,
    /// Datagrams whose number came before.
    pub duplicates: u64,
    /// Datagrams whose number is lower than one that came before.
    pub reordered: u64,
    /// Datagrams with a content that was not sent. Datagrams without a number are not judged.
    pub corrupt: u64,
    /// When each datagram was sent that is missing, in order.
    pub lost_at: Vec<Instant>,
    /// The first error of the sender's kernel. The datagram counts as sent, and as lost.
    pub refused: Option<String>,
    /// From the first datagram to the end of sending.
    pub elapsed: Duration,
    /// The longest time in which no new datagram came.
    pub longest_gap: Duration,
}

impl UdpReport {
    /// Datagrams that were sent and did not come.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Thousands of datagrams received per second.
    #[must_use]
    pub fn received_kpps(&self) -> f64 {
        self.datagrams as f64 / self.elapsed.as_secs_f64() / 1e3
    }
}

/// Judges datagrams as they come.
pub(super) struct Judge {
    report: UdpReport,
    /// A bit for each number that came.
    seen: Vec<u64>,
    highest: u64,
    last: Instant,
}

impl Judge {
    pub(super) fn new() -> Self {
        Self { report: UdpReport::default(), seen: Vec::new(), highest: 0, last: Instant::now() }
    }

    /// Counts a datagram without looking at it.
    pub(super) fn count(&mut self, datagram: &[u8]) -> &UdpReport {
        self.report.datagrams += 1;
        self.report.bytes += datagram.len() as u64;
        &self.report
    }

    /// Counts a datagram and judges its content, after `sent` of them were sent.
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
        report.reordered += u64::from(number < self.highest);
        self.highest = self.highest.max(number);
        let now = Instant::now();
        report.longest_gap = report.longest_gap.max(now - self.last);
        self.last = now;
        report
    }

    /// The report on datagrams that were sent at these times, in the order of their numbers.
    pub(super) fn finish(self, times: impl Iterator<Item = Instant>) -> UdpReport {
        let is_missing = |number: usize| self.seen.get(number / 64).is_none_or(|word| word & 1 << (number % 64) == 0);
        let lost_at = times.enumerate().filter(|(number, _)| is_missing(*number)).map(|(_, time)| time).collect();
        UdpReport { lost_at, ..self.report }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a receiver reports of these numbers when 100 datagrams were sent; `damage` changes each before it comes.
    fn judged(numbers: &[u64], damage: impl Fn(&mut Vec<u8>)) -> (u64, [u64; 4], usize) {
        let mut judge = Judge::new();
        for number in numbers {
            let mut datagram = vec![0; 64];
            pattern::datagram(&mut datagram, *number);
            damage(&mut datagram);
            judge.take(&datagram, 100);
        }
        let UdpReport { received, duplicates, reordered, corrupt, lost_at, .. } =
            judge.finish((0..100).map(|_| Instant::now()));
        (received, [100 - received, duplicates, reordered, corrupt], lost_at.len())
    }

    #[test]
    fn loss_order_duplicates_and_damage_are_noticed() {
        let all: Vec<u64> = (0..100).collect();
        let whole = |_: &mut Vec<u8>| ();
        assert_eq!(judged(&all, whole), (100, [0, 0, 0, 0], 0));
        assert_eq!(judged(&all[1..], whole), (99, [1, 0, 0, 0], 1));
        assert_eq!(judged(&all[..99], whole), (99, [1, 0, 0, 0], 1));
        assert_eq!(judged(&[&all[..], &[70]].concat(), whole), (100, [0, 1, 0, 0], 0));
        let mut swapped = all.clone();
        swapped.swap(64, 65);
        assert_eq!(judged(&swapped, whole), (100, [0, 0, 1, 0], 0));
        // A number that was not sent yet.
        assert_eq!(judged(&[&all[..], &[100]].concat(), whole), (100, [0, 0, 0, 1], 0));
        for byte in [0, 7, 8, 63] {
            assert_eq!(judged(&[5], |datagram| datagram[byte] ^= 1), (0, [100, 0, 0, 1], 100), "byte {byte}");
        }
        assert_eq!(judged(&[5], |datagram| datagram.truncate(7)), (0, [100, 0, 0, 1], 100));
    }
}
