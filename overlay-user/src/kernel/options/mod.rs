//! Device state that the kernel path reads: one table of netlink attributes, device features and sysctls.
//!
//! | file | contents |
//! |---|---|
//! | `table`, `sets` | the types of a row; the rows of each set |
//! | `link`, `vxlan`, `bridge`, `port`, `entry`, `route`, `feature`, `sysctl` | the rows of each set |
//! | `deviation`, `read` | the state of a link that differs from the table |
//! | `fresh` | new devices in a scratch namespace, for attributes that the table lacks |
//! | `page` | docs/device-state.md |

mod bridge;
mod deviation;
mod entry;
mod feature;
mod fresh;
mod link;
#[cfg(test)]
mod page;
mod port;
mod read;
mod route;
mod sets;
mod sysctl;
mod table;
#[cfg(test)]
mod tests;
mod vxlan;

pub(crate) use deviation::{Deviation, Deviations};
pub(super) use read::deviations;
pub(super) use read::entry_is_unknown;
pub(crate) use read::read_features;
pub(crate) use table::{Role, Rule, Set};
