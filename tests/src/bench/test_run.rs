//! `test_run`: the time that each program takes for one packet, by `BPF_PROG_TEST_RUN`, without the stack around it.
//!
//! A program that encapsulates or decapsulates leaves a packet that it would judge otherwise the next time. Such runs are
//! made one by one, with a fresh packet each; the others a million times over one packet. Of both, the time of a program
//! that does nothing, run the same way, is subtracted: it is the clock's and the kernel's own.
//!
//! What is run are the programs that a path's daemons have attached, so that they can be another build's.

use anyhow::{Context, Result, ensure};
use aya::programs::ProgramFd;

use super::{
    live,
    paths::Path,
    programs::{Device, Loaded, attached_tc, attached_xdp},
    results::{Results, TIME},
};
use crate::{
    lab::{NIC, NetNs, traffic},
    program::{Skb, TC_NEXT, TC_REDIRECT, XDP_PASS, XDP_REDIRECT, kernel},
};

/// The case's name.
pub(super) const NAME: &str = "test_run";

/// Calls that the runs over one packet are made in: in some of them the program may have been interrupted.
const CALLS: u32 = 20;

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

/// A program, and a packet to run it over.
struct Run {
    what: &'static str,
    /// Where the program's devices are.
    host: NetNs,
    program: ProgramFd,
    nothing: ProgramFd,
    packet: Vec<u8>,
    context: Vec<u32>,
    how: How,
    /// What it has to return, so that what is measured is what is said.
    verdict: u32,
}

/// The programs that the daemons of a path have attached, each with packets to run it over.
pub(super) struct TestRuns(Vec<Run>);

impl TestRuns {
    /// Finds the programs of `path`, which has to be one of overlay's with XDP.
    pub(super) fn open(path: &Path) -> Result<Self> {
        use How::{Repeated, Single};
        let [sender, receiver] = [1, 2].map(|number| path.world.lab.host(number));
        let port = Device::look(path.client(), "eth0")?.peer.context("the client's eth0 is no veth")?;
        let nic = Device::look(receiver, NIC)?;
        let port_in = attached_tc(sender, &Device::name(sender, port)?)?;
        let (nic_in, nic_xdp) = (attached_tc(receiver, NIC)?, attached_xdp(receiver, NIC)?);
        let (nothing, xdp_nothing) = (Loaded::tc("bench_nothing")?, Loaded::xdp("bench_xdp_nothing", &[])?);

        let frame = live::frame(path);
        let mut unknown = frame.clone();
        // Not a group address, and nobody's.
        unknown[..6].copy_from_slice(&[2, 2, 2, 2, 2, 2]);
        let outer = live::on_the_wire(path, &nic, &frame)?;
        let not_ours = [&nic.mac, &frame[6..]].concat();

        let run =
            |what, host: &NetNs, (program, nothing): (&ProgramFd, &Loaded), packet: &[u8], context, how, verdict| {
                let (program, nothing) = (program.try_clone()?, nothing.fd.try_clone()?);
                anyhow::Ok(Run {
                    what,
                    host: host.clone(),
                    program,
                    nothing,
                    packet: packet.to_vec(),
                    context,
                    how,
                    verdict,
                })
            };
        let at_port = |what, packet, how, verdict| {
            run(what, sender, (&port_in, &nothing), packet, kernel::sk_buff(port, Skb::default()), how, verdict)
        };
        let at_nic = |what, packet, how, verdict| {
            let context = kernel::sk_buff(nic.ifindex, Skb::default());
            run(what, receiver, (&nic_in, &nothing), packet, context, how, verdict)
        };
        let by_xdp = |what, packet, how, verdict| {
            run(what, receiver, (&nic_xdp, &xdp_nothing), packet, Vec::new(), how, verdict)
        };
        Ok(Self(vec![
            at_port("ovl_port_in, encapsulated", &frame, Single, TC_REDIRECT)?,
            at_port("ovl_port_in, left to the kernel", &unknown, Repeated, TC_NEXT)?,
            at_nic("ovl_nic_in, decapsulated", &outer, Single, TC_REDIRECT)?,
            at_nic("ovl_nic_in, not VXLAN", &not_ours, Repeated, TC_NEXT)?,
            by_xdp("ovl_nic_xdp, decapsulated", &outer, Single, XDP_REDIRECT)?,
            by_xdp("ovl_nic_xdp, not VXLAN", &not_ours, Repeated, XDP_PASS)?,
        ]))
    }

    /// How many runs there are: the same of every build.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Which program it is, and what it does with the packet.
    pub(super) fn name(&self, index: usize) -> &'static str {
        self.0[index].what
    }

    /// Measures one program once: nanoseconds of a run, with those of [`Self::nothing`] in it.
    pub(super) fn program(&self, index: usize, times: Times) -> Result<f64> {
        let run = &self.0[index];
        let (verdict, time) = run.on_its_cpu(&run.program, times)?;
        ensure!(verdict == run.verdict, "{}: the program returned {verdict}, not {}", run.what, run.verdict);
        Ok(time)
    }

    /// The same of a program that does nothing.
    pub(super) fn nothing(&self, index: usize, times: Times) -> Result<f64> {
        let run = &self.0[index];
        Ok(run.on_its_cpu(&run.nothing, times)?.1)
    }
}

/// Measures all programs once.
pub(super) fn measure(runs: &TestRuns, times: Times, round: usize, results: &mut Results) -> Result<()> {
    for index in 0..runs.len() {
        let time = runs.program(index, times)? - runs.nothing(index, times)?;
        results.add(NAME, TIME, runs.name(index), &[], round, time);
    }
    results.note(
        "`test_run` is the program alone, with everything in the CPU's caches; the time of a program that does nothing is \
         subtracted.",
    );
    Ok(())
}

impl Run {
    fn on_its_cpu(&self, program: &ProgramFd, times: Times) -> Result<(u32, f64)> {
        self.host.enter(|| {
            traffic::pin(traffic::Cpus::two().client);
            self.time(program, times)
        })
    }

    /// The verdict, and the nanoseconds of one run.
    fn time(&self, program: &ProgramFd, times: Times) -> Result<(u32, f64)> {
        let (calls, repeat) = match self.how {
            How::Single => (times.single, 1),
            How::Repeated => (CALLS, times.repeat / CALLS),
        };
        let call = || {
            kernel::timed_run(program, &self.packet, &self.context, repeat)
                .with_context(|| format!("{}: BPF_PROG_TEST_RUN", self.what))
        };
        let runs = (0..calls).map(|_| call()).collect::<Result<Vec<_>>>()?;
        let verdict = runs.last().map_or(u32::MAX, |(verdict, _)| *verdict);
        Ok((verdict, faster_half(runs.into_iter().map(|(_, time)| time.as_nanos() as f64).collect())))
    }
}

/// The mean of the faster half: the kernel's answers are whole nanoseconds, and a single run's a multiple of the clock's
/// tick, so that a median would be one of a few numbers; what was interrupted is in the slower half.
fn faster_half(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.truncate(times.len().div_ceil(2));
    times.iter().sum::<f64>() / times.len().max(1) as f64
}

#[test]
fn interrupted_runs_do_not_count() {
    assert_eq!(faster_half(vec![900.0, 10.0, 12.0, 11.0, 13.0, 5000.0]), 11.0);
    assert_eq!(faster_half(vec![7.0]), 7.0);
}
