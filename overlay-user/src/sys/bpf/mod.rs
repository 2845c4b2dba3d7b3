//! `bpf(2)` commands without a method in aya.

pub(crate) mod grace;
pub(crate) mod link;
pub(crate) mod map;
pub(crate) mod probe;
pub(crate) mod syscall;
