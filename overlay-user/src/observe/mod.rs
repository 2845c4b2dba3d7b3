//! What an operator can see: counters and tables, read from the pinned maps, with names from the kernel's links.
//!
//! Nothing here needs the daemon to run, except [`EventLog`], which is a part of it. A [`Snapshot`] is read once; every
//! report is made from it, and is plain data that serialises to the JSON of `--json`.

pub(crate) mod audit;
mod device;
mod event;
mod events;
mod network;
mod snapshot;

pub(crate) use device::device_count;
pub(crate) use event::EventRow;
pub(crate) use events::{EventLog, EventsReport};
pub(crate) use snapshot::ObserveError;
pub use snapshot::Snapshot;
