//! Medians, spreads and ratios, with the conditions for a valid ratio.

use std::collections::BTreeMap;

use serde::Serialize;

/// Largest relative median absolute deviation of the ratios of a valid ratio.
pub(super) const DISAGREEMENT: f64 = 0.10;

/// Fewest rounds of a valid ratio.
pub(super) const ENOUGH_ROUNDS: usize = 3;

/// Summary of several measurements of one quantity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    /// Median absolute deviation from the median.
    pub(crate) mad: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Number of measurements.
    pub(crate) count: usize,
}

impl Summary {
    /// `None` if there are no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        let median = median(&mut values)?;
        let mad = median_of(values.iter().map(|value| (value - median).abs()))?;
        // `median` has sorted them.
        Some(Self { median, mad, min: *values.first()?, max: *values.last()?, count: values.len() })
    }

    /// Relative median absolute deviation: deviation divided by median.
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

/// The 95 % interval of the median, by order statistics: the narrowest pair of ranks between which the median of the
/// distribution lies with this probability, whatever the distribution. All values if there are fewer than six.
pub(super) fn interval(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    // Of `count` fair coins, the probability of at most `skip` heads.
    let count = values.len();
    let (mut term, mut below, mut skip) = (0.5_f64.powi(i32::try_from(count).ok()?), 0.0, 0);
    while 2.0 * (below + term) <= 0.05 {
        below += term;
        term *= (count - skip) as f64 / (skip + 1) as f64;
        skip += 1;
    }
    // At most `skip - 1` values may be left out at each end.
    let skip = skip.saturating_sub(1);
    Some((*values.get(skip)?, *values.get(count.checked_sub(skip + 1)?)?))
}

/// The ratios of the rounds that have both values.
pub(super) fn ratios(ours: &BTreeMap<usize, f64>, theirs: &BTreeMap<usize, f64>) -> Vec<f64> {
    let both = ours.iter().filter_map(|(round, our)| Some((our, theirs.get(round)?)));
    both.filter(|(_, their)| **their > 0.0).map(|(our, their)| our / their).collect()
}

/// Ratio of two paths, computed round by round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ratio {
    /// The ratio is valid.
    Stated {
        /// Median of the ratios of all rounds.
        median: f64,
        /// Relative median absolute deviation of the ratios.
        disagreement: f64,
    },
    /// The ratios of the rounds disagree by more than [`DISAGREEMENT`].
    Refused {
        /// Relative median absolute deviation of the ratios.
        disagreement: f64,
    },
    /// Fewer than [`ENOUGH_ROUNDS`] rounds have both values.
    TooFew(usize),
}

impl Ratio {
    /// Computes the ratio from the rounds that have both values.
    pub(super) fn of(ours: &BTreeMap<usize, f64>, theirs: &BTreeMap<usize, f64>) -> Self {
        let ratios = ratios(ours, theirs);
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

    #[test]
    fn interval_leaves_out_what_95_percent_allow() {
        let of = |count: u32| interval((0..count).rev().map(f64::from).collect());
        assert_eq!(of(0), None);
        assert_eq!(of(1), Some((0.0, 0.0)));
        assert_eq!(of(5), Some((0.0, 4.0)));
        // Table of the sign test: 1 of 9 and of 11, 2 of 12, 5 of 20.
        assert_eq!(of(8), Some((0.0, 7.0)));
        assert_eq!(of(9), Some((1.0, 7.0)));
        assert_eq!(of(11), Some((1.0, 9.0)));
        assert_eq!(of(12), Some((2.0, 9.0)));
        assert_eq!(of(20), Some((5.0, 14.0)));
    }

    fn rounds(values: &[f64]) -> BTreeMap<usize, f64> {
        values.iter().copied().enumerate().collect()
    }

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
    }

    #[test]
    fn median_is_the_middle_value_or_the_mean_of_the_two_middle_values() {
        close(Summary::of([9.0, 1.0, 2.0]).unwrap().median, 2.0);
        close(Summary::of([9.0, 1.0, 2.0, 4.0]).unwrap().median, 3.0);
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn spread_is_the_median_absolute_deviation_and_ignores_one_outlier() {
        let summary = Summary::of([10.0, 11.0, 9.0, 10.5, 1000.0]).unwrap();
        close(summary.median, 10.5);
        close(summary.mad, 0.5);
        close(summary.min, 9.0);
        close(summary.max, 1000.0);
        close(summary.disagreement(), 0.5 / 10.5);
    }

    #[test]
    fn ratio_is_the_median_of_ratios_and_not_the_ratio_of_medians() {
        // The machine was twice as slow in the second round and three times as slow in the third, for both paths.
        let ratio = Ratio::of(&rounds(&[20.0, 10.0, 7.0]), &rounds(&[10.0, 5.0, 3.5]));
        assert_eq!(ratio, Ratio::Stated { median: 2.0, disagreement: 0.0 });
    }

    #[test]
    fn ratio_of_disagreeing_rounds_is_refused_with_the_disagreement() {
        let ratio = Ratio::of(&rounds(&[1.0, 2.0, 3.0, 4.0, 5.0]), &rounds(&[1.0; 5]));
        assert_eq!(ratio, Ratio::Refused { disagreement: 1.0 / 3.0 });
        assert_eq!(ratio.stated(), None);
    }

    #[test]
    fn one_outlier_of_five_rounds_is_no_disagreement() {
        let ratio = Ratio::of(&rounds(&[2.0, 2.02, 9.0, 1.98, 2.01]), &rounds(&[1.0; 5]));
        close(ratio.stated().unwrap(), 2.01);
    }

    #[test]
    fn two_rounds_are_too_few_for_a_ratio() {
        assert_eq!(Ratio::of(&rounds(&[2.0, 2.0]), &rounds(&[1.0, 1.0])), Ratio::TooFew(2));
    }

    #[test]
    fn only_rounds_with_both_values_are_compared() {
        let ours = BTreeMap::from([(0, 2.0), (1, 2.0), (2, 2.0), (4, 2.0)]);
        let theirs = BTreeMap::from([(0, 1.0), (2, 1.0), (3, 1.0), (4, 0.0)]);
        assert_eq!(Ratio::of(&ours, &theirs), Ratio::TooFew(2));
    }
}
