//! Attacks from a container and from the underlay, on strict networks and on others. Each test checks the victim's
//! interface, the reason's counter and the events.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod allowed;
mod container;
mod controls;
mod events;
mod fault_points;
mod hooks;
mod permissive;
mod setup;
mod wire;
