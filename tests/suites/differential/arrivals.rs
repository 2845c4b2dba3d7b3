//! Numbered packets in the order of their arrival, and their differences from those of another path.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::frames::{flow, number};

/// Packets that have arrived, each with a numbered frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals(Vec<Arrival>);

#[derive(Clone, Debug)]
struct Arrival {
    number: u16,
    /// See [`flow`].
    flow: Option<Vec<u8>>,
    packet: Vec<u8>,
}

/// A difference between two paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// The packet does not arrive.
    Lost(u16),
    /// The packet arrives, but not on the other path.
    Unexpected(u16),
    /// The packet arrives more than once.
    Duplicate(u16),
    /// The packet arrives after a later one of its flow.
    Reordered(u16),
    /// The packet has other bytes at these offsets.
    Bytes(u16, Vec<usize>),
}

impl Difference {
    /// Number of the packet.
    pub(crate) fn number(&self) -> u16 {
        match self {
            Self::Lost(number)
            | Self::Unexpected(number)
            | Self::Duplicate(number)
            | Self::Reordered(number)
            | Self::Bytes(number, _) => *number,
        }
    }
}

impl Arrivals {
    /// Adds a packet whose frame begins at offset `at`; a frame without a number is ignored.
    pub(crate) fn push(&mut self, packet: Vec<u8>, at: usize) {
        let frame = packet.get(at..).unwrap_or_default();
        if let Some(number) = number(frame) {
            self.0.push(Arrival { number, flow: flow(frame), packet });
        }
    }

    /// The first packet of each number.
    pub(crate) fn packets(&self) -> BTreeMap<u16, &[u8]> {
        // The last of equal keys remains.
        self.0.iter().rev().map(|arrival| (arrival.number, arrival.packet.as_slice())).collect()
    }

    /// The same arrivals with changed packets.
    pub(crate) fn map(self, change: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        Self(self.0.into_iter().map(|arrival| Arrival { packet: change(&arrival.packet), ..arrival }).collect())
    }

    /// Duplicates, and packets that arrive out of order.
    pub(crate) fn irregularities(&self) -> Vec<Difference> {
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        for (index, Arrival { number, flow, .. }) in self.0.iter().enumerate() {
            let overtakes = |earlier: &Arrival| flow.is_some() && earlier.flow == *flow && earlier.number > *number;
            if !seen.insert(*number) {
                found.push(Difference::Duplicate(*number));
            } else if self.0[..index].iter().any(overtakes) {
                found.push(Difference::Reordered(*number));
            }
        }
        found
    }

    /// The irregularities of these arrivals, and their differences from those of another path.
    pub(crate) fn differences_from(&self, other: &Self) -> Vec<Difference> {
        let (mut found, packets, expected) = (self.irregularities(), self.packets(), other.packets());
        for number in packets.keys().chain(expected.keys()).collect::<BTreeSet<_>>() {
            match (packets.get(number), expected.get(number)) {
                (None, _) => found.push(Difference::Lost(*number)),
                (_, None) => found.push(Difference::Unexpected(*number)),
                (Some(packet), Some(expected)) => {
                    let all = 0..packet.len().max(expected.len());
                    let differing: Vec<_> = all.filter(|at| packet.get(*at) != expected.get(*at)).collect();
                    if !differing.is_empty() {
                        found.push(Difference::Bytes(*number, differing));
                    }
                }
            }
        }
        found
    }
}

/// Asserts that there is no difference, and shows the input of the first one: `sent` has the packets from number 1.
#[track_caller]
pub(crate) fn assert_same_packets(differences: &[Difference], sent: &[impl fmt::Debug]) {
    if let Some(first) = differences.first() {
        panic!("{differences:?}\n{:?}", sent[usize::from(first.number()) - 1]);
    }
}
