//! From what should be to what has to change. Pure: no I/O, no clock, no order of arrival.
//!
//! [`tables`] plans the BPF maps, [`mirror`] says which foreign networks fit into them. The kernel's own objects are planned by [`crate::host::plan`].

pub mod mirror;
pub mod tables;
mod wanted;
