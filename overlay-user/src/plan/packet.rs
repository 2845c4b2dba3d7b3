//! What is known about the packets that a rule of the host can match.

use std::collections::BTreeMap;

use crate::kernel::{ChainRule, Field, Interface, Test};

/// Known properties of some packets. What is not known can be anything.
#[derive(Clone, Debug, Default)]
pub(super) struct Known<'a> {
    /// The input interface; empty: there is none. `None`: unknown.
    pub(super) input: Option<&'a str>,
    /// The output interface.
    pub(super) output: Option<&'a str>,
    /// Numbers, each with its known bits.
    pub(super) numbers: BTreeMap<Field, (u32, u32)>,
    /// A bridge forwards them.
    pub(super) is_bridged: bool,
}

/// Which of the packets match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    None,
    Some,
    All,
}

impl Match {
    fn certain(is_match: bool) -> Self {
        if is_match { Self::All } else { Self::None }
    }

    fn inverted(self, is_inverted: bool) -> Self {
        match self {
            Self::None if is_inverted => Self::All,
            Self::All if is_inverted => Self::None,
            same => same,
        }
    }
}

impl Known<'_> {
    /// Sets a number.
    pub(super) fn set(&mut self, field: Field, number: u32) {
        self.numbers.insert(field, (number, u32::MAX));
    }

    /// The packets that a rule matches.
    pub(super) fn matches(&self, rule: &ChainRule) -> Match {
        self.all(&rule.tests)
    }

    fn all(&self, tests: &[Test]) -> Match {
        tests.iter().map(|test| self.passes(test)).min().unwrap_or(Match::All)
    }

    fn passes(&self, test: &Test) -> Match {
        let named = |known: Option<&str>, interface: &Interface| {
            known.map_or(Match::Some, |name| Match::certain(interface.matches(name)))
        };
        match test {
            Test::Input(interface) => named(self.input, interface),
            Test::Output(interface) => named(self.output, interface),
            Test::Bridged => Match::certain(self.is_bridged),
            Test::Number { field, mask, first, last, is_inverted } => {
                self.number(*field, *mask, *first, *last).inverted(*is_inverted)
            }
            Test::AnyOf(lists, is_inverted) => {
                let best = lists.iter().map(|tests| self.all(tests)).max();
                best.unwrap_or(Match::None).inverted(*is_inverted)
            }
            Test::Other => Match::Some,
        }
    }

    fn number(&self, field: Field, mask: u32, first: u32, last: u32) -> Match {
        let (number, known) = self.numbers.get(&field).copied().unwrap_or((0, 0));
        if mask & !known == 0 {
            Match::certain((first..=last).contains(&(number & mask)))
        } else if first == last && (number ^ first) & mask & known != 0 {
            Match::None
        } else {
            Match::Some
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_with_unknown_bits_matches_what_its_known_bits_allow() {
        let mut known = Known::default();
        // 0bxx1
        known.numbers.insert(Field::Mark, (1, 1));
        let matches = |mask, first, last| known.number(Field::Mark, mask, first, last);
        assert_eq!(matches(1, 1, 1), Match::All);
        assert_eq!(matches(1, 0, 0), Match::None);
        assert_eq!(matches(7, 3, 3), Match::Some);
        assert_eq!(matches(7, 2, 2), Match::None);
        assert_eq!(matches(7, 2, 3), Match::Some);
    }
}
