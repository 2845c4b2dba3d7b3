//! Phrases that the texts must not contain, with their replacements.

use crate::{assert_none, prose, read};

const LIST: &str = "tests/phrases.txt";

/// A phrase and its replacement.
type Phrase = (String, String);

#[test]
fn no_text_has_a_replaced_phrase() {
    let phrases = parse(&read(LIST));
    assert!(phrases.len() > 50, "{} phrases", phrases.len());
    let texts = prose::texts();
    assert!(texts.len() > 100, "{} texts", texts.len());
    let errors = texts.iter().flat_map(|(name, text)| {
        find(&phrases, text)
            .into_iter()
            .map(move |(line, (phrase, instead))| format!("{name}:{line}: \"{phrase}\": write {instead}"))
    });
    assert_none(&errors.collect::<Vec<_>>());
}

/// Lines of `PHRASE, PHRASE… => REPLACEMENT`; `#` begins a comment.
fn parse(list: &str) -> Vec<Phrase> {
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .flat_map(|line| {
            let (phrases, instead) = line.split_once(" => ").unwrap_or_else(|| panic!("{LIST}: {line}"));
            phrases.split(',').map(move |phrase| (phrase.trim().to_owned(), instead.trim().to_owned()))
        })
        .collect()
}

/// Occurrences of phrases as whole words: the line, and the longest phrase there.
fn find<'a>(phrases: &'a [Phrase], text: &str) -> Vec<(usize, &'a Phrase)> {
    let (text, lines) = fold(text);
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    // Indexed by the first byte, because the texts are long.
    let mut by_first: [Vec<&Phrase>; 256] = [const { Vec::new() }; 256];
    phrases.iter().for_each(|phrase| by_first[usize::from(phrase.0.as_bytes()[0].to_ascii_lowercase())].push(phrase));
    let mut found = Vec::new();
    let mut end = 0;
    for (at, byte) in text.iter().enumerate() {
        let candidates = &by_first[usize::from(*byte)];
        if at < end || candidates.is_empty() || (is_word(Some(byte)) && at > 0 && is_word(text.get(at - 1))) {
            continue;
        }
        let matches = candidates.iter().filter(|(phrase, _)| {
            let after = at + phrase.len();
            text.get(at..after).is_some_and(|found| found.eq_ignore_ascii_case(phrase.as_bytes()))
                && !(is_word(phrase.as_bytes().last()) && is_word(text.get(after)))
        });
        if let Some(phrase) = matches.max_by_key(|(phrase, _)| phrase.len()) {
            found.push((lines[at], *phrase));
            end = at + phrase.0.len();
        }
    }
    found
}

/// The text in lower case with single spaces, and the line of each byte. A line break separates paragraphs.
fn fold(text: &str) -> (Vec<u8>, Vec<usize>) {
    let (mut folded, mut lines): (Vec<u8>, Vec<usize>) = Default::default();
    let mut line = 1;
    let mut breaks = 0;
    for byte in text.bytes() {
        if byte == b'\n' {
            line += 1;
            breaks += 1;
        }
        if !byte.is_ascii_whitespace() {
            breaks = 0;
            folded.push(byte.to_ascii_lowercase());
            lines.push(line);
        } else if let Some(last @ (b' ' | b'\n')) = folded.last_mut() {
            *last = if breaks > 1 { b'\n' } else { *last };
        } else {
            folded.push(b' ');
            lines.push(line);
        }
    }
    (folded, lines)
}

#[test]
fn phrase_is_found_over_lines_in_any_case_as_whole_words() {
    let phrases = parse("# comment\nthe kernel's way, --mirror => B\nkernel's => C\n");
    let find =
        |text| find(&phrases, text).into_iter().map(|(line, phrase)| (line, phrase.0.as_str())).collect::<Vec<_>>();
    assert_eq!(find("goes The\n  kernel's\tway."), [(1, "the kernel's way")]);
    assert_eq!(find("a\n`--mirror auto`, --mirrored, bathe kernels way"), [(2, "--mirror")]);
    assert_eq!(find("the\n\nkernel's ways"), [(3, "kernel's")]);
}

#[test]
fn comments_and_literals_are_found_and_code_is_not() {
    let code = "/// In\n    //! doubt.\nlet in_doubt = f!(\"\\nin \\\n   doubt\", [r#\"in\"#, \"doubt\"]); // in doubt\nin! { doubt }\n";
    let phrases = parse("in doubt => B");
    let found = find(&phrases, &prose::prose(code));
    assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3]);
}
