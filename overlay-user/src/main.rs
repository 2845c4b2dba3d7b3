//! overlay
fn main() {}
