//! The daemon as an ordinary user with the capabilities that it needs, who may use its socket, and its systemd unit.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod capabilities;
mod notify;
mod secrets;
mod setup;
mod socket;
mod unit;
