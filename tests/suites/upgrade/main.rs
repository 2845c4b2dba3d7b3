//! Another daemon takes over a data path under load: the same version, one with another layout of the maps, and back. No
//! packet is lost, overtaken or sent twice, no stream is reset, and no counter goes back.
//!
//! `cargo xtask test` builds the other version from a copy of the sources: `xtask/src/other_build.rs`.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod changes;
mod interrupted;
mod newer_record;
mod setup;
