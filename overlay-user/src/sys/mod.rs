//! Thin wrappers over kernel interfaces, without policy.
//!
//! | file | interface |
//! |---|---|
//! | `netns` | network namespaces: open, enter, identify |
//! | `netlink` | rtnetlink connections, dumps and lookups of every netlink family, batches of changes |
//! | `bpf` | `bpf(2)`: elements of any map, batches, grace periods |
//! | `ethtool` | offload features of a device |
//! | `ticks` | ticks of the kernel (jiffies) |
//! | `fault` | fault injection, for tests |

pub(crate) mod bpf;
pub(crate) mod ethtool;
pub(crate) mod fault;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod ticks;
