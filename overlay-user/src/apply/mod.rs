//! The only writers: programs and maps ([`bpf`]), the kernel's own objects ([`net`]), the daemon's socket ([`socket`]), and the record of all of them ([`ledger`]).

pub(crate) mod bpf;
pub(crate) mod ledger;
pub(crate) mod net;
pub(crate) mod socket;
