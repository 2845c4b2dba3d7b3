//! The pages contain every configuration key, every command and every option.

use overlay_user::testing::sources::parse;

use crate::{
    assert_none, command_lines, commands_of,
    pages::{page, pages},
    read,
};

const KEYS: &str = "docs/configuration.md";

#[test]
fn configuration_page_has_every_key() {
    let keys = keys();
    assert!(keys.len() > 20 && keys.contains(&("[[networks]]".into(), "vni".into())), "{keys:?}");
    assert_none(&missing_keys(&read(KEYS), &keys));
}

#[test]
fn pages_have_every_command_and_option() {
    let pages = pages().into_iter().filter(|page| page.name != "CHANGELOG.md");
    let code: Vec<_> = pages.flat_map(|page| page.code).map(|code| code.text).collect();
    let [overlay, _] = command_lines();
    assert_none(&missing_commands(&code, &overlay));
}

/// The tables of a configuration file and their keys, from the parser's errors for unknown keys.
fn keys() -> Vec<(String, String)> {
    let known = |text: &str| -> Vec<String> {
        let errors = parse(text, "file").expect_err("an unknown key").to_string();
        let lists = errors.lines().filter_map(|line| line.split_once("the known keys are "));
        lists.flat_map(|(_, keys)| keys.split(", ").map(str::to_owned)).collect()
    };
    let top = known("nosuch = 1\n");
    let mut all = Vec::new();
    for key in &top {
        let header = [format!("[{key}]"), format!("[[{key}]]")];
        let below = header.map(|header| {
            let keys = known(&format!("{header}\nnosuch = 1\n"));
            (header, keys)
        });
        match below.into_iter().find(|(_, keys)| !keys.is_empty()) {
            Some((header, keys)) => all.extend(keys.into_iter().map(|key| (header.clone(), key))),
            None => all.push((String::new(), key.clone())),
        }
    }
    all
}

/// Tables that are missing in the page, and keys with fewer rows than tables with such a key.
fn missing_keys(text: &str, keys: &[(String, String)]) -> Vec<String> {
    let spans = page(KEYS, text).code;
    let mut missing = Vec::new();
    for (table, key) in keys {
        let rows = text.lines().filter(|line| line.starts_with(&format!("| `{key}` |"))).count();
        let tables = keys.iter().filter(|(_, other)| other == key).count();
        let has_table = table.is_empty() || spans.iter().any(|code| code.text == *table);
        if rows < tables || !has_table {
            missing.push(format!("{KEYS}: {table} `{key}`: {rows} rows for the {tables} tables that have the key"));
        }
    }
    missing
}

/// Commands and long options that are in no code span or block.
fn missing_commands(code: &[String], command: &clap::Command) -> Vec<String> {
    let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    let has = |words: &str| {
        code.iter().any(|code| {
            code.match_indices(words).any(|(at, _)| {
                code[..at].chars().next_back().is_none_or(is_end)
                    && code[at + words.len()..].chars().next().is_none_or(is_end)
            })
        })
    };
    let mut missing = Vec::new();
    for (words, command) in commands_of(command) {
        let name = words.join(" ");
        // A page may omit `overlay` before a subcommand, as in `network ls`.
        let short = if words.len() > 2 { words[1..].join(" ") } else { name.clone() };
        if !has(&short) {
            missing.push(format!("no page has `{name}`"));
        }
        let options = command.get_arguments().filter_map(|argument| argument.get_long());
        missing.extend(
            options
                .map(|option| format!("--{option}"))
                .filter(|option| !has(option))
                .map(|option| format!("no page has `{option}` of `{name}`")),
        );
    }
    missing
}

#[test]
fn missing_keys_and_options_are_found() {
    let keys = [("[[a]]", "name"), ("[[b]]", "name"), ("[c]", "vni"), ("", "rx")].map(|(a, b)| (a.into(), b.into()));
    let found = missing_keys("`[[a]]`, `[[b]]`\n\n| `name` | |\n| `rx` | |\n| `vni` | |\n", &keys);
    let tables = ["[[a]] `name`: 1 rows for the 2", "[[b]] `name`: 1 rows for the 2", "[c] `vni`: 1 rows for the 1"];
    assert!(found.len() == 3 && found.iter().zip(tables).all(|(line, table)| line.contains(table)), "{found:?}");

    let ls = clap::Command::new("ls").arg(clap::Arg::new("all").long("all"));
    let network = clap::Command::new("network").subcommand(ls.clone()).subcommand(clap::Command::new("rm"));
    let found =
        missing_commands(&["a network ls --all-of".into(), "a".into()], &clap::Command::new("a").subcommand(network));
    assert_eq!(found, ["no page has `--all` of `a network ls`", "no page has `a network rm`"]);
}
