//! Thin wrappers over the kernel's interfaces. No policy: what to ask for, and what an answer means, is decided above.
//!
//! | file | interface |
//! |---|---|
//! | `netns` | network namespaces: open, enter, identify |
//! | `netlink` | rtnetlink connections, dumps and look-ups of every netlink family, datagrams of many changes |
//! | `bpf` | `bpf(2)`: elements of any map, batches, a grace period |
//! | `ethtool` | offload features of a device |
//! | `ticks` | the kernel's ticks |
//! | `fault` | refusals of the kernel on demand, for tests |

pub(crate) mod bpf;
pub(crate) mod ethtool;
pub(crate) mod fault;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod ticks;
