//! Golden files: what a fixed scenario prints, pins, logs and writes into its maps, compared byte by byte.
//!
//! | test | golden files |
//! |---|---|
//! | `help` | `--help` of every command; every command has golden files |
//! | `refused` | every command where nothing is loaded, and wrong configurations |
//! | `hosts` | two hosts: managed, strict, discovered and refused networks, from the start to `overlay down` |
//! | `store` | one host with an embedded store: networks, endpoints and nodes |
//!
//! `docs/testing.md` says how the files are rewritten.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod files;
mod help;
mod hosts;
mod kernel;
mod normaliser;
mod recorder;
mod refused;
mod store;
mod world;
