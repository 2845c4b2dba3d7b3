//! The rows of the table.

use std::fmt;

/// A set of attributes with one numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    /// `ifi_flags` of a link message, by bit value.
    Flag,
    /// `IFLA_*`.
    Link,
    /// `IFLA_VXLAN_*`.
    Vxlan,
    /// `IFLA_BR_*`.
    Bridge,
    /// `IFLA_BRPORT_*`.
    Port,
    /// `NDA_*` of FDB entries.
    Entry,
    /// `RTA_*` of the route to a VTEP.
    #[cfg_attr(not(test), expect(dead_code, reason = "its rows are on the page"))]
    Route,
    /// Features of ethtool(8), by name.
    Feature,
    /// Sysctls, by name.
    #[cfg_attr(not(test), expect(dead_code, reason = "its rows are on the page"))]
    Sysctl,
}

impl Set {
    /// All sets, in the order of the page.
    #[cfg(test)]
    pub(super) const ALL: [Self; 9] = [
        Self::Flag,
        Self::Link,
        Self::Vxlan,
        Self::Bridge,
        Self::Port,
        Self::Entry,
        Self::Route,
        Self::Feature,
        Self::Sysctl,
    ];

    /// The prefix of its attributes.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Link => "IFLA",
            Self::Vxlan => "IFLA_VXLAN",
            Self::Bridge => "IFLA_BR",
            Self::Port => "IFLA_BRPORT",
            Self::Entry => "NDA",
            Self::Route => "RTA",
            Self::Feature => "feature",
            Self::Sysctl => "sysctl",
        }
    }
}

/// What a device is to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The VXLAN device.
    Vxlan,
    /// The bridge.
    Bridge,
    /// The VXLAN device as a port of the bridge.
    Tunnel,
    /// A container's port of the bridge: the host's end of a veth.
    Port,
    /// The container's end of the veth.
    Container,
    /// The underlay device.
    Nic,
}

impl Role {
    /// All roles.
    #[cfg(test)]
    pub(super) const ALL: [Self; 6] = [Self::Vxlan, Self::Bridge, Self::Tunnel, Self::Port, Self::Container, Self::Nic];
}

/// A set of [`Role`]s. Rows of FDB entries, routes and sysctls have none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Roles(u8);

impl Roles {
    /// No device.
    pub(super) const NONE: Self = Self(0);
    /// The VXLAN device.
    pub(super) const VXLAN: Self = Self::of(Role::Vxlan);
    /// The bridge.
    pub(super) const BRIDGE: Self = Self::of(Role::Bridge);
    /// The VXLAN device's bridge port.
    pub(super) const TUNNEL: Self = Self::of(Role::Tunnel);
    /// A container's bridge port.
    pub(super) const PORT: Self = Self::of(Role::Port);
    /// A container's end.
    pub(super) const CONTAINER: Self = Self::of(Role::Container);
    /// The underlay device.
    pub(super) const NIC: Self = Self::of(Role::Nic);
    /// Both kinds of bridge ports.
    pub(super) const PORTS: Self = Self::TUNNEL.and(Self::PORT);
    /// Every device: a bridge port has the attributes of its device.
    pub(super) const DEVICES: Self = Self::VXLAN.and(Self::BRIDGE).and(Self::PORT).and(Self::CONTAINER).and(Self::NIC);

    const fn of(role: Role) -> Self {
        Self(1 << role as u8)
    }

    /// The roles of both.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The roles of this set that are not in the other.
    pub(super) const fn except(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether a row for these roles applies to `role`.
    pub(crate) const fn has(self, role: Role) -> bool {
        self.0 & Self::of(role).0 != 0
    }

    /// Whether both have a role.
    pub(super) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roles({:#b})", self.0)
    }
}

/// One attribute, for some roles.
#[derive(Debug)]
pub(crate) struct Row {
    /// Number of the attribute; 0 for features and sysctls.
    pub number: u16,
    /// Name in the kernel's headers, of the feature or of the sysctl.
    pub name: &'static str,
    /// The devices that the row is about.
    pub roles: Roles,
    /// What its value means for the fast path.
    pub rule: Rule,
    /// The kernel's function that reads it, and its file; empty: the path does not read it.
    #[cfg_attr(not(test), expect(dead_code, reason = "printed on the page"))]
    pub read_by: &'static str,
}

/// What the value of an attribute means for the fast path.
#[derive(Debug)]
pub(crate) enum Rule {
    /// The fast path does what the value asks for.
    #[cfg_attr(not(test), expect(dead_code, reason = "printed on the page"))]
    Honoured(&'static str),
    /// With another value the network or the port is not accelerated.
    Must(Must),
    /// With another value frames for the port are sent to it instead of to its peer, so that the kernel segments them
    /// and fills their checksums.
    Plain(Must),
    /// The fast path does the same for every value.
    #[cfg_attr(not(test), expect(dead_code, reason = "printed on the page"))]
    Irrelevant(&'static str),
    /// A documented difference.
    #[cfg_attr(not(test), expect(dead_code, reason = "printed on the page"))]
    Differs(&'static str),
}

/// A required value.
#[derive(Debug)]
pub(crate) struct Must {
    /// The value, as the page prints it.
    #[cfg_attr(not(test), expect(dead_code, reason = "printed on the page"))]
    pub wanted: &'static str,
    /// Whether a value is accepted. The second argument has all attributes of the set.
    pub accepts: fn(&[u8], &[u8]) -> bool,
    /// The problem with another value. `{dev}`: the device; `{value}`: its value; `{name}`: the row's name.
    pub problem: &'static str,
    /// How the value is printed.
    pub show: Show,
    /// The remedy. `{dev}`: the device.
    pub remedy: &'static str,
}

/// How a value is printed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Show {
    /// `on` or `off`.
    OnOff,
    /// A number in host order.
    Number,
    /// A state of the spanning tree protocol.
    State,
    /// Bytes in hexadecimal.
    Bytes,
}

impl Show {
    /// The value in words.
    pub(crate) fn text(self, value: &[u8]) -> String {
        match (self, value) {
            (Self::OnOff, value) => if value.iter().any(|byte| *byte != 0) { "on" } else { "off" }.into(),
            (Self::State, [state]) => {
                // `include/uapi/linux/if_bridge.h`.
                let names = ["disabled", "listening", "learning", "forwarding", "blocking"];
                names.get(usize::from(*state)).map_or_else(|| state.to_string(), |name| (*name).to_owned())
            }
            (Self::Number, [byte]) => byte.to_string(),
            (Self::Number, &[a, b]) => u16::from_ne_bytes([a, b]).to_string(),
            (Self::Number, &[a, b, c, d]) => u32::from_ne_bytes([a, b, c, d]).to_string(),
            (_, value) => value.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

impl Row {
    /// The value that the rule is about.
    pub(super) const fn wanted(&self) -> Option<&Must> {
        match &self.rule {
            Rule::Must(must) | Rule::Plain(must) => Some(must),
            Rule::Honoured(_) | Rule::Irrelevant(_) | Rule::Differs(_) => None,
        }
    }

    /// Problem and remedy of a device with this value; `None`: no value is required.
    pub(crate) fn refusal(&self, device: &str, value: &[u8]) -> Option<(String, String)> {
        let Rule::Must(must) = &self.rule else { return None };
        let problem = must.problem.replace("{value}", &must.show.text(value)).replace("{name}", self.name);
        Some((problem.replace("{dev}", device), must.remedy.replace("{dev}", device)))
    }
}

/// A row whose value is honoured.
pub(super) const fn honoured(
    number: u16,
    name: &'static str,
    roles: Roles,
    how: &'static str,
    read_by: &'static str,
) -> Row {
    Row { number, name, roles, rule: Rule::Honoured(how), read_by }
}

/// A row whose value does not matter.
pub(super) const fn irrelevant(
    number: u16,
    name: &'static str,
    roles: Roles,
    why: &'static str,
    read_by: &'static str,
) -> Row {
    Row { number, name, roles, rule: Rule::Irrelevant(why), read_by }
}

/// A row with a documented difference.
pub(super) const fn differs(
    number: u16,
    name: &'static str,
    roles: Roles,
    what: &'static str,
    read_by: &'static str,
) -> Row {
    Row { number, name, roles, rule: Rule::Differs(what), read_by }
}

/// A row with a required value.
pub(super) const fn must(number: u16, name: &'static str, roles: Roles, must: Must, read_by: &'static str) -> Row {
    Row { number, name, roles, rule: Rule::Must(must), read_by }
}

/// A row of a port whose packets the kernel segments or completes with another value.
pub(super) const fn plain(number: u16, name: &'static str, must: Must, read_by: &'static str) -> Row {
    Row { number, name, roles: Roles::PORT, rule: Rule::Plain(must), read_by }
}

/// A switch that must be off.
pub(super) const fn off(problem: &'static str, remedy: &'static str) -> Must {
    Must { wanted: "off", accepts: is_zero, problem, show: Show::OnOff, remedy }
}

/// A switch that must be on.
pub(super) const fn on(problem: &'static str, remedy: &'static str) -> Must {
    Must { wanted: "on", accepts: |value, _| value.iter().any(|byte| *byte != 0), problem, show: Show::OnOff, remedy }
}

/// An attribute that must be 0.
pub(super) const fn zero(problem: &'static str, remedy: &'static str) -> Must {
    Must { wanted: "0", accepts: is_zero, problem, show: Show::Number, remedy }
}

/// An attribute that must be missing: the kernel sends it only for devices that have it.
pub(super) const fn absent(problem: &'static str, remedy: &'static str) -> Must {
    Must { wanted: "absent", accepts: |_, _| false, problem, show: Show::Bytes, remedy }
}

fn is_zero(value: &[u8], _: &[u8]) -> bool {
    value.iter().all(|byte| *byte == 0)
}
