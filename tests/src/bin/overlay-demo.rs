//! The program behind `cargo xtask run`: see [`overlay_tests::demo`].

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_tests::demo::main()
}
