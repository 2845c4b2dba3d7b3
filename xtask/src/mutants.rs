//! `cargo xtask mutants`: checks that the tests notice faults in the code.

mod programs;

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::command::{cargo, line, root};
use crate::setup::{self, Purpose};

/// Check that the tests notice faults: mutants of the programs, or of the plan and the model.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    code: Code,
}

#[derive(clap::Subcommand)]
enum Code {
    /// Seeded faults in the programs; needs root
    Programs {
        /// Parts of the names of mutants [default: all]
        names: Vec<String>,
    },
    /// All faults that cargo-mutants makes in the plan and the model, with the options in .cargo/mutants.toml
    Plan {
        /// Arguments of `cargo mutants`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

pub(crate) fn task(args: &Args) -> Result<()> {
    setup::ensure_ready_for(Purpose::Mutants)?;
    match &args.code {
        Code::Programs { names } => programs::task(names),
        Code::Plan { args } => plan(args),
    }
}

/// The files of the plan and of the model.
const PLAN: [&str; 2] = ["overlay-user/src/plan/**/*.rs", "overlay-user/src/model/**/*.rs"];

fn plan(args: &[OsString]) -> Result<()> {
    let mut mutants = cargo();
    mutants.current_dir(root()).arg("mutants");
    // cargo-mutants adds the files of the option to those of its configuration, which therefore has none.
    let has_files = args.iter().filter_map(|arg| arg.to_str()).any(|arg| arg.starts_with("--file") || arg == "-f");
    if !has_files {
        mutants.args(PLAN.map(|files| format!("--file={files}")));
    }
    mutants.args(args);
    // Each mutant gets the same cases, and failing ones are not shrunk.
    mutants.env("OVERLAY_SEED", "1").env("PROPTEST_MAX_SHRINK_ITERS", "0");
    Err(mutants.exec()).with_context(|| format!("cannot start {}", line(&mutants)))
}
