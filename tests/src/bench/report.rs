//! The tables, as Markdown: for the terminal and for `--md`.

use std::fmt::Write as _;

use super::{
    machine::Machine,
    results::{Better, Figure, Results},
    stats::{DISAGREEMENT, ENOUGH_ROUNDS, Ratio},
};

/// The complete report.
pub(super) fn markdown(machine: &Machine, load_after: f64, results: &Results) -> String {
    let mut text = format!("Measured on {machine}, after the run {load_after:.2}.\n");
    for note in &results.notes {
        let _ = write!(text, "\n- {note}");
    }
    if !results.notes.is_empty() {
        text.push('\n');
    }
    for group in groups(&results.figures) {
        medians(&mut text, group);
        ratios(&mut text, group);
    }
    if !results.missing.is_empty() {
        text.push_str("\nNot measured:\n");
        for missing in &results.missing {
            let _ = write!(text, "\n- {}", missing.replace('\n', " "));
        }
        text.push('\n');
    }
    text
}

/// Groups of adjacent figures with common columns.
fn groups(figures: &[Figure]) -> impl Iterator<Item = &[Figure]> {
    figures.chunk_by(|one, other| one.baselines == other.baselines && overlaps(one, other))
}

fn overlaps(one: &Figure, other: &Figure) -> bool {
    one.series.iter().any(|series| other.series(&series.path).is_some())
}

/// The paths of all figures, in the order of the figure with most paths.
fn columns(group: &[Figure]) -> Vec<&str> {
    let longest = group.iter().max_by_key(|figure| figure.series.len());
    let mut columns: Vec<&str> = longest.into_iter().flat_map(paths).collect();
    for path in group.iter().flat_map(paths) {
        if !columns.contains(&path) {
            columns.push(path);
        }
    }
    columns
}

fn paths(figure: &Figure) -> impl Iterator<Item = &str> {
    figure.series.iter().map(|series| series.path.as_str())
}

fn row(text: &mut String, cells: impl IntoIterator<Item = String>) {
    for cell in cells {
        let _ = write!(text, "| {cell} ");
    }
    text.push_str("|\n");
}

fn rule(text: &mut String, columns: usize) {
    text.push_str("|---|");
    text.push_str(&"---:|".repeat(columns));
    text.push('\n');
}

/// Median, minimum and maximum of every path.
fn medians(text: &mut String, group: &[Figure]) {
    let columns = columns(group);
    text.push_str("\nMedian of the rounds (smallest–largest):\n\n");
    row(text, std::iter::once("figure".to_owned()).chain(columns.iter().map(ToString::to_string)));
    rule(text, columns.len());
    for figure in group {
        let cells = columns.iter().map(|path| match figure.series(path).and_then(super::results::Series::summary) {
            Some(summary) if summary.count == 1 => number(summary.median),
            Some(summary) => {
                format!("{} ({}–{})", number(summary.median), number(summary.min), number(summary.max))
            }
            None => "–".to_owned(),
        });
        row(text, std::iter::once(label(figure)).chain(cells));
    }
}

/// Ratios of every path to every baseline.
fn ratios(text: &mut String, group: &[Figure]) {
    let Some(baselines) = group.first().map(|figure| &figure.baselines) else { return };
    let columns = columns(group);
    for baseline in baselines.iter().filter(|baseline| columns.contains(&baseline.as_str())) {
        let rounds = group.iter().filter_map(|figure| Some(figure.series(baseline)?.rounds.len())).max();
        if rounds.unwrap_or_default() < ENOUGH_ROUNDS {
            let _ = write!(text, "\nNo ratios to {baseline}: fewer than {ENOUGH_ROUNDS} rounds.\n");
            continue;
        }
        let others: Vec<&str> = columns.iter().copied().filter(|path| path != baseline).collect();
        let _ = write!(
            text,
            "\nRatio to {baseline}: median of the ratios of all rounds. No ratio is given for fewer than \
             {ENOUGH_ROUNDS} rounds or for a relative median absolute deviation above {:.0} %:\n\n",
            DISAGREEMENT * 100.0
        );
        row(text, std::iter::once("figure".to_owned()).chain(others.iter().map(ToString::to_string)));
        rule(text, others.len());
        for figure in group.iter().filter(|figure| figure.series(baseline).is_some()) {
            let cells = others.iter().map(|path| figure.ratio(path, baseline).map_or_else(|| "–".to_owned(), ratio));
            row(text, std::iter::once(label(figure)).chain(cells));
        }
    }
}

/// `udp64 packets (kpps, more is better)`.
fn label(figure: &Figure) -> String {
    let better = match figure.metric.better {
        Better::Higher => "more",
        Better::Lower => "less",
    };
    format!("{} ({}, {better} is better)", figure.name(), figure.metric.unit)
}

fn ratio(ratio: Ratio) -> String {
    match ratio {
        Ratio::Stated { median, disagreement } => format!("{} (±{:.0} %)", number(median), disagreement * 100.0),
        Ratio::Refused { disagreement } => format!("rounds disagree: ±{:.0} %", disagreement * 100.0),
        Ratio::TooFew(rounds) => format!("too few rounds ({rounds})"),
    }
}

/// Three significant digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        small if small < 1.0 => format!("{value:.3}"),
        small if small < 10.0 => format!("{value:.2}"),
        medium if medium < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::{P50, PACKETS};

    fn results() -> Results {
        let mut results = Results::default();
        for round in 0..3 {
            results.add("udp64", PACKETS, "kernel", &["kernel"], round, 100.0);
            results.add("udp64", PACKETS, "tc", &["kernel"], round, 210.0);
            results.add("udp_rr", P50, "kernel", &["kernel"], round, [1.0, 2.0, 3.0][round]);
            results.add("udp_rr", P50, "tc", &["kernel"], round, 2.0);
        }
        results
    }

    #[test]
    fn ratio_is_shown_if_the_rounds_agree_and_refused_otherwise() {
        let mut text = String::new();
        ratios(&mut text, &results().figures);
        assert!(text.contains("| udp64 packets (kpps, more is better) | 2.10 (±0 %) |"), "{text}");
        assert!(text.contains("| udp_rr p50 (µs, less is better) | rounds disagree: ±33 % |"), "{text}");
    }

    #[test]
    fn missing_value_is_a_dash_and_failed_measurements_are_listed() {
        let mut results = results();
        results.add("udp64", PACKETS, "xdp", &["kernel"], 0, 1.0);
        results.add_missing("udp_rr over xdp: no reply");
        let machine =
            Machine { cpu: "a CPU".to_owned(), cpus: 2, memory_mib: 2048, kernel: "6.18".to_owned(), load_before: 0.0 };
        let text = markdown(&machine, 0.1, &results);
        assert!(
            text.contains("| udp64 packets (kpps, more is better) | 100 (100–100) | 210 (210–210) | 1.00 |"),
            "{text}"
        );
        assert!(
            text.contains("| udp_rr p50 (µs, less is better) | 2.00 (1.00–3.00) | 2.00 (2.00–2.00) | – |"),
            "{text}"
        );
        assert!(text.contains("too few rounds (1)") && text.contains("udp_rr over xdp: no reply"), "{text}");
    }
}
