//! Takeover of a data path under load by the same version and by a version with another map layout, and back. No packet
//! is lost, reordered or duplicated, no stream is reset, and no counter decreases.
//!
//! `cargo xtask test` builds the other version from a copy of the sources: `xtask/src/other_build.rs`. The module
//! `previous` is run by `cargo xtask test --release-daemon`, which builds the previous commit:
//! `xtask/src/previous_build.rs`.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod changes;
mod interrupted;
mod newer_record;
mod previous;
mod setup;
