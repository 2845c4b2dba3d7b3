//! Plurals after the number 1.

use crate::{assert_none, files_below, pages::pages, read};

#[test]
fn outputs_have_no_plural_after_one() {
    let files = files_below("tests/golden");
    assert!(files.len() > 100, "{} golden files", files.len());
    let golden = files.into_iter().map(|path| (path.display().to_string(), 1, read(&path)));
    let samples = pages().into_iter().flat_map(|page| {
        let blocks = page.code.into_iter().filter(|code| code.language.is_some());
        blocks.map(move |code| (page.name.clone(), code.line, code.text))
    });
    let errors = golden.chain(samples).flat_map(|(name, first, text)| {
        let found = plurals_after_one(&text).into_iter();
        found.map(move |(line, words)| format!("{name}:{}: {words:?}", first + line - 1))
    });
    assert_none(&errors.collect::<Vec<_>>());
}

/// Finds "1 networks", "1 MAC addresses", "1 network namespaces": plural nouns of one or two words after 1.
fn plurals_after_one(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, text) in text.lines().enumerate() {
        let words: Vec<_> = text.split(|c: char| c.is_whitespace() || matches!(c, '"' | '(')).collect();
        for (index, _) in words.iter().enumerate().filter(|(_, word)| **word == "1") {
            let is_word = |word: &str| word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_alphabetic());
            let noun: Vec<_> =
                words[index + 1..].iter().map(|word| word.trim_end_matches([',', '.', ';', ':', ')'])).collect();
            let noun: Vec<_> = noun.into_iter().take(2).take_while(|word| is_word(word)).collect();
            if let Some(last) = noun.iter().position(|word| is_plural(word)) {
                found.push((line + 1, format!("1 {}", noun[..=last].join(" "))));
            }
        }
    }
    found
}

fn is_plural(word: &str) -> bool {
    word.ends_with('s') && !word.ends_with("ss") && !["is", "has", "was", "as"].contains(&word)
}

#[test]
fn plural_after_one_is_found() {
    let text = "1 networks, 21 hosts and 1 host is\nin 1 network namespaces: 1 MAC address (1 MAC addresses), 10.0.0.1 has\n\"1 pins\"";
    let found = [(1, "1 networks"), (2, "1 network namespaces"), (2, "1 MAC addresses"), (3, "1 pins")];
    assert_eq!(plurals_after_one(text), found.map(|(line, words)| (line, words.to_owned())));
}
