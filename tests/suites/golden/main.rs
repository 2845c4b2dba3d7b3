//! Golden files: output, pins, log and map contents of a fixed scenario, compared byte by byte.
//!
//! | test | golden files |
//! |---|---|
//! | `help` | `--help` of every command; every command has golden files |
//! | `refused` | every command when nothing is loaded, and invalid configurations |
//! | `hosts` | two hosts: managed, strict, discovered and refused networks, from the start to `overlay down` |
//! | `store` | one host with an embedded store: networks, endpoints and nodes |
//!
//! `docs/testing.md` describes how to rewrite the files.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod files;
mod help;
mod hosts;
mod kernel;
mod normaliser;
mod recorder;
mod refused;
mod store;
mod testbed;
