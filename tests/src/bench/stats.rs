//! Medians, spreads and ratios, and when a ratio says nothing.

use std::collections::BTreeMap;

use serde::Serialize;

/// Where the rounds' ratios stray further than this from their median (median absolute deviation over median), the
/// median means nothing.
pub(super) const DISAGREEMENT: f64 = 0.10;

/// With fewer rounds nobody knows how much they disagree.
pub(super) const ENOUGH_ROUNDS: usize = 3;

/// Several measurements of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    /// Median absolute deviation from the median.
    pub(super) mad: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// Of how many.
    pub(super) count: usize,
}

impl Summary {
    /// `None` of nothing.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        let median = median(&mut values)?;
        let mad = median_of(values.iter().map(|value| (value - median).abs()))?;
        // `median` has sorted them.
        Some(Self { median, mad, min: *values.first()?, max: *values.last()?, count: values.len() })
    }

    /// The median absolute deviation as a part of the median.
    pub(super) fn disagreement(&self) -> f64 {
        if self.median == 0.0 { f64::INFINITY } else { self.mad / self.median }
    }
}

fn median_of(values: impl Iterator<Item = f64>) -> Option<f64> {
    median(&mut values.collect::<Vec<_>>())
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// One path against another, round by round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ratio {
    /// The median of the rounds' ratios.
    Stated {
        /// Of ours over theirs.
        median: f64,
        /// Their relative median absolute deviation.
        disagreement: f64,
    },
    /// The rounds' ratios disagree by so much, relative to their median.
    Refused {
        /// Their relative median absolute deviation.
        disagreement: f64,
    },
    /// So few rounds have both.
    TooFew(usize),
}

impl Ratio {
    /// Of the values of the rounds that both have.
    pub(super) fn of(ours: &BTreeMap<usize, f64>, theirs: &BTreeMap<usize, f64>) -> Self {
        let both = ours.iter().filter_map(|(round, our)| Some((our, theirs.get(round)?)));
        let ratios: Vec<f64> = both.filter(|(_, their)| **their > 0.0).map(|(our, their)| our / their).collect();
        let count = ratios.len();
        match Summary::of(ratios) {
            Some(summary) if count >= ENOUGH_ROUNDS => {
                let disagreement = summary.disagreement();
                if disagreement > DISAGREEMENT {
                    Self::Refused { disagreement }
                } else {
                    Self::Stated { median: summary.median, disagreement }
                }
            }
            _ => Self::TooFew(count),
        }
    }

    pub(super) fn stated(self) -> Option<f64> {
        if let Self::Stated { median, .. } = self { Some(median) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(values: &[f64]) -> BTreeMap<usize, f64> {
        values.iter().copied().enumerate().collect()
    }

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        close(Summary::of([9.0, 1.0, 2.0]).unwrap().median, 2.0);
        close(Summary::of([9.0, 1.0, 2.0, 4.0]).unwrap().median, 3.0);
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn the_spread_is_the_median_of_the_distances_and_one_outlier_does_not_move_it() {
        let summary = Summary::of([10.0, 11.0, 9.0, 10.5, 1000.0]).unwrap();
        close(summary.median, 10.5);
        close(summary.mad, 0.5);
        close(summary.min, 9.0);
        close(summary.max, 1000.0);
        close(summary.disagreement(), 0.5 / 10.5);
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_the_medians() {
        // The machine was twice as slow in the second round and three times as slow in the third: for both.
        let ratio = Ratio::of(&rounds(&[20.0, 10.0, 7.0]), &rounds(&[10.0, 5.0, 3.5]));
        assert_eq!(ratio, Ratio::Stated { median: 2.0, disagreement: 0.0 });
    }

    #[test]
    fn rounds_that_disagree_too_much_are_refused_and_say_by_how_much() {
        let ratio = Ratio::of(&rounds(&[1.0, 2.0, 3.0, 4.0, 5.0]), &rounds(&[1.0; 5]));
        assert_eq!(ratio, Ratio::Refused { disagreement: 1.0 / 3.0 });
        assert_eq!(ratio.stated(), None);
    }

    #[test]
    fn one_stray_round_of_five_is_not_a_disagreement() {
        let ratio = Ratio::of(&rounds(&[2.0, 2.02, 9.0, 1.98, 2.01]), &rounds(&[1.0; 5]));
        close(ratio.stated().unwrap(), 2.01);
    }

    #[test]
    fn two_rounds_say_nothing_about_a_ratio() {
        assert_eq!(Ratio::of(&rounds(&[2.0, 2.0]), &rounds(&[1.0, 1.0])), Ratio::TooFew(2));
    }

    #[test]
    fn only_rounds_that_both_have_are_compared() {
        let ours = BTreeMap::from([(0, 2.0), (1, 2.0), (2, 2.0), (4, 2.0)]);
        let theirs = BTreeMap::from([(0, 1.0), (2, 1.0), (3, 1.0), (4, 0.0)]);
        assert_eq!(Ratio::of(&ours, &theirs), Ratio::TooFew(2));
    }
}
