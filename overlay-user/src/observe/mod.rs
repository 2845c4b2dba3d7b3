//! What an operator can see: counters and tables, read from the pinned maps, with names from the kernel's links.
//!
//! Nothing here needs the daemon to run, except [`EventLog`], which is a part of it. A [`Snapshot`] is read once; every
//! report is made from it, and is plain data that serialises to the JSON of `--json`.

pub mod audit;
mod device;
mod event;
mod events;
mod network;
mod snapshot;

pub use device::device_count;
pub use event::EventRow;
pub use events::{EventLog, EventsReport};
pub use snapshot::{ObserveError, Snapshot};
