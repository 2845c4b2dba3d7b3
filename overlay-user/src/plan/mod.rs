//! From what should be to what has to change. Pure: no I/O, no clock, no order of arrival.
//!
//! [`admission`] says which networks are accelerated. [`change`] is what all plans are made of. [`tables`] plans the BPF maps,
//! [`delta`] single entries of them, [`order`] carries that out. The kernel's own objects are planned by
//! [`crate::plan::host::HostChanges`].

pub mod admission;
pub mod change;
mod counted;
pub mod delta;
pub mod host;
pub mod names;
pub mod order;
pub mod tables;
mod wanted;
