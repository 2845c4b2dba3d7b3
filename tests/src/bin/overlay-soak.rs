//! The program behind `cargo xtask soak`: see [`overlay_tests::soak`].

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_tests::soak::main()
}
