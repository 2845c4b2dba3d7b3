//! Mutants of the programs. Only the eBPF package is compiled for each, and the tests load the result instead of the
//! programs that they were built with (`OVERLAY_PROGRAMS`).

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{cargo, check, executables, line, target_directory};
use crate::ebpf_toolchain::{self, EbpfToolchain};
use crate::edited_copy::{self, Edit, Edited};
use crate::setup::MIN_RUSTC;
use crate::test::TESTED;

/// A fault in the programs.
struct Mutant {
    /// The fault, with the program as the subject.
    name: &'static str,
    edit: Edit,
    /// The modules of the suite `programs` that must notice it, as a regular expression. Not `random`, which compares
    /// with the reference model: each fault has a test of its own.
    modules: &'static str,
}

const fn mutant(name: &'static str, edit: Edit, modules: &'static str) -> Mutant {
    Mutant { name, edit, modules }
}

const PORT: &str = "overlay-ebpf/src/hooks/port.rs";
const NIC_TC: &str = "overlay-ebpf/src/hooks/nic_tc.rs";
const NIC_XDP: &str = "overlay-ebpf/src/hooks/nic_xdp.rs";
const SHIM: &str = "overlay-ebpf/src/hooks/shim.rs";
const ANTISPOOF: &str = "overlay-ebpf/src/packet/antispoof.rs";
const ECN: &str = "overlay-ebpf/src/packet/ecn.rs";
const ENCAP: &str = "overlay-ebpf/src/packet/encap.rs";
const FLOW: &str = "overlay-common/src/flow.rs";
const HEARTBEAT: &str = "overlay-ebpf/src/heartbeat.rs";
const INNER: &str = "overlay-ebpf/src/packet/inner.rs";
const OUTER: &str = "overlay-ebpf/src/packet/outer.rs";
const SWITCH: &str = "overlay-ebpf/src/packet/switch.rs";
const FLOWS: &str = "overlay-ebpf/src/packet/flows.rs";
const HEADERS: &str = "overlay-common/src/encap.rs";

const MUTANTS: [Mutant; 26] = [
    mutant(
        "ovl_port_in ignores the result of the check of the source MAC",
        (PORT, "    check_source_mac(port, eth)?;\n", "    let _ = check_source_mac(port, eth);\n"),
        "spoofed",
    ),
    mutant(
        "ovl_port_in compares the destination address with that of a strict port",
        (PORT, "packet.load(ETH_LEN + 12)", "packet.load(ETH_LEN + 16)"),
        "spoofed",
    ),
    mutant(
        "the programs ignore the heartbeat deadline",
        (HEARTBEAT, "if heartbeat.is_expired(", "if false && heartbeat.is_expired("),
        "heartbeat",
    ),
    mutant(
        "ovl_port_in ignores the MTU of the VTEP",
        (ENCAP, "        frame.check_mtu(vtep.mtu)?;\n", "        let _ = frame.check_mtu(vtep.mtu);\n"),
        "mtu",
    ),
    mutant(
        "ovl_port_in encapsulates neighbour solicitations",
        (PORT, "        ip.check_solicitation(packet)?;\n", "        let _ = ip.check_solicitation(packet);\n"),
        "reasons",
    ),
    mutant(
        "ovl_nic_in decapsulates neighbour solicitations",
        (
            INNER,
            "            check_solicitation(packet, ENCAP_LEN, head[6])?;\n",
            "            let _ = check_solicitation(packet, ENCAP_LEN, head[6]);\n",
        ),
        "fallback",
    ),
    mutant(
        "ovl_port_in copies DSCP instead of ECN",
        (ENCAP, "ecn::encapsulate(ip.tos)", "ecn::encapsulate(ip.tos >> 2)"),
        "encap",
    ),
    mutant(
        "ovl_port_in uses a flow's hash without mixing its halves",
        (FLOW, "let hash = hash ^ hash << 16;", ""),
        "encap",
    ),
    mutant(
        "ovl_port_in reserves one identification for a super-packet",
        (ENCAP, "(&raw mut (*ids).next, size.packets)", "(&raw mut (*ids).next, 1)"),
        "encap",
    ),
    mutant(
        "ovl_port_in computes outer checksums without the length of the datagram",
        (HEADERS, " + word_sum(pair(udp_len, 0));", ";"),
        "encap",
    ),
    mutant(
        "ovl_port_in omits the IPv4 identification from the header checksum",
        (HEADERS, " + packet.id as u32;", ";"),
        "encap",
    ),
    mutant(
        "ovl_port_in writes the length of the IPv4 packet as that of the datagram",
        (HEADERS, "total_len.wrapping_sub(IPV4_LEN as u16)", "total_len.wrapping_sub(IPV4_LEN as u16 & 0)"),
        "encap",
    ),
    mutant(
        "ovl_nic_in ignores the result of the check of inner sources",
        (
            SWITCH,
            "        antispoof::check_inner(packet, vni, peer)?;\n",
            "        let _ = antispoof::check_inner(packet, vni, peer);\n",
        ),
        "strict",
    ),
    mutant(
        "ovl_nic_in compares the inner MAC with any VTEP",
        (ANTISPOOF, " && entry.target == peer.vtep => *entry", " => *entry"),
        "strict",
    ),
    mutant(
        "ovl_nic_in decapsulates packets for other addresses",
        (SWITCH, "!to_host || outer.ip().dst_addr != underlay.addr", "!to_host"),
        "fallback",
    ),
    mutant(
        "ovl_nic_in decapsulates first fragments",
        (OUTER, "header.frags[0] & 0x3f", "header.frags[0] & 0x1f"),
        "fallback",
    ),
    mutant(
        "ovl_nic_in does not update the header checksum after an ECN mark",
        (ECN, "(*header).check = checksum.to_be_bytes()", "(*header).check = ((*header).check, checksum).0"),
        "rfc6040",
    ),
    mutant(
        "ovl_nic_in decapsulates super-packets of UDP",
        (NIC_TC, "received.inner.protocol != IPPROTO_TCP", "received.inner.protocol == IPPROTO_TCP"),
        "decap",
    ),
    mutant(
        "ovl_nic_xdp compares no destination MAC",
        (SWITCH, "outer.mac() == underlay.mac", "outer.mac() != [0; 6]"),
        "fallback",
    ),
    mutant(
        "ovl_nic_xdp decapsulates IPv6 extension headers",
        (
            NIC_XDP,
            "!matches!(received.inner.protocol, IPPROTO_UDP | IPPROTO_ICMPV6)",
            "received.inner.protocol == IPPROTO_TCP",
        ),
        "decap",
    ),
    mutant("ovl_shim_out compares no source address", (SHIM, "        && ip.src_addr == underlay.addr\n", ""), "shim"),
    mutant(
        "ovl_shim_in delivers to interfaces of other namespaces",
        (SHIM, " && u32::from(to.netns_id) == config::netns_id()", ""),
        "shim",
    ),
    mutant(
        "ovl_nic_in accepts a source behind another VTEP in a learning network",
        (
            SWITCH,
            "Some(entry) if entry.kind == FdbEntry::REMOTE && entry.target == peer.vtep => Ok(()),",
            "Some(entry) if entry.kind == FdbEntry::REMOTE => Ok(()),",
        ),
        "decap",
    ),
    mutant(
        "ovl_nic_in accepts the source MAC of the VXLAN device",
        (SWITCH, "if inner.eth.source_is(MacAddr(peer.device_mac)) {", "if inner.eth.source_is(MacAddr([0; 6])) {"),
        "decap",
    ),
    mutant(
        "ovl_nic_in delivers single packets ahead of the super-packets of their flow",
        (FLOWS, "} else if !flow.takes_kernel_path(now) {", "} else if now > 0 {"),
        "flows",
    ),
    mutant(
        "ovl_nic_in never counts a super-packet between TCP segments",
        (FLOWS, "    if size.packets > 1 {", "    if size.packets > 1_000 {"),
        "flows",
    ),
];

/// Runs the mutants whose names contain one of `names`, or all.
pub(super) fn task(names: &[String]) -> Result<()> {
    let is_selected = |mutant: &&Mutant| names.is_empty() || names.iter().any(|name| mutant.name.contains(name));
    let mutants: Vec<_> = MUTANTS.iter().filter(is_selected).collect();
    ensure!(!mutants.is_empty(), "no mutant has one of these names");
    // All of them before the first is built.
    let edited = mutants.iter().map(|mutant| mutant.edited()).collect::<Result<Vec<_>>>()?;
    check(cargo().arg("build").args(TESTED).args(["--test", "programs"]))?;

    let build = Build::new()?;
    let modules: Vec<_> = mutants.iter().map(|mutant| mutant.modules).collect();
    let failed = failed_tests(&build.programs(Edited::new())?, &modules.join("|"))?;
    ensure!(failed.is_empty(), "tests fail with the unmodified programs: {}", failed.join(", "));
    let width = mutants.iter().map(|mutant| mutant.name.len()).max().unwrap_or_default();
    println!("{:width$} | noticed by", "mutant");
    let mut survivors = 0;
    for (mutant, edited) in mutants.iter().zip(edited) {
        let run = || failed_tests(&build.programs(edited)?, mutant.modules);
        let failed = run().with_context(|| format!("mutant {:?}", mutant.name))?;
        let by = match failed.as_slice() {
            [] => "NO TEST".to_owned(),
            [test] => test.clone(),
            [test, others @ ..] => format!("{test} and {} more", others.len()),
        };
        println!("{:width$} | {by}", mutant.name);
        survivors += usize::from(failed.is_empty());
    }
    ensure!(survivors == 0, "no test notices {survivors} of {} mutants; add tests", mutants.len());
    Ok(())
}

impl Mutant {
    fn edited(&self) -> Result<Edited> {
        let context = || format!("mutant {:?} no longer applies; adapt xtask/src/mutants/programs.rs", self.name);
        edited_copy::edited(&[self.edit]).with_context(context)
    }
}

/// Builds programs from an edited copy of the sources.
struct Build {
    toolchain: EbpfToolchain,
    target: PathBuf,
}

impl Build {
    fn new() -> Result<Self> {
        let lacks = |lacks: Vec<String>| anyhow::anyhow!("no toolchain compiles eBPF:\n{}", lacks.join("\n"));
        Ok(Self { toolchain: ebpf_toolchain::find(MIN_RUSTC).map_err(lacks)?, target: target_directory()? })
    }

    /// Compiles the programs as aya-build does for overlay-user, and returns the path of the object.
    fn programs(&self, edited: Edited) -> Result<PathBuf> {
        let copy = self.target.join("mutants");
        edited_copy::write(&copy, edited, 2)?;
        let mut build = Command::new("rustup");
        build.current_dir(&copy).args(["run", &self.toolchain.name, "cargo", "build", "--release", "--locked"]);
        build.args(["--package", "overlay-ebpf", "--target", "bpfel-unknown-none", "-Zbuild-std=core"]);
        // The directory of the build scripts has the dependencies; the result must not replace theirs.
        build.env("CARGO_BUILD_BUILD_DIR", self.target.join("debug/ebpf"));
        build.arg("--target-dir").arg(copy.join("target"));
        let arch = env::consts::ARCH;
        let flags = ["--cfg=bpf_target_arch=\"", arch, "\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf"];
        build.env("CARGO_ENCODED_RUSTFLAGS", flags.concat()).env("CARGO_TERM_QUIET", "true");
        build.envs(self.toolchain.environment()?);
        let built = executables(build)?;
        let object = built.into_iter().find(|(name, _)| name == "overlay-ebpf");
        object.map(|(_, path)| path).context("cargo built no programs")
    }
}

/// The tests in `modules` of the suite `programs` that fail with the object `programs`.
fn failed_tests(programs: &Path, modules: &str) -> Result<Vec<String>> {
    let mut nextest = cargo();
    nextest.args(["nextest", "run"]).args(TESTED).args(["--test", "programs", "--no-fail-fast"]);
    nextest.args(["-E", &format!("test(/^({modules})::/)")]);
    nextest.args(["--status-level", "fail", "--final-status-level", "none", "--failure-output", "immediate"]);
    nextest.args(["--color", "never", "--show-progress", "none", "--cargo-quiet"]);
    nextest.env("OVERLAY_PROGRAMS", programs).stdin(Stdio::null());
    let output = nextest.output().with_context(|| format!("cannot start {}", line(&nextest)))?;
    let text = String::from_utf8_lossy(&output.stderr);
    // A mutant that the verifier rejects fails in every test.
    ensure!(!text.contains("the verifier accepts the program"), "the kernel rejects the programs:\n{text}");
    // `FAIL [   0.123s] overlay-tests::programs mtu::name`
    let is_result = |line: &&str| {
        line.trim_start().starts_with(|first: char| first.is_ascii_uppercase())
            && line.contains("] overlay-tests::programs ")
    };
    let failed = text.lines().filter(is_result).filter_map(|line| line.split_whitespace().last());
    let failed: Vec<_> = failed.map(str::to_owned).collect();
    match output.status.code() {
        Some(0) => Ok(Vec::new()),
        Some(100) if !failed.is_empty() => Ok(failed),
        _ => bail!("{}: {}\n{text}", line(&nextest), output.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_applies_once() {
        for mutant in &MUTANTS {
            let edited = mutant.edited().unwrap();
            assert_eq!(edited.len(), 1, "{}", mutant.name);
            assert_ne!(mutant.edit.1, mutant.edit.2, "{}", mutant.name);
        }
    }
}
