//! `test_run`: the time that each program takes for one packet, by `BPF_PROG_TEST_RUN`, without the stack around it.
//!
//! A program that encapsulates or decapsulates leaves a packet that it would judge otherwise the next time. Such runs are
//! made one by one, with a fresh packet each; the others a million times over one packet. Of both, the time of a program
//! that does nothing, run the same way, is subtracted: it is the clock's and the kernel's own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramFd, SchedClassifier, Xdp};
use overlay_common::names;
use overlay_user::datapath::Datapath;

use super::{
    live,
    paths::Path,
    programs::{Device, Loaded},
    results::{Results, TIME},
};
use crate::{
    lab::{NIC, traffic},
    program::{Skb, TC_NEXT, TC_REDIRECT, XDP_PASS, XDP_REDIRECT, kernel},
};

/// The case's name.
pub(super) const NAME: &str = "test_run";

/// How often a packet is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// One by one.
    pub(super) single: u32,
    /// Over one packet.
    pub(super) repeat: u32,
}

/// Over one packet, or a fresh one each time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Single,
    Repeated,
}

struct Run<'a> {
    what: &'static str,
    program: &'a ProgramFd,
    nothing: &'a ProgramFd,
    packet: &'a [u8],
    context: &'a [u32],
    how: How,
    /// What it has to return, so that what is measured is what is said.
    verdict: u32,
}

/// Measures all programs of `path`, which has to be one of overlay's with XDP, once.
pub(super) fn measure(path: &Path, times: Times, round: usize, results: &mut Results) -> Result<()> {
    let (mut sending, mut receiving) = (live::ours(path, 1)?, live::ours(path, 2)?);
    let port_in = tc(&mut sending, names::PORT_IN)?;
    let (nic_in, nic_xdp) = (tc(&mut receiving, names::NIC_IN)?, xdp(&mut receiving, names::NIC_XDP)?);
    let (nothing, xdp_nothing) = (Loaded::tc("bench_nothing")?, Loaded::xdp("bench_xdp_nothing", &[])?);

    let port = Device::look(path.client(), "eth0")?.peer.context("the client's eth0 is no veth")?;
    let nic = Device::look(path.lab.host(2), NIC)?;
    let frame = live::frame(path);
    let mut unknown = frame.clone();
    // Not a group address, and nobody's.
    unknown[..6].copy_from_slice(&[2, 2, 2, 2, 2, 2]);
    let outer = live::on_the_wire(path, &nic, &frame)?;
    let not_ours = [&nic.mac, &frame[6..]].concat();
    let (at_port, at_nic) = (kernel::sk_buff(port, Skb::default()), kernel::sk_buff(nic.ifindex, Skb::default()));

    let run = |what, program, packet, how, verdict| Run {
        what,
        program,
        nothing: &nothing.fd,
        packet,
        context: &at_nic,
        how,
        verdict,
    };
    let at_port = |run| Run { context: &at_port, ..run };
    let by_xdp = |run| Run { nothing: &xdp_nothing.fd, context: &[], ..run };
    use How::{Repeated, Single};
    let sent = [
        at_port(run("ovl_port_in, encapsulated", &port_in, &frame, Single, TC_REDIRECT)),
        at_port(run("ovl_port_in, left to the kernel", &port_in, &unknown, Repeated, TC_NEXT)),
    ];
    let received = [
        run("ovl_nic_in, decapsulated", &nic_in, &outer, Single, TC_REDIRECT),
        run("ovl_nic_in, not VXLAN", &nic_in, &not_ours, Repeated, TC_NEXT),
        by_xdp(run("ovl_nic_xdp, decapsulated", &nic_xdp, &outer, Single, XDP_REDIRECT)),
        by_xdp(run("ovl_nic_xdp, not VXLAN", &nic_xdp, &not_ours, Repeated, XDP_PASS)),
    ];
    for (host, runs) in [(path.lab.host(1), &sent[..]), (path.lab.host(2), &received[..])] {
        host.enter(|| {
            traffic::pin(traffic::Cpus::two().client);
            for run in runs {
                results.add(NAME, TIME, run.what, &[], round, run.nanoseconds(times)?);
            }
            anyhow::Ok(())
        })?;
    }
    results.note(
        "`test_run` is the program alone, with everything in the CPU's caches; the time of a program that does nothing is \
         subtracted.",
    );
    Ok(())
}

fn tc(datapath: &mut Datapath, name: &str) -> Result<ProgramFd> {
    let program: &SchedClassifier = datapath.bpf_mut().program(name).context("no such program")?.try_into()?;
    Ok(program.fd()?.try_clone()?)
}

fn xdp(datapath: &mut Datapath, name: &str) -> Result<ProgramFd> {
    let program: &Xdp = datapath.bpf_mut().program(name).context("no such program")?.try_into()?;
    Ok(program.fd()?.try_clone()?)
}

impl Run<'_> {
    fn nanoseconds(&self, times: Times) -> Result<f64> {
        let (verdict, ours) = self.time(self.program, times)?;
        let (_, nothing) = self.time(self.nothing, times)?;
        ensure!(verdict == self.verdict, "{}: the program returned {verdict}, not {}", self.what, self.verdict);
        Ok(ours - nothing)
    }

    fn time(&self, program: &ProgramFd, times: Times) -> Result<(u32, f64)> {
        let call = |repeat| {
            kernel::timed_run(program, self.packet, self.context, repeat)
                .with_context(|| format!("{}: BPF_PROG_TEST_RUN", self.what))
        };
        let nanoseconds = |time: Duration| time.as_nanos() as f64;
        if self.how == How::Repeated {
            return call(times.repeat).map(|(verdict, time)| (verdict, nanoseconds(time)));
        }
        let runs = (0..times.single).map(|_| call(1)).collect::<Result<Vec<_>>>()?;
        let verdict = runs.last().map_or(u32::MAX, |(verdict, _)| *verdict);
        let sum: f64 = trimmed(runs.into_iter().map(|(_, time)| nanoseconds(time)).collect());
        Ok((verdict, sum))
    }
}

/// The mean without the slowest tenth: a clock's tick is long beside a single run, so that a median would be one of a
/// few numbers, and an interrupt is longer still.
fn trimmed(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.truncate(times.len().div_ceil(10) * 9);
    times.iter().sum::<f64>() / times.len().max(1) as f64
}
