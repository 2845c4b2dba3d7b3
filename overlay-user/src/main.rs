//! The `overlay` command.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "println! and eprintln! panic where the output cannot be written; use cli::output"
)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
