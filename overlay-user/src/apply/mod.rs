//! The only writers: programs and maps ([`bpf`]), the kernel's own objects ([`net`]), and the record of both ([`ledger`]).

pub mod bpf;
pub mod ledger;
pub mod net;
