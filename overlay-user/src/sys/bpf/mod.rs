//! `bpf(2)` beyond what aya has methods for.

pub(crate) mod grace;
pub(crate) mod map;
pub(crate) mod syscall;
