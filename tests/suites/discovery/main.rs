//! Discovery of sandboxes like Docker's, whose tables the tests change with iproute2.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod admission;
mod docker;
mod flood;
mod follow;
mod host;
mod node;
mod requests;
mod sandboxes;
mod unreadable;
