//! `test_run`: the run time of each program for one packet, by `BPF_PROG_TEST_RUN`, without the network stack.
//!
//! A program that encapsulates or decapsulates modifies its packet, so that a second run has another verdict. Such runs
//! use a fresh packet each; the others run a million times over one packet. The time of an empty program, run the same
//! way, is subtracted: the overhead of clock and kernel.
//!
//! The measured programs are those that the daemons of a path have attached; they can come from another build.

use anyhow::{Context, Result, ensure};
use aya::programs::ProgramFd;
use overlay_common::{
    maps::{Peer, flags},
    names,
};
use overlay_user::testing::plan::{Changes, Peers};

use super::{
    live,
    paths::Path,
    programs::{Device, Loaded, attached_tc, attached_xdp},
    results::{Results, TIME},
};
use crate::{
    lab::{NIC, NetNs, traffic},
    maps::WritableMaps,
    program::{Skb, TC_NEXT, TC_REDIRECT, XDP_PASS, XDP_REDIRECT, kernel},
};

/// The case's name.
pub(super) const NAME: &str = "test_run";

/// Number of system calls for the runs over one packet; some may be interrupted.
const CALLS: u32 = 20;

/// Number of runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// With a fresh packet each.
    pub(super) single: u32,
    /// Over one packet.
    pub(super) repeat: u32,
}

/// Mode of the runs: a fresh packet each (`Single`), or one packet for all (`Repeated`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum RunMode {
    Single,
    Repeated,
}

/// A program and its input packet.
struct Run {
    name: &'static str,
    /// Network namespace of the program's devices.
    host: NetNs,
    program: ProgramFd,
    nothing: ProgramFd,
    packet: Vec<u8>,
    context: Vec<u32>,
    how: RunMode,
    /// Expected return value.
    verdict: u32,
}

/// The programs that the daemons of a path have attached, with their input packets.
pub(super) struct TestRuns(Vec<Run>);

impl TestRuns {
    /// Finds the programs of `path`, which must be [`Kind::Xdp`](super::paths::Kind::Xdp).
    pub(super) fn open(path: &Path) -> Result<Self> {
        use RunMode::{Repeated, Single};
        let [sender, receiver] = [1, 2].map(|number| path.testbed.lab.host(number));
        let port = Device::read(path.client(), "eth0")?.peer.context("eth0 of the client is no veth")?;
        let nic = Device::read(receiver, NIC)?;
        let port_in = attached_tc(sender, &Device::name(sender, port)?, names::PORT_IN)?;
        let (nic_in, nic_xdp) = (attached_tc(receiver, NIC, names::NIC_IN)?, attached_xdp(receiver, NIC)?);
        let (nothing, xdp_nothing) = (Loaded::tc("bench_nothing")?, Loaded::xdp("bench_xdp_nothing", &[])?);

        let frame = live::frame(path);
        let mut unknown = frame.clone();
        // A unicast address that no endpoint has.
        unknown[..6].copy_from_slice(&[2, 2, 2, 2, 2, 2]);
        let outer = live::on_the_wire(path, &nic, &frame)?;
        let not_ours = [&nic.mac, &frame[6..]].concat();

        let at_port = |name, packet, how, verdict| {
            run(name, sender, (&port_in, &nothing), packet, kernel::sk_buff(port, Skb::default()), how, verdict)
        };
        let at_nic = |name, packet, how, verdict| {
            let context = kernel::sk_buff(nic.ifindex, Skb::default());
            run(name, receiver, (&nic_in, &nothing), packet, context, how, verdict)
        };
        let by_xdp = |name, packet, how, verdict| {
            run(name, receiver, (&nic_xdp, &xdp_nothing), packet, Vec::new(), how, verdict)
        };
        Ok(Self(vec![
            at_port("ovl_port_in, encapsulated", &frame, Single, TC_REDIRECT)?,
            at_port("ovl_port_in, passed to the kernel", &unknown, Repeated, TC_NEXT)?,
            at_nic("ovl_nic_in, decapsulated", &outer, Single, TC_REDIRECT)?,
            at_nic("ovl_nic_in, not VXLAN", &not_ours, Repeated, TC_NEXT)?,
            by_xdp("ovl_nic_xdp, decapsulated", &outer, Single, XDP_REDIRECT)?,
            by_xdp("ovl_nic_xdp, not VXLAN", &not_ours, Repeated, XDP_PASS)?,
        ]))
    }

    /// Adds the checking programs of `path`, which must be [`Kind::Strict`](super::paths::Kind::Strict), over packets
    /// that they pass.
    pub(super) fn add_checks(&mut self, path: &Path) -> Result<()> {
        let [sender, receiver] = [1, 2].map(|number| path.testbed.lab.host(number));
        let port = Device::read(path.client(), "eth0")?.peer.context("eth0 of the client is no veth")?;
        let nic = Device::read(receiver, NIC)?;
        let port_check = attached_tc(sender, &Device::name(sender, port)?, names::PORT_CHECK)?;
        let nic_check = attached_tc(receiver, NIC, names::NIC_CHECK)?;
        let nothing = Loaded::tc("bench_nothing")?;
        let frame = live::frame(path);
        let outer = live::on_the_wire(path, &nic, &frame)?;
        for (name, host, program, packet, ifindex) in [
            ("ovl_port_check, passed on", sender, &port_check, &frame, port),
            ("ovl_nic_check, passed on", receiver, &nic_check, &outer, nic.ifindex),
        ] {
            let context = kernel::sk_buff(ifindex, Skb::default());
            self.0.push(run(name, host, (program, &nothing), packet, context, RunMode::Repeated, TC_NEXT)?);
        }
        Ok(())
    }

    /// Adds decapsulation on `path` as in a network whose VXLAN device learns: one more look-up.
    pub(super) fn add_learning(&mut self, path: &Path) -> Result<()> {
        let receiver = path.testbed.lab.host(2);
        let mut maps = WritableMaps::open(&path.testbed.pin_root(2))?;
        for (key, peer) in maps.read()?.peers {
            maps.write(&Changes::set::<Peers>(key, Peer { flags: flags::LEARNING as u16, ..peer }))?;
        }
        let nic = Device::read(receiver, NIC)?;
        let (nic_in, nothing) = (attached_tc(receiver, NIC, names::NIC_IN)?, Loaded::tc("bench_nothing")?);
        let outer = live::on_the_wire(path, &nic, &live::frame(path))?;
        let context = kernel::sk_buff(nic.ifindex, Skb::default());
        let name = "ovl_nic_in, decapsulated, learning";
        self.0.push(run(name, receiver, (&nic_in, &nothing), &outer, context, RunMode::Single, TC_REDIRECT)?);
        Ok(())
    }

    /// Number of runs, the same for every build.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Name of the program, and its action on the packet.
    pub(super) fn name(&self, index: usize) -> &'static str {
        self.0[index].name
    }

    /// Measures one program once: nanoseconds of a run, including those of [`Self::nothing`].
    pub(super) fn program(&self, index: usize, times: Times) -> Result<f64> {
        let run = &self.0[index];
        let (verdict, time) = run.on_its_cpu(&run.program, times)?;
        ensure!(verdict == run.verdict, "{}: the program returned {verdict}, expected {}", run.name, run.verdict);
        Ok(time)
    }

    /// Measures the empty program once, with the same packet.
    pub(super) fn nothing(&self, index: usize, times: Times) -> Result<f64> {
        let run = &self.0[index];
        Ok(run.on_its_cpu(&run.nothing, times)?.1)
    }
}

fn run(
    name: &'static str,
    host: &NetNs,
    (program, nothing): (&ProgramFd, &Loaded),
    packet: &[u8],
    context: Vec<u32>,
    how: RunMode,
    verdict: u32,
) -> Result<Run> {
    let (program, nothing) = (program.try_clone()?, nothing.fd.try_clone()?);
    Ok(Run { name, host: host.clone(), program, nothing, packet: packet.to_vec(), context, how, verdict })
}

/// Measures all programs once.
pub(super) fn measure(runs: &TestRuns, times: Times, round: usize, results: &mut Results) -> Result<()> {
    for index in 0..runs.len() {
        let time = runs.program(index, times)? - runs.nothing(index, times)?;
        results.add(NAME, TIME, runs.name(index), &[], round, time);
    }
    results.note(
        "`test_run` is the run time of the program alone, with warm CPU caches; the run time of an empty program is \
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

    /// Return value of the program, and nanoseconds of one run.
    fn time(&self, program: &ProgramFd, times: Times) -> Result<(u32, f64)> {
        let (calls, repeat) = match self.how {
            RunMode::Single => (times.single, 1),
            RunMode::Repeated => (CALLS, times.repeat / CALLS),
        };
        let call = || {
            kernel::timed_run(program, &self.packet, &self.context, repeat)
                .with_context(|| format!("{}: BPF_PROG_TEST_RUN failed", self.name))
        };
        let runs = (0..calls).map(|_| call()).collect::<Result<Vec<_>>>()?;
        let verdict = runs.last().map_or(u32::MAX, |(verdict, _)| *verdict);
        Ok((verdict, faster_half(runs.into_iter().map(|(_, time)| time.as_nanos() as f64).collect())))
    }
}

/// Mean of the faster half. The kernel reports whole nanoseconds, and for a single run a multiple of the clock tick, so
/// a median would have few distinct values. Interrupted runs are in the slower half.
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
