//! The program behind `cargo xtask bench`: see [`overlay_tests::bench`].

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_tests::bench::main()
}
