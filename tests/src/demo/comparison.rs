//! Comparison of attached and detached, round by round, and whether the rounds agree on a change.
//!
//! A round measures both sides in immediate succession. Load that lasts longer than a round affects both sides of its
//! ratio, attached to detached; shorter load makes the ratios of the rounds differ. A change is the median of the
//! ratios. It is printed only when their range, which is printed with it, supports it, under two conditions:
//!
//! - All ratios are on the same side of 1. The range never includes the opposite of the change. Without a difference,
//!   all of seven rounds are on the same side by chance in 1.6 % of the cases (2 in 2^7).
//! - The largest ratio is at most [`RANGE`] times the smallest: a certain direction does not make a percentage valid.
//!   On an idle machine, the factor is below 1.15.

use std::fmt;

use serde::Serialize;

use crate::bench::{report::number, stats::Summary};

/// Fewest rounds of a comparison.
pub(super) const ENOUGH: usize = 5;

/// Largest factor between the ratios of a change.
const RANGE: f64 = 1.5;

/// Ratios that differ from 1 by no more than this, in both directions, show that there is no larger difference.
const EQUAL: f64 = 0.05;

/// The values of one round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Round {
    pub(super) attached: f64,
    pub(super) detached: f64,
}

impl Round {
    /// `None` if a value is no positive number.
    fn ratio(self) -> Option<f64> {
        let ratio = self.attached / self.detached;
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }
}

/// Whether the rounds agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The rounds agree on a change.
    Change,
    /// The rounds agree that a change is smaller than [`EQUAL`].
    Equal,
    TooNoisy,
    /// Fewer than [`ENOUGH`] rounds have a ratio.
    TooFewRounds,
}

impl Verdict {
    fn of(ratios: &Summary) -> Self {
        let Summary { min, max, count, .. } = *ratios;
        if count < ENOUGH {
            Self::TooFewRounds
        } else if (min > 1.0 || max < 1.0) && max <= RANGE * min {
            Self::Change
        } else if min >= 1.0 - EQUAL && max <= 1.0 + EQUAL {
            Self::Equal
        } else {
            Self::TooNoisy
        }
    }

    fn is_comparable(self) -> bool {
        matches!(self, Self::Change | Self::Equal)
    }
}

/// Comparison of a figure. `Display` is the change, or the reason why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Comparison {
    comparable: bool,
    verdict: Verdict,
    /// Median of the ratios; only if the rounds agree on a change.
    change_percent: Option<f64>,
    /// Ratio of attached to detached, by round.
    ratio: Summary,
}

impl Comparison {
    /// `None` if no round has a ratio.
    pub(super) fn of(rounds: &[Round]) -> Option<Self> {
        let ratio = Summary::of(rounds.iter().filter_map(|round| round.ratio()))?;
        let verdict = Verdict::of(&ratio);
        let change = (verdict == Verdict::Change).then_some((ratio.median - 1.0) * 100.0);
        Some(Self { comparable: verdict.is_comparable(), verdict, change_percent: change, ratio })
    }

    pub(super) fn is_too_noisy(&self) -> bool {
        self.verdict == Verdict::TooNoisy
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, min, max] = [self.ratio.median, self.ratio.min, self.ratio.max].map(percent);
        match self.verdict {
            Verdict::Change => write!(f, "{median} % ({min} … {max} %)"),
            Verdict::Equal => write!(f, "within {:.0} % ({min} … {max} %)", EQUAL * 100.0),
            Verdict::TooNoisy => write!(f, "too noisy to compare (rounds differ: {min} … {max} %)"),
            Verdict::TooFewRounds => write!(f, "too few rounds to compare ({})", self.ratio.count),
        }
    }
}

/// A ratio as change, with sign. Adding 0 removes the sign of -0.
fn percent(ratio: f64) -> String {
    format!("{:+.0}", ((ratio - 1.0) * 100.0).round() + 0.0)
}

/// `16.1 ± 3 %`: the median, and the largest distance of a round from it. `0 (0–12)`, the range, if the median is 0.
pub(super) fn spread(values: &Summary) -> String {
    let Summary { median, min, max, .. } = *values;
    if median == 0.0 {
        return format!("0 ({min:.0}–{max:.0})");
    }
    let largest = (max - median).max(median - min) / median * 100.0;
    format!("{} ± {largest:.0} %", number(median))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds with these ratios, on a machine whose speed changes from round to round.
    fn rounds(ratios: &[f64]) -> Vec<Round> {
        let round = |(index, ratio): (usize, &f64)| {
            let detached = 50.0 + 20.0 * (index % 3) as f64;
            Round { attached: ratio * detached, detached }
        };
        ratios.iter().enumerate().map(round).collect()
    }

    fn compare(ratios: &[f64]) -> Comparison {
        Comparison::of(&rounds(ratios)).unwrap()
    }

    #[test]
    fn change_is_the_median_of_the_ratios_of_the_rounds() {
        let rounds = [(20.0, 10.0), (10.0, 5.0), (7.0, 3.5), (42.0, 20.0), (5.7, 3.0)];
        let comparison = Comparison::of(&rounds.map(|(attached, detached)| Round { attached, detached })).unwrap();
        assert_eq!(comparison.to_string(), "+100 % (+90 … +110 %)");
        assert!(comparison.comparable && (comparison.change_percent.unwrap() - 100.0).abs() < 1e-9, "{comparison:?}");
        assert_eq!(compare(&[0.8, 0.81, 0.79, 0.82, 0.8]).to_string(), "-20 % (-21 … -18 %)");
    }

    #[test]
    fn contradicting_rounds_have_no_change() {
        for ratios in [
            [0.92, 1.05, 1.12, 1.03, 1.01],
            // One round of five.
            [1.4, 1.41, 0.99, 1.39, 1.4],
            [0.5, 0.5, 0.5, 0.5, 1.2],
            // The direction is certain, the size is not.
            [1.1, 1.3, 2.0, 2.6, 4.0],
        ] {
            let comparison = compare(&ratios);
            let text = comparison.to_string();
            let Some((verdict, spread)) = text.split_once(" (rounds differ: ") else { panic!("{text}") };
            assert!(verdict == "too noisy to compare" && spread.ends_with(" %)"), "{text}");
            assert_eq!((comparison.comparable, comparison.change_percent), (false, None), "{comparison:?}");
        }
        assert_eq!(
            compare(&[0.92, 1.05, 1.12, 1.03, 1.01]).to_string(),
            "too noisy to compare (rounds differ: -8 … +12 %)"
        );
    }

    #[test]
    fn printed_range_never_includes_the_opposite_of_the_change() {
        let mut random = fastrand::Rng::with_seed(crate::seed::Seed::start().number());
        let mut changes = 0;
        for _ in 0..10_000 {
            let (center, noise) = (0.5 + random.f64(), random.f64());
            let ratios: Vec<f64> = (0..7).map(|_| center * (1.0 + noise * (random.f64() - 0.5))).collect();
            let comparison = compare(&ratios);
            let Some(change) = comparison.change_percent else { continue };
            changes += 1;
            assert!(ratios.iter().all(|ratio| (ratio - 1.0) * change > 0.0), "{change}: {ratios:?}");
            assert!(comparison.ratio.max <= RANGE * comparison.ratio.min, "{ratios:?}");
        }
        assert!(changes > 1_000, "{changes}");
    }

    #[test]
    fn small_differences_in_both_directions_are_equal() {
        let comparison = compare(&[0.98, 1.02, 1.0, 0.999, 1.01]);
        assert_eq!(comparison.to_string(), "within 5 % (-2 … +2 %)");
        assert_eq!((comparison.comparable, comparison.change_percent), (true, None));
        assert!(!compare(&[0.98, 1.02, 1.0, 0.999, 1.06]).comparable);
    }

    #[test]
    fn few_rounds_are_not_compared() {
        assert_eq!(compare(&[2.0; 4]).to_string(), "too few rounds to compare (4)");
        let mut rounds = rounds(&[2.0; 5]);
        rounds[3].detached = 0.0;
        assert_eq!(Comparison::of(&rounds).unwrap().verdict, Verdict::TooFewRounds);
        assert_eq!(Comparison::of(&[]), None);
    }

    #[test]
    fn spread_is_the_largest_distance_from_the_median() {
        let summary = |values: &[f64]| Summary::of(values.iter().copied()).unwrap();
        assert_eq!(spread(&summary(&[10.0, 9.0, 10.4])), "10.0 ± 10 %");
        assert_eq!(spread(&summary(&[15_230.4])), "15230 ± 0 %");
        assert_eq!(spread(&summary(&[0.0, 12.0, 0.0])), "0 (0–12)");
    }
}
