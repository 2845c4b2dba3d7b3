//! One file per hook.

pub(crate) mod nic_tc;
pub(crate) mod nic_xdp;
pub(crate) mod port;
pub(crate) mod shim;
