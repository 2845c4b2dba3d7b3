//! The command line and invalid input, with the real binary on a host of the lab. Needs root.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod configuration;
mod help;
mod host;
mod json;
mod pin_root;
mod privileges;
mod reload;
mod setup;
mod status;
