//! Encapsulation and decapsulation alone: live frames are injected at one end and counted at the other.
//!
//! ```text
//! encap:  frame ► port of the client's container … NIC ═ wire ═ NIC of the other host: counted, dropped (TC ingress)
//! decap:  frame ► NIC of the server's host … eth0 of the server's container: counted, dropped (TC ingress)
//! ```
//!
//! One CPU injects and processes all frames: `BPF_F_TEST_XDP_LIVE_FRAMES` passes them to the stack in batches of 64
//! with bottom halves off; queued work runs when they are on again.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::ProgramFd;
use overlay_common::MacAddr;
use overlay_user::testing::apply::{Datapath, Ledger};

use super::{
    paths::{Kind, Path, VNI},
    programs::{Attached, Device, Loaded, attached_xdp},
};
use crate::{
    frame::{Inner, L4, Outer, Station, Version},
    lab::{NIC, NetNs, traffic},
    program::{kernel::live_frames, to_node2},
};

/// Payload of the datagrams in the frames, as in the case `udp64`.
const PAYLOAD: usize = 64;
/// Frames of the warm-up; its rate gives the number of frames to measure. These are sent in one system call, because
/// each call waits for `bpf_dispatcher_change_prog`. The clock is read at the receiver for the same reason.
const WARM_UP: u32 = 1 << 13;

/// Number of destinations of the frames, in the last four bytes of the MAC address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread(pub(super) u32);

/// Whether encapsulation can be measured on a path. `xdp` sends like `tc`, and the receiver's XDP program would run
/// before the counter.
pub(super) fn has_encap(kind: Kind) -> bool {
    !matches!(kind, Kind::BoundHost | Kind::Xdp)
}

/// Whether decapsulation can be measured: frames pass from the NIC into a container.
pub(super) fn has_decap(kind: Kind) -> bool {
    kind != Kind::BoundHost
}

/// Packets per second, in thousands, from the client's container onto the wire.
pub(super) fn encap(path: &Path, duration: Duration, spread: Option<Spread>) -> Result<f64> {
    let port = Device::read(path.client(), "eth0")?.peer.context("eth0 of the client is no veth")?;
    let globals: &[_] = match spread {
        // After `02:42`, the prefix of all containers.
        Some(Spread(number)) => &[("BENCH_SPREAD_AT", 2), ("BENCH_SPREAD", number)],
        None => &[],
    };
    let program = Loaded::xdp("bench_live", globals)?;
    let counter = Attached::new(path.testbed.lab.host(2), NIC, "bench_drop", &[])?;
    let frame = frame(path);
    inject(path.testbed.lab.host(1), &program.fd, port, &frame, duration, counter)
}

/// Packets per second, in thousands, from the NIC into the server's container.
pub(super) fn decap(path: &Path, duration: Duration) -> Result<f64> {
    let host = path.testbed.lab.host(2);
    let nic = Device::read(host, NIC)?;
    let inner = frame(path);
    let frame = if path.kind == Kind::BoundRedirect { inner } else { on_the_wire(path, &nic, &inner)? };
    let counter = Attached::new(path.server(), "eth0", "bench_drop", &[])?;
    if path.kind == Kind::Xdp {
        return inject(host, &attached_xdp(host, NIC)?, nic.ifindex, &frame, duration, counter);
    }
    let program = Loaded::xdp("bench_live", &[])?;
    inject(host, &program.fd, nic.ifindex, &frame, duration, counter)
}

/// The product's programs, loaded a second time with the maps of a host's daemon.
pub(super) fn load_datapath(path: &Path, number: usize) -> Result<Datapath> {
    let root = &path.testbed.pin_root(number);
    path.testbed.lab.host(number).enter(|| Ok(Datapath::load(&Ledger::without_lock(root), None, None)?))
}

/// Extends the heartbeat deadline of a host without a daemon indefinitely.
pub(super) fn extend_deadline(path: &Path, number: usize) -> Result<()> {
    let root = &path.testbed.pin_root(number);
    Ok(load_datapath(path, number)?.extend_deadline(&Ledger::without_lock(root), None)?)
}

/// The frame that the client's container sends.
pub(super) fn frame(path: &Path) -> Vec<u8> {
    let [client, server] = [path.client_ip(), path.server_ip()].map(|ip| Station::container(ip.octets()));
    let server = Station { mac: MacAddr(path.next_hop), ..server };
    Inner::new(client, server, Version::V4, L4::Udp(40_000, 9)).payload(&[0; PAYLOAD]).bytes()
}

/// The encapsulated frame that the server's host receives.
pub(super) fn on_the_wire(path: &Path, nic: &Device, inner: &[u8]) -> Result<Vec<u8>> {
    let [one, two] = [1, 2].map(|number| path.testbed.lab.host(number));
    let outer = Outer {
        eth_dst: MacAddr(nic.mac),
        eth_src: MacAddr(Device::read(one, NIC)?.mac),
        src: one.address().octets(),
        dst: two.address().octets(),
        vni: VNI,
        ..to_node2()
    };
    Ok(outer.encapsulate(inner))
}

fn inject(
    ns: &NetNs,
    program: &ProgramFd,
    ifindex: u32,
    frame: &[u8],
    duration: Duration,
    mut counter: Attached,
) -> Result<f64> {
    let cpus = traffic::Cpus::two();
    ns.enter(|| {
        traffic::pin(cpus.client);
        live_frames(program, ifindex, frame, WARM_UP)?;
        let frames = (counter.rate()? * duration.as_secs_f64()) as u32;
        counter.reset()?;
        live_frames(program, ifindex, frame, frames.max(WARM_UP))?;
        Ok(counter.rate()? / 1e3)
    })
}
