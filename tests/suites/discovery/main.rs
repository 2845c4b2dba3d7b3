//! Discovery against the kernel: sandboxes as Docker makes them, their tables changed with iproute2, and what
//! discovery says of them.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod admission;
mod docker;
mod follow;
mod node;
mod requests;
mod sandboxes;
