//! `cargo xtask fuzz`: fuzzes the programs and the parsers of the daemon.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::command::{cargo, check, root, target_directory};
use crate::setup::{self, Purpose};

/// Directory of the fuzzer and its seeds.
const DIRECTORY: &str = "tests/fuzz";

/// Fuzz the programs and the parsers of the daemon. `frames` needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Targets [default: all, one after the other]
    #[arg(value_enum)]
    targets: Vec<Target>,
    /// Duration of each target in seconds
    #[arg(long, value_name = "N", default_value_t = 30)]
    seconds: u64,
    /// Number of inputs of each target, instead of a duration
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    runs: Option<u64>,
}

/// A fuzzing target.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The programs with frames and tables, against the reference model.
    Frames,
    /// Configuration files.
    Configuration,
    /// The store's keys and values.
    Store,
    /// The kernel's netlink messages.
    Netlink,
    /// Docker's answers.
    Docker,
    /// Requests and answers of the daemon's socket.
    Socket,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    setup::ensure_ready_for(Purpose::Fuzz)?;
    let targets = if args.targets.is_empty() { Target::value_variants() } else { &args.targets };
    targets.iter().try_for_each(|target| match target {
        Target::Frames => frames(args),
        parser => parse(&parser.name(), args),
    })
}

impl Target {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Runs the tests that `cargo xtask test` runs for 100,000 frames, for longer.
fn frames(args: &Args) -> Result<()> {
    let mut test = cargo();
    test.args(["test", "--package", "overlay-tests", "--test", "programs", "random::", "--", "--nocapture"]);
    match args.runs {
        Some(runs) => test.env("OVERLAY_FUZZ_FRAMES", runs.to_string()),
        None => test.env("OVERLAY_FUZZ_SECONDS", args.seconds.to_string()),
    };
    check(&mut test).context(
        "frames: a program differs from the reference model; the command that repeats it and the frame are above",
    )
}

/// Runs cargo-fuzz in the workspace's root.
fn parse(target: &str, args: &Args) -> Result<()> {
    let build = target_directory()?.join("fuzz");
    // The corpus is kept for the next run; the fuzzer prints the paths of its findings.
    let corpus = build.join("corpus").join(target);
    let findings = build.join("findings").join(target);
    for directory in [&corpus, &findings] {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    // The project's parsers have no unsafe code, so a sanitizer finds no more than panics do, at half the speed.
    let mut fuzz = Command::new(setup::CARGO_FUZZ);
    fuzz.current_dir(root()).args(["run", "--fuzz-dir", DIRECTORY, "--sanitizer", "none", "--codegen-units", "16"]);
    fuzz.arg("--target-dir").arg(&build);
    fuzz.arg(target).arg(corpus).arg(Path::new(DIRECTORY).join("seeds").join(target)).arg("--");
    match args.runs {
        Some(runs) => fuzz.arg(format!("-runs={runs}")),
        None => fuzz.arg(format!("-max_total_time={}", args.seconds)),
    };
    fuzz.arg(format!("-artifact_prefix={}/", findings.display())).args(["-timeout=10", "-print_final_stats=1"]);
    // The compiler's options for instrumentation are unstable.
    fuzz.env("RUSTC_BOOTSTRAP", "1");
    check(&mut fuzz).with_context(|| format!("{target}: an input fails; it is in {}", findings.display()))
}
