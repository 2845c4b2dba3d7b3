//! Checks of the documentation and of user-visible texts: phrases, links, commands, reference entries.
//!
//! | module | check |
//! |---|---|
//! | `phrases` | no text has a phrase that `tests/phrases.txt` replaces |
//! | `links` | every relative link and anchor of a page resolves |
//! | `commands` | every `overlay` and `cargo xtask` command in a text parses |
//! | `maps`, `reasons`, `options` | the reference pages have every map, field, reason, configuration key, command and option |
//! | `failure` | every test that `docs/failure.md` names exists |
//! | `counting` | no golden file and no sample in a page has a plural after "1" |
//!
//! Each check is a function of the texts. A second test verifies that it finds an error.

mod commands;
mod counting;
mod failure;
mod links;
mod maps;
mod options;
mod pages;
mod phrases;
mod prose;
mod reasons;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Root directory of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a directory of the repository, as paths from its root, in a fixed order.
fn files_below(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    let directory = directory.as_ref();
    let entries =
        fs::read_dir(root().join(directory)).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.expect("a directory that can be listed").file_name()).collect();
    names.sort();
    let paths = names.into_iter().map(|name| directory.join(name));
    paths.flat_map(|path| if root().join(&path).is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// The command lines of `overlay` and of `cargo xtask`.
fn command_lines() -> [clap::Command; 2] {
    [overlay_user::testing::cli::command(), xtask::command()]
}

/// Every command of a command line with its words, a command before its subcommands.
fn commands_of(command: &clap::Command) -> Vec<(Vec<String>, clap::Command)> {
    let name = command.get_name().to_owned();
    let below = command.get_subcommands().flat_map(commands_of);
    let below = below.map(|(words, command)| ([vec![name.clone()], words].concat(), command));
    [(vec![name.clone()], command.clone())].into_iter().chain(below).collect()
}

/// Fails with all errors at once.
#[track_caller]
fn assert_none(errors: &[String]) {
    assert!(errors.is_empty(), "{} errors\n{}", errors.len(), errors.join("\n"));
}
