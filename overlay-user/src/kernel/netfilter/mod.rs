//! The netfilter rules of a network namespace: nftables (also used by iptables-nft), and the legacy tables of iptables,
//! ip6tables and ebtables. Read directly from the kernel: the commands would load modules and may not be installed.
//! [`Netfilter`] has what shows encryption of VXLAN packets, [`chains::Chains`] what happens to packets.

use std::{collections::BTreeSet, io};

use crate::sys::netlink::attribute::ne32;

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
    /// Hooks of its base chains.
    pub hooks: Vec<Hooked>,
    /// The rules that set packet marks.
    pub marks: Vec<Mark>,
    /// VNIs to which rules of any kind are limited.
    pub vnis: BTreeSet<u32>,
}

/// A rule that sets packet marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The bits that it may set. It may clear others.
    pub bits: u32,
    /// The VNIs of the VXLAN packets that it matches; `None`: it is not limited to VNIs.
    pub vnis: Option<BTreeSet<u32>>,
}

/// A hook of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hooked {
    /// Position in the packet path.
    pub hook: NetfilterHook,
    /// The chain is of type `nat`: it only translates addresses.
    pub nat: bool,
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
    /// Of devices.
    Egress,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rule {
    /// As in [`Mark`].
    bits: u32,
    vnis: Option<BTreeSet<u32>>,
}

impl Rule {
    /// Reads a match of xtables: name and data.
    fn read_match(&mut self, name: &str, info: &[u8]) {
        self.limit(|| vni::of_match(name, info).map(|vni| [vni].into()));
    }

    /// Limits the rule to VNIs. A mark that it has set before is not limited.
    fn limit(&mut self, vnis: impl FnOnce() -> Option<BTreeSet<u32>>) {
        if self.bits == 0 && self.vnis.is_none() {
            self.vnis = vnis();
        }
    }

    /// Reads a target of xtables: name, revision and data. A target that is not known may set any mark.
    fn read_target(&mut self, name: &str, revision: u8, info: &[u8]) {
        /// Targets that set no mark; the standard target has no name.
        const OTHERS: [&str; 29] = [
            "",
            "ACCEPT",
            "AUDIT",
            "CHECKSUM",
            "CLASSIFY",
            "CONNSECMARK",
            "CT",
            "DNAT",
            "DROP",
            "DSCP",
            "ECN",
            "ERROR",
            "HL",
            "LOG",
            "MASQUERADE",
            "NETMAP",
            "NFLOG",
            "NOTRACK",
            "RATEEST",
            "REDIRECT",
            "REJECT",
            "SECMARK",
            "SNAT",
            "TCPMSS",
            "TCPOPTSTRIP",
            "TEE",
            "TOS",
            "TRACE",
            "TTL",
        ];
        let bits = match (name, revision) {
            // `struct xt_mark_tginfo2`: mark, mask. New mark: `(old & !mask) ^ mark`.
            ("MARK", 2) => ne32(info, 0),
            // `struct xt_tproxy_target_info`: mask, mark.
            ("TPROXY", 0 | 1) => ne32(info, 4),
            ("CONNMARK", _) => connmark(revision, info),
            _ => OTHERS.contains(&name).then_some(0),
        };
        self.bits |= bits.unwrap_or(u32::MAX);
    }

    fn add_to(self, table: &mut NetfilterTable) {
        table.vnis.extend(self.vnis.iter().flatten());
        if self.bits != 0 {
            table.marks.push(Mark { bits: self.bits, vnis: self.vnis });
        }
    }
}

/// The bits that CONNMARK copies from the connection's mark: `struct xt_connmark_tginfo1`, `struct xt_connmark_tginfo2`.
fn connmark(revision: u8, info: &[u8]) -> Option<u32> {
    /// `XT_CONNMARK_RESTORE`.
    const RESTORE: u8 = 2;
    let mode = match (revision, info.get(12..)?) {
        (1, [mode, ..]) | (2, [_, 0, mode, ..]) => *mode,
        // The bits are shifted.
        _ => return None,
    };
    if mode == RESTORE { ne32(info, 4) } else { Some(0) }
}

#[cfg(test)]
mod tests;
