//! Maps of a running daemon, written by a test.

use std::{ops::Deref, path::Path};

use overlay_user::testing::{
    apply::{Ledger, Maps, TableIoError},
    plan::{Changes, Outcome, Tables},
};

/// Maps that are written without the lock of the pin root and without the daemon, like `bpftool map update`.
pub struct WritableMaps {
    maps: Maps,
    ledger: Ledger,
}

impl WritableMaps {
    /// Opens the maps of a pin root.
    ///
    /// # Errors
    /// [`TableIoError::Open`].
    pub fn open(pin_root: &Path) -> Result<Self, TableIoError> {
        Ok(Self { maps: Maps::open(pin_root)?, ledger: Ledger::without_lock(pin_root) })
    }

    /// [`Maps::write`].
    ///
    /// # Errors
    /// The first failure.
    pub fn write(&mut self, changes: &Changes) -> Result<(), TableIoError> {
        self.maps.write(&self.ledger, changes)
    }

    /// [`Maps::apply`], for devices in the network namespace of the calling thread.
    pub fn apply(&mut self, changes: &Changes, tables: &mut Tables) -> Outcome<TableIoError> {
        self.maps.apply(&self.ledger, changes, tables, &|_| None)
    }
}

impl Deref for WritableMaps {
    type Target = Maps;

    fn deref(&self) -> &Maps {
        &self.maps
    }
}
