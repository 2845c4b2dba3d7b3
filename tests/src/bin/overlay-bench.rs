//! What `cargo xtask bench` executes: see [`overlay_tests::bench`].

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_tests::bench::main()
}
