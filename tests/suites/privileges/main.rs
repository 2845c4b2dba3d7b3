//! The daemon as an unprivileged user with capabilities, access to its socket, and its systemd unit.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod capabilities;
mod notify;
mod secrets;
mod setup;
mod socket;
mod unit;
