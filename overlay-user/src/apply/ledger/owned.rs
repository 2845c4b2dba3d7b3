//! Entries of the ownership record: `<kind>:<name>`, the name of an empty directory.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use overlay_common::{Vni, maps::PortKey};

use super::hook::{self, AttachPoint};
use crate::{
    kernel::Link,
    sys::netns::{Netns, NetnsError},
};

/// An object outside the pin root that overlay created and must remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owned {
    /// The device with this name in the daemon's network namespace.
    Link(String),
    /// The membership of the adopted interface with this name in an owned bridge.
    Port(String),
    /// The cross-netns veth (shim) of this network.
    Shim(Vni),
    /// The netns id of another network namespace, as in [`PortKey::netns_id`].
    Netns(u16, RecordedNetns),
    /// The clsact qdisc of this interface.
    Clsact(PortKey),
    /// The filter of a clsact qdisc that runs a program.
    Filter(AttachPoint),
    /// The daemon's API socket.
    Socket(PathBuf),
}

impl Owned {
    /// A device that overlay created.
    pub(crate) fn link(link: &Link) -> Self {
        Self::Link(link.name.clone())
    }

    /// Name of the directory that records it.
    pub(crate) fn file_name(&self) -> String {
        let (kind, name) = match self {
            Self::Link(name) => ("link", name.clone()),
            Self::Port(name) => ("port", name.clone()),
            Self::Shim(vni) => ("shim", vni.to_string()),
            Self::Netns(number, netns) => ("netns_id", format!("{number}:{}:{}", netns.inode, netns.path.display())),
            Self::Clsact(key) => ("clsact", hook::device_name(*key)),
            Self::Filter(hook) => ("filter", hook.name()),
            Self::Socket(path) => ("socket", path.display().to_string()),
        };
        file_name(kind, &name)
    }

    /// Reads [`Self::file_name`]; `None`: it is a [`Fact`], or unknown.
    pub(crate) fn parse(file_name: &str) -> Option<Self> {
        let (kind, name) = file_name.split_once(':')?;
        let name = decoded(name);
        match kind {
            "link" => Some(Self::Link(name)),
            "port" => Some(Self::Port(name)),
            "shim" => Some(Self::Shim(Vni::new(name.parse().ok()?).ok()?)),
            "netns_id" => {
                let mut parts = name.splitn(3, ':');
                let (number, inode) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
                Some(Self::Netns(number, RecordedNetns { inode, path: parts.next()?.into() }))
            }
            "clsact" => hook::parse_device(&name).map(Self::Clsact),
            "filter" => AttachPoint::parse(&name).map(Self::Filter),
            "socket" => Some(Self::Socket(Path::new(&name).into())),
            _ => None,
        }
    }
}

/// A network namespace: its path, and the inode that identifies it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordedNetns {
    pub(crate) inode: u64,
    pub(crate) path: PathBuf,
}

impl RecordedNetns {
    /// Opens the namespace if the path still leads to it.
    pub(crate) fn open(&self) -> Result<Netns, NetnsError> {
        Netns::open_same(&self.path, self.inode)
    }
}

/// A property in the record, by its kind. Each has at most one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fact(&'static str);

impl Fact {
    /// Process id of the daemon that holds the lock.
    pub(crate) const PID: Self = Self("pid");
    /// `ready`: the daemon has started.
    pub(crate) const STATE: Self = Self("state");
    /// Inode of the pin root's network namespace.
    pub(crate) const NETNS: Self = Self("netns");
    /// Version of the record itself.
    pub(crate) const RECORD: Self = Self("record");
    /// [`overlay_common::maps::LAYOUT`] of the maps in the pin root.
    pub(crate) const LAYOUT: Self = Self("layout");
    /// Layout of the maps in `next/`, which all programs use.
    pub(crate) const SWITCH: Self = Self("switch");

    /// Name of the directory that records a value.
    pub(crate) fn file_name(self, value: impl Display) -> String {
        file_name(self.0, &value.to_string())
    }

    /// Reads [`Self::file_name`].
    pub(crate) fn value(self, file_name: &str) -> Option<String> {
        Some(decoded(file_name.strip_prefix(self.0)?.strip_prefix(':')?))
    }
}

/// Escapes dots, which the BPF filesystem reserves and interface names may have, and slashes.
fn file_name(kind: &str, name: &str) -> String {
    format!("{kind}:{}", name.replace('%', "%25").replace('.', "%2e").replace('/', "%2f"))
}

/// Reverses the escapes of [`file_name`].
fn decoded(name: &str) -> String {
    name.replace("%2f", "/").replace("%2e", ".").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names written by earlier builds, and their objects.
    fn recorded() -> [(&'static str, Owned); 11] {
        let inside = PortKey { netns_id: 3, ifindex: 7 };
        let netns = RecordedNetns { inode: 4_026_532_180, path: "/var/run/docker/netns/1-ab:cd.e".into() };
        [
            ("link:ovlbr4097", Owned::Link("ovlbr4097".to_owned())),
            ("port:eth0%2e100", Owned::Port("eth0.100".to_owned())),
            ("port:a%252eb%25", Owned::Port("a%2eb%".to_owned())),
            ("shim:4097", Owned::Shim(Vni::new(4097).unwrap())),
            ("netns_id:7:4026532180:%2fvar%2frun%2fdocker%2fnetns%2f1-ab:cd%2ee", Owned::Netns(7, netns)),
            ("clsact:5", Owned::Clsact(PortKey::host(5))),
            ("clsact:3-7", Owned::Clsact(inside)),
            ("filter:nic-2", Owned::Filter(AttachPoint::Nic(2))),
            ("filter:port-3-7", Owned::Filter(AttachPoint::Port(inside))),
            ("filter:shimin-3-7", Owned::Filter(AttachPoint::ShimIn(inside))),
            ("socket:%2frun%2foverlay%2foverlay%2esock", Owned::Socket("/run/overlay/overlay.sock".into())),
        ]
    }

    #[test]
    fn owned_objects_are_read_back_from_their_names() {
        for (name, owned) in recorded() {
            assert_eq!(owned.file_name(), name);
            assert_eq!(Owned::parse(name), Some(owned));
        }
    }

    #[test]
    fn unknown_name_is_not_an_owned_object() {
        let netns_id = ["netns_id:", "netns_id:7", "netns_id:7:1", "netns_id:x:1:%2fa", "netns_id:70000:1:%2fa"];
        let others = ["", "link", "shim:x", "shim:16777216", "clsact:x", "filter:port", "pid:7", "state:ready", "x:y"];
        for name in netns_id.into_iter().chain(others) {
            assert_eq!(Owned::parse(name), None, "{name}");
        }
    }

    #[test]
    fn facts_are_read_back_from_their_names() {
        for (name, fact, value) in [
            ("pid:3459", Fact::PID, "3459"),
            ("state:ready", Fact::STATE, "ready"),
            ("netns:4026532180", Fact::NETNS, "4026532180"),
            ("record:1", Fact::RECORD, "1"),
            ("layout:1", Fact::LAYOUT, "1"),
            ("switch:2", Fact::SWITCH, "2"),
        ] {
            assert_eq!((fact.file_name(value), fact.value(name).as_deref()), (name.to_owned(), Some(value)));
        }
        assert_eq!(Fact::PID.value("pids:1"), None);
    }
}
