//! Why the programs could not be loaded.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use overlay_common::maps::LAYOUT;

use super::TableIoError;
use crate::apply::ledger::PinError;

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel is too old.
    #[error("this kernel ({found:?}) is too old: {feature} needs Linux {needed}; boot a newer kernel")]
    Kernel {
        /// The running kernel.
        found: String,
        /// What is missing.
        feature: &'static str,
        /// Since when it exists.
        needed: &'static str,
    },
    /// The kernel refused the object.
    #[error("cannot load the BPF object: {0}")]
    Object(#[from] Box<EbpfError>),
    /// The verifier refused a program.
    #[error("cannot load the program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// The verifier's word.
        source: ProgramError,
    },
    /// A pinned map cannot be looked at.
    #[error("cannot read the map pinned at {path}: {source}")]
    Map {
        /// The pinned map.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
    /// Another version's maps, for who only looks.
    #[error(
        "the maps at {path} have layout {found} and this version of overlay reads {LAYOUT}; use the version that runs there, \
         or restart the daemon with this one"
    )]
    Layout {
        /// The pin root.
        path: PathBuf,
        /// Their layout.
        found: u32,
    },
    /// What an earlier daemon's map holds cannot be taken over.
    #[error("cannot copy the map pinned at {path}: {source}")]
    Copy {
        /// The pinned map.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The pin root.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The maps.
    #[error(transparent)]
    Table(#[from] TableIoError),
}
