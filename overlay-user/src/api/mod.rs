//! The daemon's API: requests of the command line over a Unix socket.
//!
//! A connection has one request, a line of JSON with a [`types::Request`], and one answer, a line of JSON. Lines have a
//! maximum length and every step has a timeout, so that a broken or slow client occupies one descriptor for some
//! seconds only.
//!
//! | file | contents |
//! |---|---|
//! | `wire` | lines of JSON and their limits |
//! | `server` | [`Server`]: the daemon's side |
//! | `answer` | [`Answers`]: answers from the store and the daemon's state |
//! | `client` | [`call`]: the command line's side |
//! | `types` | requests and reports, also those of commands that read the pinned maps |

mod answer;
mod client;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
mod server;
pub(crate) mod types;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use answer::{About, Answers, Control};
pub(crate) use client::{CallError, call, call_within};
pub(crate) use server::{Handler, Server};
