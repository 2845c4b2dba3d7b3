//! Managed networks by commands: the embedded store, etcd, the socket, and the output.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod address;
mod cluster;
mod endpoints;
mod fault_points;
mod firewall;
mod invalid_requests;
mod output;
mod ready;
mod reports;
mod restart;
mod revisions;
mod security;
mod setup;
mod socket;
