//! The library of the integration suites, the demo, the benchmark and the soak test of overlay.

pub mod bench;
pub mod check;
pub mod demo;
pub mod frame;
pub mod lab;
pub mod maps;
pub mod program;
pub mod reference;
pub mod seed;
pub mod soak;
pub mod tables;
pub mod testbed;
