//! The namespaces that have numbers (`PortKey::site`), as the pin root records them.

use std::{collections::BTreeMap, path::PathBuf};

use super::{PinError, PinRoot};
use crate::host::netns::{Netns, NetnsError};

/// Kind of the marks `<number>:<inode>:<path>`.
pub(crate) const SITE: &str = "site";

/// A namespace: where it is found, and how it is known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordedNetns {
    pub(crate) inode: u64,
    pub(crate) path: PathBuf,
}

impl RecordedNetns {
    pub(crate) fn mark(&self, number: u16) -> String {
        format!("{number}:{}:{}", self.inode, self.path.display())
    }

    pub(crate) fn parse(mark: &str) -> Option<(u16, Self)> {
        let mut parts = mark.splitn(3, ':');
        let number = parts.next()?.parse().ok()?;
        Some((number, Self { inode: parts.next()?.parse().ok()?, path: parts.next()?.into() }))
    }

    /// The namespace, if it is still the same.
    pub(crate) fn open(&self) -> Result<Netns, NetnsError> {
        Netns::open_same(&self.path, self.inode)
    }
}

impl PinRoot {
    /// The namespaces by their numbers.
    pub(crate) fn places(&self) -> Result<BTreeMap<u16, RecordedNetns>, PinError> {
        Ok(self.marks(SITE)?.iter().filter_map(|mark| RecordedNetns::parse(mark)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_from_its_mark() {
        let place = RecordedNetns { inode: 4_026_532_180, path: "/var/run/docker/netns/1-ab:cd".into() };
        assert_eq!(RecordedNetns::parse(&place.mark(7)), Some((7, place)));
        for mark in ["", "7", "7:1", "x:1:/a", "70000:1:/a"] {
            assert_eq!(RecordedNetns::parse(mark), None, "{mark}");
        }
    }
}
