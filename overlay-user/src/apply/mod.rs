//! The only writers: programs and maps ([`bpf`]), the kernel's own objects ([`net`]), the daemon's socket ([`socket`]), and the record of all of them ([`ledger`]).

pub mod bpf;
pub mod ledger;
pub mod net;
pub mod socket;
