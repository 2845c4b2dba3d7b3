//! Counts in messages.

/// A count with its noun: `1 network`, `2 networks`, `3 entries`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}

/// Values in a message: `4789, 4790`.
pub(crate) fn listed<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn noun_agrees_with_its_count() {
        let all = [(0, "network"), (1, "network"), (2, "network"), (1, "entry"), (2, "entry")];
        let text = all.map(|(count, noun)| super::counted(count, noun));
        assert_eq!(text, ["0 networks", "1 network", "2 networks", "1 entry", "2 entries"]);
    }
}
