//! `cargo xtask first-run`: the durations of a newcomer's first two commands.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::command::{check, root};

/// Longest duration of `cargo xtask run --once`, including setup and build.
const DEMO: Duration = Duration::from_secs(5 * 60);

/// Longest duration of `cargo xtask test` after the demo.
const TEST: Duration = Duration::from_secs(12 * 60);

/// rustup's programs by the names that select them.
const PROXIES: [&str; 5] = ["cargo", "rustc", "rustdoc", "rustfmt", "rustup"];

/// Measure a first run: `cargo xtask run --once`, then `cargo xtask test`.
///
/// Both run in a fresh clone of the last commit, with an empty cargo home and an empty target directory. Installed Debian
/// packages and rustup's toolchains are used. Needs root, and about 6 GB below the temporary directory.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory for clone, cargo home and target; must not exist. It is removed at the end [default: in the
    /// temporary directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    let directory = args.directory.clone().unwrap_or_else(|| env::temp_dir().join("overlay-first-run"));
    fs::create_dir(&directory)
        .with_context(|| format!("cannot create {}; remove it, or set another --directory", directory.display()))?;
    let measured = measure(&directory);
    let removed = fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()));
    for (command, duration, limit) in measured? {
        println!("{command}: {} s (aim: {} s)", duration.as_secs(), limit.as_secs());
    }
    removed
}

fn measure(directory: &Path) -> Result<Vec<(&'static str, Duration, Duration)>> {
    let clone = directory.join("overlay");
    check(Command::new("git").args(["clone", "--quiet", "--no-hardlinks"]).args([root(), &clone]))?;
    let (home, proxies) = (directory.join("cargo"), directory.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let rustup = env::split_paths(&path).map(|part| part.join("rustup")).find(|program| program.is_file());
    let rustup = rustup.context("rustup is not in PATH; install it")?;
    fs::create_dir_all(&proxies)?;
    for name in PROXIES {
        symlink(&rustup, proxies.join(name))?;
    }
    // Without the programs in the user's cargo home.
    let user = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let rest = env::split_paths(&path).filter(|part| !user.as_ref().is_some_and(|user| part.starts_with(user)));
    let path = env::join_paths([home.join("bin"), proxies].into_iter().chain(rest))?;

    let commands: [(&str, &[&str], Duration); 2] =
        [("cargo xtask run --once", &["run", "--once"], DEMO), ("cargo xtask test", &["test"], TEST)];
    let mut measured = Vec::new();
    for (name, arguments, limit) in commands {
        let start = Instant::now();
        run(&clone, &home, &path, arguments)?;
        measured.push((name, start.elapsed(), limit));
        eprintln!("first-run: {name}: {} s", start.elapsed().as_secs());
    }
    Ok(measured)
}

fn run(clone: &Path, home: &Path, path: &OsString, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("cargo");
    command.arg("xtask").args(arguments).current_dir(clone).stdin(Stdio::null());
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO") || name == "RUSTUP_TOOLCHAIN") {
            command.env_remove(name);
        }
    }
    check(command.env("CARGO_HOME", home).env("PATH", path))
}
