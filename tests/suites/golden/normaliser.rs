//! Replaces text that differs between two runs of a scenario by placeholders.

/// Varying text and its placeholder; `#` matches one or more digits.
///
/// Everything else is deterministic: the scenario fixes interface indices, MAC addresses and pin roots, and no host or
/// container sends packets by itself.
const VARYING: [(&str, &str); 10] = [
    ("#-#-#T#:#:#.#Z", "<TIME>"),
    ("(pid #)", "(pid <PID>)"),
    ("\"daemon\": #,", "\"daemon\": \"<PID>\","),
    ("/pid:#", "/pid:<PID>"),
    ("\"left_s\": #,", "\"left_s\": \"<SECONDS>\","),
    ("heartbeat deadline in # s", "heartbeat deadline in <SECONDS> s"),
    ("\"age_ms\": #,", "\"age_ms\": \"<AGE>\","),
    ("\"deadline_jiffies\": #", "\"deadline_jiffies\": \"<JIFFIES>\""),
    ("\"next_jiffies\": #", "\"next_jiffies\": \"<JIFFIES>\""),
    ("\"deadline_ns\": #", "\"deadline_ns\": \"<NS>\""),
];

/// Replaces varying text by placeholders.
#[derive(Clone, Default)]
pub(crate) struct Normaliser {
    /// Text of this run, for instance the path of a netns, and its placeholder.
    replacements: Vec<(String, String)>,
}

impl Normaliser {
    /// Replaces `text` where it is a separate word.
    pub(crate) fn add(&mut self, text: impl Into<String>, placeholder: impl Into<String>) {
        self.replacements.push((text.into(), placeholder.into()));
        // Longer paths first: one may be a prefix of another.
        self.replacements.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    pub(crate) fn apply(&self, text: &str) -> String {
        let replacements =
            self.replacements.iter().fold(text.to_owned(), |text, (word, name)| replace_word(&text, word, name));
        VARYING.iter().fold(replacements, |text, (pattern, name)| replace_pattern(&text, pattern, name))
    }
}

fn replace_word(text: &str, word: &str, name: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let is_part_of_word = before.chars().next_back().is_some_and(char::is_alphanumeric)
            || after.chars().next().is_some_and(char::is_alphanumeric);
        replaced += before;
        replaced += if is_part_of_word { word } else { name };
        rest = after;
    }
    replaced + rest
}

fn replace_pattern(text: &str, pattern: &str, name: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let (mut rest, mut in_number) = (text, false);
    while let Some(first) = rest.chars().next() {
        // A number is matched from its first digit.
        let matched = if in_number && first.is_ascii_digit() { None } else { matched_by(rest, pattern) };
        if let Some(length) = matched {
            replaced += name;
            rest = &rest[length..];
            in_number = false;
        } else {
            replaced.push(first);
            rest = &rest[first.len_utf8()..];
            in_number = first.is_ascii_digit();
        }
    }
    replaced
}

/// Length of the match of a pattern at the beginning of `text`.
fn matched_by(text: &str, pattern: &str) -> Option<usize> {
    let mut rest = text;
    for expected in pattern.chars() {
        rest = if expected == '#' {
            let end = rest.find(|other: char| !other.is_ascii_digit()).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            &rest[end..]
        } else {
            rest.strip_prefix(expected)?
        };
    }
    Some(text.len() - rest.len())
}

#[test]
fn normaliser_replaces_only_varying_text() {
    let mut normaliser = Normaliser::default();
    normaliser.add("/proc/7/fd/1", "<NETNS a>");
    normaliser.add("/proc/7/fd/12", "<NETNS b>");
    normaliser.add("4026532180", "<INODE a>");
    for (text, expected) in [
        ("/proc/7/fd/1 /proc/7/fd/12, /proc/7/fd/123", "<NETNS a> <NETNS b>, /proc/7/fd/123"),
        ("netns_id:1:4026532180:%2fmnt", "netns_id:1:<INODE a>:%2fmnt"),
        ("running (pid 4097), VNI 4097", "running (pid <PID>), VNI 4097"),
        ("2025-11-29T20:37:53.120001Z  INFO ready", "<TIME>  INFO ready"),
        ("  \"left_s\": 29,\n", "  \"left_s\": \"<SECONDS>\",\n"),
        ("  \"left_s\": null,\n", "  \"left_s\": null,\n"),
        ("192.168.1.9 02:42:0a:00:01:02 1450", "192.168.1.9 02:42:0a:00:01:02 1450"),
    ] {
        assert_eq!(normaliser.apply(text), expected);
    }
}
