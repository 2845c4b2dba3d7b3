//! Packets of somebody who does not belong: crafted in a container and on the wire, against a strict network and one that
//! is not. Of each attack the victim's interface, the reason's counter and the events are looked at.
#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod allowed;
mod container;
mod events;
mod permissive;
mod setup;
mod wire;
