//! Networks and endpoints that are made with the command line: the embedded store, the socket, what users see.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod address;
mod cluster;
mod endpoints;
mod invalid_requests;
mod output;
mod ready;
mod reports;
mod restart;
mod revisions;
mod security;
mod setup;
mod socket;
