//! The BPF side: load, attach, pin, and the typed tables over BPF maps. All that changes something needs the
//! [`Ledger`](crate::apply::ledger::Ledger); to read, the [`PinRoot`](crate::apply::ledger::PinRoot) is enough.
//!
//! Everything that outlives the daemon is below one directory of the BPF filesystem, the pin root:
//!
//! ```text
//! /sys/fs/bpf/overlay/
//!   OVL_FDB …            the maps, for `bpftool map dump pinned`
//!   links/port-<ifindex> attachments of ovl_port_in
//!   links/nic-<ifindex>  attachment of ovl_nic_in; links/xdp-<ifindex>: of ovl_nic_xdp
//!   links/port-<netns id>-<ifindex>, links/shimin-<netns id>-<ifindex>, links/shimout-<ifindex>
//!                        attachments for ports in another network namespace, which the daemon gives the number <netns id>
//!   record/…             the record: one empty directory for each object outside that `overlay down` has to remove
//!   next/OVL_FDB …       maps of another layout, while they are taking the place of those above
//! ```

mod attach;
mod deadline;
mod error;
mod events;
mod inspect;
mod layout;
mod load;
mod migrate;
mod program;
mod tables;

pub(crate) use attach::AttachError;
pub(crate) use attach::{detach, is_free};
pub use deadline::Deadline;
pub(crate) use error::LoadError;
pub(crate) use events::{Events, Sampling};
pub(crate) use inspect::Running;
pub use load::Datapath;
pub(crate) use migrate::empty;
pub use program::TcFlavour;
pub use tables::{Counters, Maps, TableIoError};

/// The programs, compiled: an ELF object for the BPF target.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/overlay-ebpf"));
