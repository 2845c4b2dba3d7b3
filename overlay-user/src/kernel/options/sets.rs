//! The rows of each set.

use super::{
    bridge, entry, feature, link, port, route, sysctl,
    table::{Role, Row, Set},
    vxlan,
};

impl Set {
    /// Its rows, in the order of their numbers.
    pub(super) const fn rows(self) -> &'static [Row] {
        match self {
            Self::Flag => link::FLAGS,
            Self::Link => link::ROWS,
            Self::Vxlan => vxlan::ROWS,
            Self::Bridge => bridge::ROWS,
            Self::Port => port::ROWS,
            Self::Entry => entry::ROWS,
            Self::Route => route::ROWS,
            Self::Feature => feature::ROWS,
            Self::Sysctl => sysctl::ROWS,
        }
    }

    /// The rows of an attribute.
    pub(super) fn rows_of(self, number: u16) -> &'static [Row] {
        let rows = self.rows();
        let first = rows.partition_point(|row| row.number < number);
        let count = rows[first..].partition_point(|row| row.number == number);
        &rows[first..first + count]
    }

    /// The row of an attribute for a role.
    pub(crate) fn row(self, number: u16, role: Role) -> Option<&'static Row> {
        self.rows_of(number).iter().find(|row| row.roles.has(role))
    }

    /// The row of a feature for a role.
    pub(crate) fn feature(name: &str, role: Role) -> Option<&'static Row> {
        Self::Feature.rows().iter().find(|row| row.name == name && row.roles.has(role))
    }
}
