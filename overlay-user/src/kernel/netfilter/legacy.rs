//! The tables of iptables-legacy, ip6tables-legacy and ebtables-legacy, read through socket options.

use std::{collections::BTreeSet, fs, io, os::fd::AsRawFd, path::Path};

use socket2::{Domain, Socket, Type};

#[cfg(any(test, feature = "testing"))]
use super::chains::ChainTable;
use super::{Hooked, NetfilterHook, NetfilterTable, Rule};
use crate::sys::netlink::attribute::{ne16, ne32, text};

/// `XT_TABLE_MAXNAMELEN`, also `EBT_TABLE_MAXNAMELEN`.
const NAME_LEN: usize = 32;
/// `NF_INET_NUMHOOKS`.
pub(super) const HOOKS: usize = 5;
/// `XT_EXTENSION_MAXNAMELEN` of `struct xt_entry_match`: `u16 size; char name[29]; u8 revision`.
pub(super) const MATCH_HEADER: usize = 32;

/// The layout of one IP version's tables.
pub(super) struct Version {
    /// 4 or 6.
    pub(super) number: u8,
    pub(super) command: &'static str,
    /// The module. With it, a file below `/proc/net` has the names of existing tables.
    module: &'static str,
    /// The first part of the names of the tables' modules.
    table: &'static str,
    domain: Domain,
    /// Level of the options.
    level: libc::c_int,
    /// `IPT_SO_GET_INFO`, `IP6T_SO_GET_INFO`; the entries' option is the next number.
    get_info: libc::c_int,
    /// Length of `struct ipt_ip`, `struct ip6t_ip6`.
    ip_len: usize,
    /// Offset of `iniface` in it.
    pub(super) interfaces: usize,
    /// Offset of `flags` in it, followed by `invflags`.
    pub(super) flags: usize,
    /// `IPT_F_GOTO`, `IP6T_F_GOTO` in the flags.
    pub(super) goto: u8,
    /// Length of `struct ipt_entry`, `struct ip6t_entry`.
    entry_len: usize,
}

const VERSIONS: [Version; 2] = [
    Version {
        number: 4,
        command: "iptables-legacy",
        module: "ip_tables",
        table: "iptable",
        domain: Domain::IPV4,
        level: libc::IPPROTO_IP,
        get_info: 64,
        ip_len: 84,
        interfaces: 16,
        flags: 82,
        goto: 2,
        entry_len: 112,
    },
    Version {
        number: 6,
        command: "ip6tables-legacy",
        module: "ip6_tables",
        table: "ip6table",
        domain: Domain::IPV6,
        level: libc::IPPROTO_IPV6,
        get_info: 64,
        ip_len: 136,
        interfaces: 64,
        flags: 131,
        goto: 4,
        entry_len: 168,
    },
];

pub(crate) fn tables() -> io::Result<Vec<NetfilterTable>> {
    let mut tables = Vec::new();
    for_each(|version, name, info, entries| tables.push(version.read(name, info, entries)))?;
    Ok(tables)
}

/// Whether there can be a table of iptables-legacy or ip6tables-legacy.
pub(super) fn has_tables() -> bool {
    VERSIONS.iter().any(|version| version.names().map_or(true, |names| !names.is_empty()))
}

/// Calls `read` for each table of iptables and ip6tables: its name, its `struct ipt_getinfo`, and its entries.
pub(super) fn for_each(mut read: impl FnMut(&Version, &str, &[u8], &[u8])) -> io::Result<()> {
    for version in &VERSIONS {
        let names = version.names()?;
        if names.is_empty() {
            continue;
        }
        let socket = socket(version.domain)?;
        for name in names.lines() {
            let (info, entries) = version.get(&socket, name)?;
            read(version, name, &info, &entries);
        }
    }
    Ok(())
}

impl Version {
    /// The names of the tables, one per line.
    fn names(&self) -> io::Result<String> {
        match fs::read_to_string(format!("/proc/thread-self/net/{}_names", self.module)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            // The file is for root and the group root (`xt_proto_init` in net/netfilter/x_tables.c).
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && self.has_no_table() => Ok(String::new()),
            names => Ok(names?.trim().to_owned()),
        }
    }

    /// Whether no namespace has a table, as the loaded modules show. A kernel with these tables built in does not show it.
    fn has_no_table(&self) -> bool {
        let is_loaded = |module: &str| Path::new("/sys/module").join(module).exists();
        let names = ["filter", "mangle", "nat", "raw", "security"];
        // The tables need symbols of the module: they are not built in where it is not.
        is_loaded(self.module) && !names.iter().any(|name| is_loaded(&format!("{}_{name}", self.table)))
    }

    /// The `struct ipt_getinfo` of a table, and its entries.
    fn get(&self, socket: &Socket, name: &str) -> io::Result<(Vec<u8>, Vec<u8>)> {
        /// `struct ipt_getinfo`: name, valid hooks, 5 entries, 5 underflows, number of entries, size.
        const INFO_LEN: usize = NAME_LEN + 4 * (1 + 2 * HOOKS + 2);
        /// `struct ipt_get_entries`: name, size, padding.
        const ENTRIES_LEN: usize = NAME_LEN + 8;
        let mut info = named(name, INFO_LEN);
        get_option(socket, self.level, self.get_info, &mut info)?;
        let size = field(&info, 2 + 2 * HOOKS);
        let mut entries = named(name, ENTRIES_LEN + size as usize);
        entries[NAME_LEN..NAME_LEN + 4].copy_from_slice(&size.to_ne_bytes());
        // EAGAIN: the table has changed. The error fails closed until the next read.
        get_option(socket, self.level, self.get_info + 1, &mut entries)?;
        entries.drain(..ENTRIES_LEN);
        Ok((info, entries))
    }

    /// Reads the table with this name from a `struct ipt_getinfo` and its entries.
    fn read(&self, name: &str, info: &[u8], entries: &[u8]) -> NetfilterTable {
        let field = |index| field(info, index);
        let label = format!("{} table {name}", self.command);
        let mut table = NetfilterTable { label, hooks: Vec::new(), marks: Vec::new(), vnis: BTreeSet::new() };
        for hook in (0..HOOKS).filter(|hook| field(0) & 1 << hook != 0) {
            let (first, policy) = (field(1 + hook) as usize, field(1 + HOOKS + hook) as usize);
            let acts = first != policy || !self.accepts(entries, policy);
            let hook = NetfilterHook::new(u32::try_from(hook).unwrap_or(u32::MAX));
            table.hooks.push(Hooked { hook, nat: name == "nat", acts });
        }
        for (_, entry) in self.entries(entries) {
            self.rule(entry).add_to(&mut table);
        }
        table
    }

    /// The entries, each with its offset, and with the bytes after it.
    pub(super) fn entries<'a>(&self, entries: &'a [u8]) -> impl Iterator<Item = (usize, &'a [u8])> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let at = next?;
            let entry = entries.get(at..).filter(|entry| entry.len() >= self.entry_len)?;
            next = Some(at + self.length(entry)).filter(|next| *next != at);
            Some((at, entry))
        })
    }

    /// Length of an entry.
    pub(super) fn length(&self, entry: &[u8]) -> usize {
        ne16(entry, self.ip_len + 6).unwrap_or_default().into()
    }

    /// Offset of an entry's target.
    pub(super) fn target(&self, entry: &[u8]) -> usize {
        ne16(entry, self.ip_len + 4).unwrap_or_default().into()
    }

    /// Whether the policy entry at `at` is the standard target with the verdict ACCEPT (`-NF_ACCEPT - 1`).
    fn accepts(&self, entries: &[u8], at: usize) -> bool {
        let Some(entry) = entries.get(at..) else { return false };
        let verdict = ne32(entry, self.target(entry) + MATCH_HEADER);
        verdict.map(u32::cast_signed) == Some(-2)
    }

    fn rule(&self, entry: &[u8]) -> Rule {
        let mut rule = Rule::default();
        self.matches(entry, |name, info| rule.read_match(name, info));
        let target = self.target(entry);
        let revision = entry.get(target + MATCH_HEADER - 1).copied().unwrap_or_default();
        rule.read_target(&extension(entry, target), revision, entry.get(target + MATCH_HEADER..).unwrap_or_default());
        rule
    }

    /// Calls `read` for each match of an entry: name and data.
    pub(super) fn matches(&self, entry: &[u8], mut read: impl FnMut(&str, &[u8])) {
        let (mut at, target) = (self.entry_len, self.target(entry));
        while at < target {
            let size = usize::from(ne16(entry, at).unwrap_or_default());
            read(&extension(entry, at), entry.get(at + MATCH_HEADER..at + size).unwrap_or_default());
            if size < MATCH_HEADER {
                break;
            }
            at += size;
        }
    }
}

/// The name of the match or target at an offset; empty for the standard target.
pub(super) fn extension(entry: &[u8], at: usize) -> String {
    entry.get(at + 2..at + MATCH_HEADER - 1).map(text).unwrap_or_default()
}

/// A field of a `struct ipt_getinfo`, by index after the name.
pub(super) fn field(info: &[u8], index: usize) -> u32 {
    ne32(info, NAME_LEN + 4 * index).unwrap_or_default()
}

/// Reads the same bytes as tables of both IP versions.
#[cfg(any(test, feature = "testing"))]
pub(in super::super) fn read(info: &[u8], entries: &[u8]) -> [(NetfilterTable, ChainTable); 2] {
    let read = |version: &Version| {
        (version.read("nat", info, entries), super::chains::legacy::read(version, "filter", info, entries))
    };
    VERSIONS.each_ref().map(read)
}

/// The tables of ebtables, each with its module. A request for a missing table would load the module.
const EBTABLES: [(&str, &str); 3] =
    [("filter", "ebtable_filter"), ("nat", "ebtable_nat"), ("broute", "ebtable_broute")];

fn loaded_ebtables() -> impl Iterator<Item = &'static str> {
    let is_loaded = |(_, module): &(&str, &str)| Path::new("/sys/module").join(module).exists();
    EBTABLES.into_iter().filter(is_loaded).map(|(name, _)| name)
}

/// Whether there can be a table of ebtables-legacy.
pub(super) fn has_ebtables() -> bool {
    loaded_ebtables().next().is_some()
}

/// Reads whether the tables of ebtables-legacy have rules (`EBT_SO_GET_INFO`).
pub(super) fn ebtables_rules() -> io::Result<Vec<(&'static str, bool)>> {
    /// `struct ebt_replace`: name, valid hooks, number of entries, their size, and pointers.
    const INFO_LEN: usize = 120;
    const ENTRIES: usize = NAME_LEN + 4;
    const GET_INFO: libc::c_int = 128;
    let mut tables = Vec::new();
    for name in loaded_ebtables() {
        let mut info = named(name, INFO_LEN);
        get_option(&socket(Domain::IPV4)?, libc::IPPROTO_IP, GET_INFO, &mut info)?;
        tables.push((name, ne32(&info, ENTRIES) != Some(0)));
    }
    Ok(tables)
}

/// A request of this length that begins with a table's name.
fn named(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (to, from) in bytes.iter_mut().take(NAME_LEN - 1).zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// A socket for the options of tables. The kernel finds them by the domain (`nf_sockopt_find` in
/// net/netfilter/nf_sockopt.c), whatever the type: a datagram socket needs no CAP_NET_RAW.
fn socket(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::DGRAM, None)
}

fn get_option(socket: &Socket, level: libc::c_int, option: libc::c_int, bytes: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, the length of the buffer; both outlive the call.
    match unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, bytes.as_mut_ptr().cast(), &raw mut length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
