//! The daemon's local socket: what the command line asks a running daemon, and how.
//!
//! One connection, one question: a line of JSON with a [`types::Request`], a line of JSON with the answer, end. Lines have a
//! largest length and every step has a time limit, so a client that is broken, slow or gone costs the daemon one
//! descriptor for some seconds and nothing else.
//!
//! | file | what it knows |
//! |---|---|
//! | `wire` | lines and their limits |
//! | `server` | [`Server`]: the daemon's side |
//! | `answer` | [`Answers`]: the answers, from the store and the daemon's state |
//! | `client` | [`call`]: the command line's side |
//! | `types` | what can be asked and what is reported, by the daemon and by the commands that read the pinned maps |

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
