//! From what should be to what has to change. Pure: no I/O, no clock, no order of arrival.
//!
//! [`admission`] says which networks are accelerated. [`change`] is what all plans are made of. [`tables`] plans the BPF maps,
//! [`delta`] single entries of them, [`order`] carries that out. The kernel's own objects are planned by
//! [`crate::plan::host::HostChanges`].

pub(crate) mod admission;
pub(crate) mod change;
mod counted;
pub(crate) mod delta;
pub(crate) mod host;
pub(crate) mod names;
pub(crate) mod order;
pub(crate) mod tables;
mod wanted;
