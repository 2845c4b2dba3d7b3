//! Errors of loading the programs.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use overlay_common::maps::LAYOUT;

use super::TableIoError;
use crate::apply::ledger::PinError;

/// The programs cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel is too old.
    #[error("this kernel ({found:?}) is too old: {feature} needs Linux {needed}; boot a newer kernel")]
    Kernel {
        /// The running kernel.
        found: String,
        /// The missing feature.
        feature: &'static str,
        /// The first version with it.
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
        /// The verifier's error.
        source: ProgramError,
    },
    /// A pinned map cannot be read.
    #[error("cannot read the map pinned at {path}: {source}")]
    Map {
        /// The pinned map.
        path: PathBuf,
        /// The error.
        source: MapError,
    },
    /// The maps have the layout of another version, and the command cannot migrate them.
    #[error(
        "the maps at {path} have layout {found} and this version of overlay reads {LAYOUT}; use the version of the \
        daemon, or restart the daemon with this version"
    )]
    Layout {
        /// The pin root.
        path: PathBuf,
        /// Their layout.
        found: u32,
    },
    /// An earlier daemon's map cannot be copied.
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
