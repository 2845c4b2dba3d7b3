//! The benchmark's own programs (`overlay-ebpf/src/bench.rs`): loading, attaching, reading what they count.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::PerCpuArray,
    programs::{LinkOrder, ProgramFd, SchedClassifier, TcAttachType, Xdp, tc::TcAttachOptions},
};
use overlay_user::datapath::BENCH_OBJECT;
use serde_json::Value;

use crate::lab::NetNs;

/// A network device as its namespace sees it.
pub(super) struct Device {
    pub(super) ifindex: u32,
    pub(super) mac: [u8; 6],
    /// Of a veth: the other end, in that end's namespace.
    pub(super) peer: Option<u32>,
}

impl Device {
    pub(super) fn look(ns: &NetNs, name: &str) -> Result<Self> {
        let text = ns.try_run(&["ip", "-j", "link", "show", "dev", name])?;
        let links: Value = serde_json::from_str(&text).context("reading the output of `ip -j link`")?;
        let number = |field: &str| links[0][field].as_u64().and_then(|number| u32::try_from(number).ok());
        let bytes = links[0]["address"].as_str().unwrap_or_default().split(':');
        let bytes: Vec<u8> = bytes.filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let mac = bytes.try_into().ok().with_context(|| format!("{}: {name} has no MAC address", ns.name()))?;
        let ifindex = number("ifindex").with_context(|| format!("{}: {name} has no index", ns.name()))?;
        Ok(Self { ifindex, mac, peer: number("link_index") })
    }
}

fn load(globals: &[(&str, u32)]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (name, value) in globals {
        loader.override_global(name, value, true);
    }
    loader.load(BENCH_OBJECT).context("loading the benchmark's programs")
}

/// A TC program at the ingress of a device, before all others there. It is detached with the drop.
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
        attached.with_context(|| format!("{}: attaching {program} to {device}", ns.name()))?;
        Ok(Self(ebpf))
    }

    /// Packets that `bench_drop` has dropped so far.
    pub(super) fn dropped(&self) -> Result<u64> {
        let counts: PerCpuArray<_, u64> = self.0.map("BENCH_COUNTS").context("no such map")?.try_into()?;
        Ok(counts.get(&0, 0)?.iter().sum())
    }
}

/// A program that is loaded to be run with `BPF_PROG_TEST_RUN`.
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
