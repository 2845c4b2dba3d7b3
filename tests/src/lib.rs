//! What the integration suites share.

pub mod frame;
pub mod program;
