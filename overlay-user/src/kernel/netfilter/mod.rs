//! What netfilter does to packets of a network namespace: nftables (which iptables-nft uses too), and the legacy tables
//! of iptables, ip6tables and ebtables. Read from the kernel, never through their command lines, which would load
//! modules and may be absent.

use std::{collections::BTreeSet, io};

pub(crate) mod legacy;
pub(crate) mod nft;
mod vni;

/// Everything of one namespace that sees packets. Tables without rules may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Netfilter {
    /// In no particular order.
    pub tables: Vec<NetfilterTable>,
}

/// A table of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetfilterTable {
    /// What it is called, for instance `nft table bridge filter`, `iptables-legacy table mangle`.
    pub label: String,
    /// Which packets it is for.
    pub family: Family,
    /// Where its rules are entered.
    pub hooks: Vec<Hooked>,
    /// One element for each rule that sets packet marks: the VNI of the VXLAN packets that it is limited to, `None`
    /// where it is not limited to one VNI.
    pub marks: Vec<Option<u32>>,
    /// VNIs that rules of any kind are limited to.
    pub vnis: BTreeSet<u32>,
}

/// Which packets a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4, IPv6 or both.
    Ip,
    /// Frames that a bridge forwards.
    Bridge,
    /// Frames of named devices.
    Netdev,
    /// ARP and anything else.
    Other,
}

/// An entry point of packets into a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hooked {
    /// Where in the packet's way.
    pub hook: NetfilterHook,
    /// Translates addresses, and nothing else.
    pub nat: bool,
    /// The devices, for [`Family::Netdev`] and the ingress hook.
    pub devices: Vec<String>,
    /// There are rules, or the policy is to drop.
    pub acts: bool,
}

/// A place in the packet's way (`enum nf_inet_hooks`; `enum nf_br_hooks` has the same numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetfilterHook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Ingress,
    /// A number that this program does not know.
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

/// What a rule does, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rule {
    marks: bool,
    vni: Option<u32>,
}

impl Rule {
    /// Notes a match or target of xtables by its name and its data.
    fn note_match(&mut self, name: &str, info: &[u8]) {
        self.vni = self.vni.or_else(|| vni::of_match(name, info));
    }

    fn note_target(&mut self, name: &str) {
        self.marks |= matches!(name, "MARK" | "CONNMARK" | "CONNSECMARK" | "TPROXY" | "SET");
    }

    fn add_to(self, table: &mut NetfilterTable) {
        if self.marks {
            table.marks.push(self.vni);
        }
        table.vnis.extend(self.vni);
    }
}
