//! The netfilter rules of a network namespace: nftables (also used by iptables-nft), and the legacy tables of iptables,
//! ip6tables and ebtables. Read directly from the kernel: the commands would load modules and may not be installed.

use std::{collections::BTreeSet, io};

pub(crate) mod chains;
pub(crate) mod legacy;
pub(crate) mod nft;
mod vni;

/// The tables of one namespace. Tables without rules may be omitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Netfilter {
    /// Tables in no particular order.
    pub tables: Vec<NetfilterTable>,
}

/// A table of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetfilterTable {
    /// Label, for instance `nft table bridge filter`, `iptables-legacy table mangle`.
    pub label: String,
    /// Packets that the table is for.
    pub family: Family,
    /// Hooks of its base chains.
    pub hooks: Vec<Hooked>,
    /// One element for each rule that sets packet marks: the VNI of the VXLAN packets that the rule matches; `None` if
    /// it is not limited to one VNI.
    pub marks: Vec<Option<u32>>,
    /// VNIs to which rules of any kind are limited.
    pub vnis: BTreeSet<u32>,
}

/// The packets that a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4, IPv6 or both.
    Ip,
    /// Frames on bridges.
    Bridge,
    /// Frames of named devices.
    Netdev,
    /// ARP and anything else.
    Other,
}

/// A hook of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hooked {
    /// Position in the packet path.
    pub hook: NetfilterHook,
    /// The chain is of type `nat`: it only translates addresses.
    pub nat: bool,
    /// The devices, for [`Family::Netdev`] and the ingress hook.
    pub devices: Vec<String>,
    /// The chain has rules, or its policy is to drop.
    pub acts: bool,
}

/// A position in the packet path (`enum nf_inet_hooks`; `enum nf_br_hooks` has the same numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetfilterHook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Ingress,
    /// An unknown number.
    Other,
}

impl NetfilterHook {
    fn new(number: u32) -> Self {
        match number {
            0 => Self::Prerouting,
            1 => Self::Input,
            2 => Self::Forward,
            3 => Self::Output,
            4 => Self::Postrouting,
            5 => Self::Ingress,
            _ => Self::Other,
        }
    }
}

/// Reads the netfilter rules of the calling thread's network namespace.
///
/// # Errors
/// The kernel's, for instance without `CAP_NET_ADMIN`. A kernel without netfilter has no rules.
pub(crate) fn netfilter() -> io::Result<Netfilter> {
    let mut tables = nft::tables()?;
    tables.extend(legacy::tables()?);
    Ok(Netfilter { tables })
}

/// The relevant properties of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rule {
    marks: bool,
    vni: Option<u32>,
}

impl Rule {
    /// Reads a match of xtables: name and data.
    fn read_match(&mut self, name: &str, info: &[u8]) {
        self.vni = self.vni.or_else(|| vni::of_match(name, info));
    }

    fn read_target(&mut self, name: &str) {
        self.marks |= matches!(name, "MARK" | "CONNMARK" | "CONNSECMARK" | "TPROXY" | "SET");
    }

    fn add_to(self, table: &mut NetfilterTable) {
        if self.marks {
            table.marks.push(self.vni);
        }
        table.vnis.extend(self.vni);
    }
}
