//! `docs/reasons.md` lists every reason with the text of `overlay counters`.

use overlay_common::{Reason, Verdict};

use crate::{assert_none, read};

#[test]
fn page_lists_every_reason() {
    assert_none(&differences(&read("docs/reasons.md")));
}

/// Rows of the tables under the three verdicts, as cells: verdict, reason, hook, meaning, remedy.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let mut verdict = "";
    let mut rows = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            verdict = heading;
        } else if line.starts_with("| `") && !verdict.is_empty() {
            rows.push([verdict].into_iter().chain(line.trim_matches('|').split('|').map(str::trim)).collect());
        }
    }
    rows
}

fn differences(page: &str) -> Vec<String> {
    let listed = rows(page);
    let wanted = [Verdict::Fast, Verdict::Kernel, Verdict::Drop]
        .into_iter()
        .flat_map(|verdict| Reason::ALL.into_iter().filter(move |reason| reason.verdict() == verdict));
    let wanted: Vec<_> = wanted.collect();
    let mut differences = Vec::new();
    for (index, reason) in wanted.iter().enumerate() {
        let [verdict, name, help] = [reason.verdict().as_str(), reason.name(), reason.help()];
        match listed.get(index).map(Vec::as_slice) {
            Some([heading, cell, _, meaning, remedy])
                if *heading == verdict && *cell == format!("`{name}`") && *meaning == help && !remedy.is_empty() => {}
            found => differences.push(format!("{verdict}, `{name}`, {help:?} and a remedy; the page has {found:?}")),
        }
    }
    differences.extend(listed.iter().skip(wanted.len()).map(|row| format!("surplus: {row:?}")));
    differences
}

#[test]
fn changed_and_surplus_reasons_are_found() {
    let mut page = String::new();
    for verdict in [Verdict::Fast, Verdict::Kernel, Verdict::Drop] {
        page += &format!("## {}\n", verdict.as_str());
        for reason in Reason::ALL.into_iter().filter(|reason| reason.verdict() == verdict) {
            page += &format!("| `{}` | any | {} | Nothing. |\n", reason.name(), reason.help());
        }
    }
    assert_none(&differences(&page));
    let found = differences(&(page.replacen("Encapsulated", "Sent", 1) + "| `nosuch` | any | Unknown. | Nothing. |\n"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("fast, `encap`") && found[1].starts_with("surplus"), "{found:?}");
}
