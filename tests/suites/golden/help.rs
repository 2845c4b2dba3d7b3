//! `--help` of every command, and coverage of commands by golden files.

use std::process::{Command, Stdio};

use overlay_tests::lab::overlay_binary;

use crate::files::{Golden, files_below, is_blessing, root};

fn help(words: &[String]) -> String {
    let mut command = Command::new(overlay_binary().unwrap());
    command.args(words).arg("--help").env_remove("COLUMNS").stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Names in the command list of a help text, except clap's `help`.
fn subcommands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = list.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    names.filter(|name| name != "help").collect()
}

/// Every command and its help text; a command precedes its subcommands.
fn commands(words: &[String]) -> Vec<(Vec<String>, String)> {
    let text = help(words);
    let below: Vec<_> = subcommands(&text).into_iter().flat_map(|name| commands(&[words, &[name]].concat())).collect();
    [(words.to_vec(), text)].into_iter().chain(below).collect()
}

#[test]
fn help_of_every_command_matches_golden_files() {
    let mut golden = Golden::new("help");
    for (words, text) in commands(&[]) {
        let name = if words.is_empty() { "overlay".to_owned() } else { words.join("-") };
        golden.file(&format!("{name}.txt"), &text);
    }
    golden.finish();
}

#[test]
fn every_command_has_golden_files() {
    if is_blessing() {
        return;
    }
    let files: Vec<_> = ["hosts", "store"].into_iter().flat_map(|test| files_below(&root().join(test))).collect();
    let exists = |name: &str, extension: &str| {
        files.iter().any(|path| {
            let file = path.file_name().unwrap().to_string_lossy();
            file.split('.').next() == Some(name) && path.extension().is_some_and(|found| found == extension)
        })
    };
    let all = commands(&[]);
    assert!(all.len() > 15, "{all:?}");
    for (words, text) in all.iter().filter(|(_, text)| subcommands(text).is_empty()) {
        let name = words.join("-");
        assert!(exists(&name, "txt"), "no golden file records what `overlay {}` prints", words.join(" "));
        let has_json = text.contains("--json");
        assert!(!has_json || exists(&name, "json"), "no golden file records `overlay {} --json`", words.join(" "));
    }
}
