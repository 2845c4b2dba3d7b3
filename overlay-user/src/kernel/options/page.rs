//! docs/device-state.md, from the table.

use std::fmt::Write as _;

use super::table::{Role, Roles, Row, Rule, Set};

const HEAD: &str = "\
# Device state

The daemon accelerates a network or a port only if the state of its devices is known. This page lists all attributes of
rtnetlink dumps of Linux 6.1, 6.12 and 6.18, the features of ethtool(8), and the sysctls that the kernel path reads. The
same table judges managed and discovered networks. A unit test of `kernel::options` generates the page and compares it.

| rule | meaning |
|---|---|
| honoured | the fast path does what the value asks for |
| must be | with another value the network or the port takes the kernel path; `overlay status` has value and remedy |
| plain | with another value frames for the port are sent to it, so that the kernel segments and completes them |
| irrelevant | the fast path does the same for every value |
| differs | a difference that [Limits](limits.md) describes |

An attribute or feature that the table lacks is compared with that of a new device. The daemon makes the new devices in
a network namespace of its own when it finds the first such attribute ([ADR 20](adr/0020-new-devices.md)). An equal
value is irrelevant. A different one refuses the network or the port by the number of the attribute. Without
CAP_SYS_ADMIN the daemon makes no devices, and refuses each unknown attribute.

A refused port of a strict network keeps its checks; its packets are counted as `oversize`.
";

/// Title and introduction of a set.
fn title(set: Set) -> &'static str {
    match set {
        Set::Flag => "Flags",
        Set::Link => "Links (`IFLA_*`)",
        Set::Vxlan => "VXLAN devices (`IFLA_VXLAN_*`)",
        Set::Bridge => "Bridges (`IFLA_BR_*`)",
        Set::Port => "Bridge ports (`IFLA_BRPORT_*`)",
        Set::Entry => "FDB entries (`NDA_*`)",
        Set::Route => "Routes to VTEPs (`RTA_*`)",
        Set::Feature => "Features",
        Set::Sysctl => "Sysctls",
    }
}

fn devices(roles: Roles) -> String {
    if roles == Roles::DEVICES {
        return "all".into();
    }
    if roles == Roles::PORTS {
        return "every port".into();
    }
    let name = |role: &Role| match role {
        Role::Vxlan => "VXLAN",
        Role::Bridge => "bridge",
        Role::Tunnel => "VXLAN port",
        Role::Port => "port",
        Role::Container => "container",
        Role::Nic => "NIC",
    };
    let names: Vec<_> = Role::ALL.iter().filter(|role| roles.has(**role)).map(name).collect();
    names.join(", ")
}

fn rule(row: &Row) -> String {
    match &row.rule {
        Rule::Honoured(how) => format!("honoured: {how}"),
        Rule::Must(must) => format!("must be {}", must.wanted),
        Rule::Plain(must) => format!("plain unless {}", must.wanted),
        Rule::Irrelevant(why) => format!("irrelevant: {why}"),
        Rule::Differs(what) => format!("differs: {what}"),
    }
}

fn read_by(row: &Row) -> String {
    let functions = row.read_by.split("; ").map(|reader| match reader.split_once(", ") {
        Some((function, file)) => format!("`{function}` ({file})"),
        None if reader.ends_with(".c") || reader.contains(' ') => reader.to_owned(),
        None => format!("`{reader}`"),
    });
    if row.read_by.is_empty() { String::new() } else { functions.collect::<Vec<_>>().join(", ") }
}

/// The page.
pub(super) fn page() -> String {
    let mut page = HEAD.to_owned();
    for set in Set::ALL {
        let has_roles = set.rows().iter().any(|row| row.roles != Roles::NONE);
        let is_numbered = !matches!(set, Set::Feature | Set::Sysctl);
        let _ = writeln!(page, "\n## {}\n", title(set));
        let columns =
            [(is_numbered, "number"), (true, "name"), (has_roles, "device"), (true, "rule"), (true, "read by")];
        let columns: Vec<_> = columns.iter().filter(|(shown, _)| *shown).map(|(_, column)| *column).collect();
        let _ = writeln!(page, "| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()));
        for row in set.rows() {
            let number = is_numbered.then(|| row.number.to_string());
            let devices = has_roles.then(|| devices(row.roles));
            let cells = [number, Some(format!("`{}`", row.name)), devices, Some(rule(row)), Some(read_by(row))];
            let cells: Vec<_> = cells.into_iter().flatten().collect();
            let _ = writeln!(page, "| {} |", cells.join(" | ").trim_end());
        }
    }
    page
}
