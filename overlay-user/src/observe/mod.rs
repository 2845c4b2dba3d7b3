//! Reports of the data path: counters and tables from the pinned maps, with names from the kernel's links.
//!
//! Only [`EventLog`], a part of the daemon, needs a running daemon. A [`Snapshot`] is read once; reports are derived
//! from it, and are plain data that serialises to the JSON of `--json`.

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
