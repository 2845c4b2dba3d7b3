//! `cargo xtask build`: the release binary for installation.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{Profile, build, check};
use crate::setup::{self, Purpose};

/// Build the release binary of overlay, with the debug symbols in a file of their own.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn task(_: &Args) -> Result<()> {
    setup::ensure_ready_for(Purpose::Build)?;
    let [built] = build(Profile::ReleaseWithSymbols, [("overlay-user", "overlay")])?;
    // cargo links the complete binary to this path again at each build.
    let (symbols, stripped) = (built.with_extension("debug"), built.with_extension("stripped"));
    let directory = built.parent().context("cargo built no file")?;
    check(Command::new("objcopy").arg("--only-keep-debug").args([&built, &symbols]))?;
    let mut strip = Command::new("objcopy");
    strip.args(["--strip-all", "--add-gnu-debuglink=overlay.debug"]).current_dir(directory);
    check(strip.args([&built, &stripped]))?;
    fs::rename(&stripped, &built).with_context(|| format!("cannot replace {}", built.display()))?;
    for file in [&built, &symbols] {
        println!("{} ({} MB)", file.display(), fs::metadata(file)?.len() / 1_000_000);
    }
    Ok(())
}
