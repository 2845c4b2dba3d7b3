//! Commands in pages, help texts and messages.

use std::mem;

use clap::{Command, builder::ValueParser, error::ErrorKind};

use crate::{
    assert_none, command_lines,
    pages::{Code, Page, page},
    prose::texts,
};

#[test]
fn commands_of_texts_parse() {
    let pages: Vec<_> = texts().into_iter().map(|(name, text)| page(&name, &text)).collect();
    let count: usize = pages.iter().flat_map(|page| &page.code).map(|code| commands(code).len()).sum();
    assert!(count > 100, "{count} commands");
    assert_none(&wrong_commands(&pages, &command_lines()));
}

/// A command line in a page.
struct Shown {
    line: usize,
    words: Vec<String>,
    /// Required arguments may be missing: a code span in a sentence may contain only the command's name, and `…`
    /// replaces arguments.
    is_partial: bool,
}

fn wrong_commands(pages: &[Page], known: &[Command]) -> Vec<String> {
    let mut wrong = Vec::new();
    for page in pages {
        for shown in page.code.iter().flat_map(commands) {
            let command = known.iter().find(|command| command.get_name() == shown.words[0]);
            if let Err(error) = parse(&shown, command.expect("a known command").clone()) {
                wrong.push(format!("{}:{}: {}: {error}", page.name, shown.line, shown.words.join(" ")));
            }
        }
    }
    wrong
}

fn parse(shown: &Shown, mut command: Command) -> Result<(), String> {
    let mut words = shown.words.clone();
    if words.get(1).is_some_and(|word| is_placeholder(word)) {
        return Ok(());
    }
    if words.iter().any(|word| is_placeholder(word)) {
        command = with_any_value(command);
    }
    let mut result = command.clone().try_get_matches_from(&words);
    if result.is_err() && shown.is_partial {
        // The omitted arguments may begin with the value of the last option.
        words.push("…".into());
        result = result.or_else(|error| with_any_value(command).try_get_matches_from(words).map_err(|_| error));
    }
    let Err(error) = result else { return Ok(()) };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(()),
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            if shown.is_partial =>
        {
            Ok(())
        }
        _ => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// The command with options that accept any text: placeholders are neither numbers nor addresses.
fn with_any_value(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let takes_any = arg.get_action().takes_values() && arg.get_possible_values().is_empty();
        if takes_any { arg.value_parser(ValueParser::os_string()) } else { arg }
    });
    command.mut_subcommands(with_any_value)
}

/// `NAME`, `<FILE>`, `URL,…`, `{name}`; also as the value in `--option=NAME`.
fn is_placeholder(word: &str) -> bool {
    let word = word.rsplit('=').next().unwrap_or(word);
    let is_name = |c: char| c.is_ascii_uppercase() || matches!(c, '_' | '-' | ',');
    word.contains('…')
        || word.starts_with(['<', '{'])
        || (word.chars().all(is_name) && word.contains(char::is_alphabetic))
}

/// The commands of `overlay` and `cargo xtask` in a code span or block.
fn commands(code: &Code) -> Vec<Shown> {
    match code.language.as_deref() {
        None => pieces(&code.text).into_iter().filter_map(|words| shown(words, code.line, true)).collect(),
        Some("" | "sh" | "console") => {
            let mut found = Vec::new();
            let mut lines = (code.line..).zip(code.text.lines());
            while let Some((line, text)) = lines.next() {
                let mut text = without_prompt(text).to_owned();
                while text.ends_with('\\') {
                    text.pop();
                    text += lines.next().map_or("", |(_, next)| next);
                }
                found.extend(pieces(&text).into_iter().filter_map(|words| shown(words, line, false)));
            }
            found
        }
        Some(_) => Vec::new(),
    }
}

/// The line without the prompt `$ `, `# ` or `node01# `.
fn without_prompt(line: &str) -> &str {
    match line.split_once(['$', '#']) {
        Some((host, rest)) if host.chars().all(char::is_alphanumeric) && rest.starts_with(' ') => rest.trim_start(),
        _ => line,
    }
}

fn shown(mut words: Vec<String>, line: usize, is_partial: bool) -> Option<Shown> {
    let is_assignment = |word: &String| word.split_once('=').is_some_and(|(name, _)| is_placeholder(name));
    words.drain(..words.iter().take_while(|word| is_assignment(word)).count());
    if words.first()? == "cargo" && words.get(1)? == "xtask" {
        words.splice(..2, ["cargo xtask".to_owned()]);
    } else if words[0] != "overlay" {
        return None;
    }
    let ends_open = words.last().is_some_and(|word| word == "…" || word == "...");
    words.truncate(words.len() - usize::from(ends_open));
    Some(Shown { line, words, is_partial: is_partial || ends_open })
}

/// The commands in a shell line, split into words, without quotes, redirections, comments, and brackets around optional
/// arguments.
fn pieces(line: &str) -> Vec<Vec<String>> {
    let (mut pieces, mut words, mut word) = (Vec::new(), Vec::new(), String::new());
    let mut quote = None;
    for c in line.chars().chain(['\n']) {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.push(c),
            ('\'' | '"', None) => quote = Some(c),
            ('#', None) if word.is_empty() => break,
            ('[' | ']', None) => {}
            (c, None) if c.is_whitespace() || "|;&()".contains(c) => {
                words.extend((!word.is_empty()).then(|| mem::take(&mut word)));
                if !c.is_whitespace() {
                    pieces.push(mem::take(&mut words));
                }
            }
            (c, None) => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    pieces.push(words);
    for words in &mut pieces {
        let is_redirection = |word: &String| word.trim_start_matches('2').starts_with('>') || word == "<";
        words.truncate(words.iter().position(is_redirection).unwrap_or(words.len()));
    }
    pieces
}

#[test]
fn wrong_commands_are_found() {
    let text = "`overlay run --nosuch`, `overlay network\n  nosuch`, `overlay run --rx up`, `cargo xtask nosuch`\n```\n\
                # overlay run \\\n    --config FILE --nosuch\n$ A=b overlay endpoint add | overlay run --deadline x\n\
                node01# diff <(overlay stats) x && overlay status --json > file  # overlay nosuch\noverlay run extra\n```\n";
    let wrong = wrong_commands(&[page("a.md", text)], &command_lines());
    let places: Vec<_> = wrong.iter().map(|line| line.split(": error").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "a.md:1: overlay run --nosuch",
            "a.md:1: overlay network nosuch",
            "a.md:2: overlay run --rx up",
            "a.md:2: cargo xtask nosuch",
            "a.md:4: overlay run --config FILE --nosuch",
            "a.md:6: overlay endpoint add",
            "a.md:6: overlay run --deadline x",
            "a.md:7: overlay stats",
            "a.md:8: overlay run extra",
        ]
    );
}

#[test]
fn right_commands_and_placeholders_parse() {
    let text = "`overlay run`, `overlay endpoint add`, `overlay COMMAND --json`, `overlay run --config …`, `overlay: error`\n\
                `overlay network create NAME [--vni N] [--strict]`, `cargo xtask bench --against BINARY`\n```\n\
                overlay run --store etcd --etcd URL,… --node=ADDRESS &\noverlay endpoint add …\n\
                $ cargo xtask setup --for build && cargo build\ncargo xtask test -E 'binary(a) | binary(b)'\n```\n\
                ```toml\n# overlay nosuch\n```\n";
    assert_none(&wrong_commands(&[page("a.md", text)], &command_lines()));
}
