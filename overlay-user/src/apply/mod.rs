//! Writers: programs and maps ([`bpf`]), kernel network objects ([`net`]), the daemon's socket ([`socket`]), and the
//! ownership record of all of them ([`ledger`]). No other module changes these objects.

pub(crate) mod bpf;
pub(crate) mod ledger;
pub(crate) mod net;
pub(crate) mod socket;
