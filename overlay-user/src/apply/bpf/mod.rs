//! The BPF side: load, attach, pin, and the typed tables over BPF maps. Changes require the
//! [`Ledger`](crate::apply::ledger::Ledger); reads require the [`PinRoot`](crate::apply::ledger::PinRoot).
//!
//! All state that outlives the daemon is in one directory of the BPF filesystem, the pin root:
//!
//! ```text
//! /sys/fs/bpf/overlay/
//!   OVL_FDB …            the maps, for `bpftool map dump pinned`
//!   links/port-<ifindex> attachments of ovl_port_in
//!   links/nic-<ifindex>  attachment of ovl_nic_in; links/xdp-<ifindex>: of ovl_nic_xdp
//!   links/port-<netns id>-<ifindex>, links/shimin-<netns id>-<ifindex>, links/shimout-<ifindex>
//!                        attachments for ports in another network namespace, by the daemon's <netns id>
//!   record/…             the ownership record: one empty directory for each object that `overlay down` removes
//!   next/OVL_FDB …       maps of another layout, during a migration
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
pub(crate) use attach::{Displaced, detach, displaced, is_free, other_at_ingress};
pub use deadline::Deadline;
pub(crate) use error::LoadError;
pub(crate) use events::{Events, Sampling};
pub(crate) use inspect::Running;
pub use load::Datapath;
pub(crate) use migrate::empty;
pub use program::TcFlavour;
pub use tables::{Counters, Maps, TableIoError};

/// The compiled programs: an ELF object for the BPF target. With the feature `testing`, those in the file that
/// `OVERLAY_PROGRAMS` names; a file that cannot be read has no programs.
pub fn object() -> &'static [u8] {
    #[cfg(feature = "testing")]
    {
        use std::{env, fs, sync::LazyLock};
        static OTHER: LazyLock<Option<Vec<u8>>> =
            LazyLock::new(|| env::var_os("OVERLAY_PROGRAMS").map(|file| fs::read(file).unwrap_or_default()));
        if let Some(other) = &*OTHER {
            return other;
        }
    }
    static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/overlay-ebpf"));
    OBJECT
}
