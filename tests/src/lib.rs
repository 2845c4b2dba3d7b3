//! What the integration suites and the demo of overlay are built from.

pub mod bench;
pub mod check;
pub mod demo;
pub mod frame;
pub mod lab;
pub mod maps;
pub mod program;
pub mod reference;
pub mod soak;
pub mod truth;
pub mod world;
