//! What the tests and the demo of overlay are built from.

pub mod demo;
pub mod lab;
