//! The project's tasks: `cargo xtask setup`, `build`, `test`, `run`, `bench`, `soak`, `fuzz`, `mutants`, `vm` and `first-run`.

mod bench;
mod build;
mod command;
mod docker;
mod ebpf_toolchain;
mod edited_copy;
mod first_run;
mod fuzz;
mod mutants;
mod other_build;
mod previous_build;
mod run;
mod setup;
mod soak;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};

/// Set up, test, run and measure overlay.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    Setup(setup::Args),
    Build(build::Args),
    Test(test::Args),
    Run(run::Args),
    Bench(bench::Args),
    Soak(soak::Args),
    Fuzz(fuzz::Args),
    Mutants(mutants::Args),
    Vm(vm::Args),
    FirstRun(first_run::Args),
}

/// The command line, for the tests of the documentation.
#[must_use]
pub fn command() -> clap::Command {
    Task::command()
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Setup(args) => setup::task(&args),
        Task::Build(args) => build::task(&args),
        Task::Test(args) => test::task(&args),
        Task::Run(args) => run::task(&args),
        Task::Bench(args) => bench::task(&args),
        Task::Soak(args) => soak::task(&args),
        Task::Fuzz(args) => fuzz::task(&args),
        Task::Mutants(args) => mutants::task(&args),
        Task::Vm(args) => vm::task(&args),
        Task::FirstRun(args) => first_run::task(&args),
    };
    // An error returned from main would print a backtrace with RUST_BACKTRACE, which hides the remedy.
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
