//! What `cargo xtask run` executes: see [`overlay_tests::demo`].

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_tests::demo::main()
}
