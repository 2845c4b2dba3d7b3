//! Seeds of random tests.
//!
//! The unit tests of overlay-user and overlay-common include this file.

use std::{
    env, fmt,
    hash::{BuildHasher as _, RandomState},
    thread,
};

/// Environment variable with the seed of an earlier run.
const VARIABLE: &str = "OVERLAY_SEED";

/// The seed of a random test: another one in each run, or `$OVERLAY_SEED`.
///
/// Its text is the command that repeats the test. Random tests have a budget of operations, not of time, so that the
/// command performs the same operations on any machine.
#[derive(Clone, Debug)]
pub struct Seed {
    number: u64,
    /// Full name of the test.
    test: String,
}

impl Seed {
    /// Draws the seed of the test that the calling thread runs, and prints the command that repeats the test.
    ///
    /// # Panics
    /// When `OVERLAY_SEED` is not a number.
    #[must_use]
    pub fn start() -> Self {
        let number = match env::var(VARIABLE) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{VARIABLE}: {text:?} is not a number; give one")),
            Err(_) => RandomState::new().hash_one(()),
        };
        // The test harness names the thread of a test after it.
        let seed = Self { number, test: thread::current().name().unwrap_or_default().to_owned() };
        eprintln!("repeat with {seed}");
        seed
    }

    /// The seed as a number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The seed of part `index` of a test that consists of parts. The command begins with this part.
    #[must_use]
    pub fn part(&self, index: u64) -> Self {
        Self { number: self.number.wrapping_add(index), test: self.test.clone() }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The runner sets its profile.
        let is_release = env::var("NEXTEST_PROFILE").is_ok_and(|profile| profile == "release-daemon");
        let option = if is_release { " --release-daemon" } else { "" };
        write!(f, "{VARIABLE}={} cargo xtask test{option} -E 'test(={})'", self.number, self.test)
    }
}

/// The configuration of a property test. Failures are not stored in files: they become named tests.
#[cfg(test)]
pub fn property() -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, RngSeed};
    Config { rng_seed: RngSeed::Fixed(Seed::start().number), failure_persistence: None, ..Config::default() }
}
