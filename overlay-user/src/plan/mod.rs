//! From what should be to what has to change. Pure: no I/O, no clock, no order of arrival.
//!
//! [`change`] is what all plans are made of. [`tables`] plans the BPF maps, [`order`] carries that out, [`mirror`] says which
//! foreign networks fit into them. The kernel's own objects are planned by [`crate::host::HostChanges`].

pub mod change;
mod counted;
pub mod mirror;
pub mod names;
pub mod order;
pub mod tables;
mod wanted;
