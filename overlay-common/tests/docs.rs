//! docs/reasons.md matches the code.

use overlay_common::{Reason, Verdict};

const PAGE: &str = include_str!("../../docs/reasons.md");

/// Rows of the tables under the three verdicts, as cells.
fn rows() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut verdict = "";
    let mut rows = Vec::new();
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            verdict = heading;
        } else if line.starts_with("| `") && !verdict.is_empty() {
            rows.push((verdict, line.trim_matches('|').split('|').map(str::trim).collect()));
        }
    }
    rows
}

#[test]
fn docs_list_every_reason() {
    let listed = rows();
    let wanted: Vec<_> = [Verdict::Fast, Verdict::Kernel, Verdict::Drop]
        .into_iter()
        .flat_map(|verdict| Reason::ALL.into_iter().filter(move |reason| reason.verdict() == verdict))
        .collect();
    for (reason, (heading, cells)) in wanted.iter().zip(&listed) {
        assert_eq!(*heading, reason.verdict().as_str(), "{reason:?} is under the wrong heading of docs/reasons.md");
        assert_eq!(cells[0], format!("`{}`", reason.name()), "docs/reasons.md lists the reasons in another order");
        assert_eq!(cells[2], reason.help(), "docs/reasons.md has another meaning for {reason:?}");
        assert!(!cells[3].is_empty(), "docs/reasons.md has no remedy for {reason:?}");
    }
    let surplus: Vec<_> = listed.iter().skip(wanted.len()).map(|(_, cells)| cells[0]).collect();
    let missing: Vec<_> = wanted.iter().skip(listed.len()).map(|reason| reason.name()).collect();
    assert!(surplus.is_empty() && missing.is_empty(), "docs/reasons.md: surplus {surplus:?}, missing {missing:?}");
}
