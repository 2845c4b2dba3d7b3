//! The benchmark's own programs (`tests/ebpf`): load, attach, read counters. Also: find the programs of a daemon.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, PerCpuArray, PerCpuValues},
    programs::{LinkOrder, ProgramFd, SchedClassifier, TcAttachType, Xdp, loaded_programs, tc::TcAttachOptions},
    util::nr_cpus,
};
use serde_json::Value;

use crate::lab::NetNs;

/// The programs, compiled: an ELF object for the BPF target.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/overlay-tests-ebpf"));

/// Indices in `BENCH_COUNTS`: see the programs.
const DROPPED: u32 = 0;
const FIRST: u32 = 1;
const LAST: u32 = 2;
const UNTIL_LAST: u32 = 3;

/// A network device in its namespace.
pub(super) struct Device {
    pub(super) ifindex: u32,
    pub(super) mac: [u8; 6],
    /// Of a veth: ifindex of the other end, in the namespace of that end.
    pub(super) peer: Option<u32>,
}

impl Device {
    pub(super) fn read(ns: &NetNs, name: &str) -> Result<Self> {
        let text = ns.try_run(&["ip", "-j", "link", "show", "dev", name])?;
        let links: Value = serde_json::from_str(&text).context("reading the output of `ip -j link`")?;
        let number = |field: &str| links[0][field].as_u64().and_then(|number| u32::try_from(number).ok());
        let bytes = links[0]["address"].as_str().unwrap_or_default().split(':');
        let bytes: Vec<u8> = bytes.filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let mac = bytes.try_into().ok().with_context(|| format!("{}: {name} has no MAC address", ns.name()))?;
        let ifindex = number("ifindex").with_context(|| format!("{}: {name} has no ifindex", ns.name()))?;
        Ok(Self { ifindex, mac, peer: number("link_index") })
    }

    /// Name of the device with this ifindex.
    pub(super) fn name(ns: &NetNs, ifindex: u32) -> Result<String> {
        let links: Value = serde_json::from_str(&ns.try_run(&["ip", "-j", "link"])?).context("reading `ip -j link`")?;
        let found = links.as_array().into_iter().flatten().find(|link| link["ifindex"] == ifindex);
        let name = found.and_then(|link| link["ifname"].as_str());
        name.map(str::to_owned).with_context(|| format!("{}: no interface has ifindex {ifindex}", ns.name()))
    }
}

/// The program with this name that a daemon of any build has attached to TC ingress of a device.
pub(super) fn attached_tc(ns: &NetNs, device: &str, name: &str) -> Result<ProgramFd> {
    let query = ns.enter(|| SchedClassifier::query_tcx(device, TcAttachType::Ingress));
    let (_, programs) = query.with_context(|| format!("{}: cannot query the programs of {device}", ns.name()))?;
    let program = programs.iter().find(|program| program.name_as_str() == Some(name));
    Ok(program.with_context(|| format!("{}: {name} is not at TC ingress of {device}", ns.name()))?.fd()?)
}

/// The XDP program that a daemon of any build has attached to a device.
pub(super) fn attached_xdp(ns: &NetNs, device: &str) -> Result<ProgramFd> {
    let text = ns.try_run(&["ip", "-d", "-j", "link", "show", "dev", device])?;
    let links: Value = serde_json::from_str(&text).context("reading the output of `ip -j link`")?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64();
    let id = id.with_context(|| format!("{}: {device} has no XDP program", ns.name()))?;
    let mut programs = loaded_programs().filter_map(Result::ok);
    let program = programs.find(|program| u64::from(program.id()) == id);
    Ok(program.with_context(|| format!("the XDP program {id} of {device} is gone"))?.fd()?)
}

fn load(globals: &[(&str, u32)]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (name, value) in globals {
        loader.override_global(name, value, true);
    }
    loader.load(OBJECT).context("cannot load the benchmark's programs")
}

/// A TC program at the ingress of a device, ahead of all others. Dropping it detaches the program.
pub(super) struct Attached(Ebpf);

impl Attached {
    pub(super) fn new(ns: &NetNs, device: &str, program: &str, globals: &[(&str, u32)]) -> Result<Self> {
        let mut ebpf = load(globals)?;
        let attached = ns.enter(|| {
            let classifier: &mut SchedClassifier = ebpf.program_mut(program).context("no such program")?.try_into()?;
            classifier.load()?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            classifier.attach_with_options(device, TcAttachType::Ingress, options)?;
            anyhow::Ok(())
        });
        attached.with_context(|| format!("{}: cannot attach {program} to {device}", ns.name()))?;
        Ok(Self(ebpf))
    }

    fn counts(&mut self) -> Result<PerCpuArray<&mut MapData, u64>> {
        Ok(PerCpuArray::try_from(self.0.map_mut("BENCH_COUNTS").context("no such map")?)?)
    }

    /// Resets the counters of `bench_drop`.
    pub(super) fn reset(&mut self) -> Result<()> {
        let mut counts = self.counts()?;
        let cpus = nr_cpus().map_err(|(path, error)| anyhow!("{path}: {error}"))?;
        for index in [DROPPED, FIRST, LAST, UNTIL_LAST] {
            counts.set(index, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
        }
        Ok(())
    }

    /// Packets per second that `bench_drop` has dropped, between its first and last reading of the clock.
    pub(super) fn rate(&mut self) -> Result<f64> {
        let counts = self.counts()?;
        let of = |index: u32| anyhow::Ok(counts.get(&index, 0)?.to_vec());
        let (dropped, first, last, until_last) = (of(DROPPED)?, of(FIRST)?, of(LAST)?, of(UNTIL_LAST)?);
        // One CPU processes all injected frames; other CPUs may see stray packets.
        let busiest = (0..dropped.len()).max_by_key(|cpu| dropped[*cpu]).context("no CPU")?;
        let packets = until_last[busiest];
        ensure!(packets > 0, "too few of the injected frames arrived: {}", dropped[busiest]);
        Ok(packets as f64 / Duration::from_nanos(last[busiest] - first[busiest]).as_secs_f64())
    }
}

/// A program for `BPF_PROG_TEST_RUN`.
pub(super) struct Loaded {
    pub(super) fd: ProgramFd,
    _ebpf: Ebpf,
}

impl Loaded {
    pub(super) fn tc(program: &str) -> Result<Self> {
        let mut ebpf = load(&[])?;
        let classifier: &mut SchedClassifier = ebpf.program_mut(program).context("no such program")?.try_into()?;
        classifier.load()?;
        Ok(Self { fd: classifier.fd()?.try_clone()?, _ebpf: ebpf })
    }

    pub(super) fn xdp(program: &str, globals: &[(&str, u32)]) -> Result<Self> {
        let mut ebpf = load(globals)?;
        let xdp: &mut Xdp = ebpf.program_mut(program).context("no such program")?.try_into()?;
        xdp.load()?;
        Ok(Self { fd: xdp.fd()?.try_clone()?, _ebpf: ebpf })
    }
}
