//! The programs, one packet at a time, through `BPF_PROG_TEST_RUN`: a packet, the maps, and every byte of the result.

mod batch;
mod check;
mod decap;
mod encap;
mod events;
mod fallback;
mod flows;
mod heartbeat;
mod local;
mod mtu;
mod random;
mod reasons;
mod rfc6040;
mod shim;
mod spoofed;
mod strict;
mod truncated;
