//! Plans: the changes from the current to the desired state. Pure: no I/O and no clock; the order of inputs is
//! irrelevant.
//!
//! [`admission`] selects the networks that are accelerated. [`change`] defines changes of tables. [`tables`] plans the
//! BPF maps, [`delta`] plans single entries, and [`order`] applies the changes in a safe order.
//! [`crate::plan::host::HostChanges`] plans the kernel objects. [`bridged_path`] judges the rules for frames of bridges,
//! [`outer_path`] those for outer packets, and [`device_state`] judges devices. [`hooks`] places programs among those of
//! other owners.

pub(crate) mod admission;
pub(crate) mod bridged_path;
pub(crate) mod change;
mod counted;
pub(crate) mod delta;
mod desired;
pub(crate) mod device_state;
pub(crate) mod hooks;
pub(crate) mod host;
pub(crate) mod names;
pub(crate) mod order;
pub(crate) mod outer_path;
mod packet;
pub(crate) mod tables;
