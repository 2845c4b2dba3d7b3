//! The project's chores: `cargo xtask setup`, `cargo xtask test`, `cargo xtask run`.

mod command;
mod ebpf_toolchain;
mod run;
mod setup;
mod test;

use clap::Parser;

/// Set up, test and run overlay.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    Setup(setup::Args),
    Test(test::Args),
    Run(run::Args),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Setup(args) => setup::task(&args),
        Task::Test(args) => test::task(&args),
        Task::Run(args) => run::task(&args),
    }
}
