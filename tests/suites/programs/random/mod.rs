//! Fuzzing: valid, mutated and random frames over random tables through every program. Action, bytes, reason and
//! counters are compared with [the reference model](overlay_tests::reference).
//!
//! `OVERLAY_FUZZ_FRAMES` sets the number of runs (100,000), `OVERLAY_FUZZ_SECONDS` their duration instead. A failure
//! prints the command that repeats it, the minimised packet in hexadecimal, and the tables.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use fastrand::Rng;
use overlay_common::Reason;
use overlay_tests::program::{Programs, SANDBOX, SHIM, VNI};
use overlay_tests::reference::{Constants, Tables};
use overlay_tests::seed::Seed;

mod controls;
mod frames;
mod mutate;
mod rig;
mod shrink;
mod tables;

use rig::{Case, Rig};

/// Runs with the same tables.
const RUNS_PER_SET: u64 = 250;
/// Default of `OVERLAY_FUZZ_FRAMES`: runs of both tests together.
const RUNS: u64 = 100_000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.replace('_', "").parse().unwrap_or_else(|_| panic!("{variable}: {text:?} is not a number; give one")))
}

/// Runs the tables and packets of one seed.
fn run_seed(rig: &mut Rig, seed: u64, deep: bool) -> Result<(), String> {
    // Each netns gets other frames.
    let mut rng = Rng::with_seed(seed ^ u64::from(rig.constants.netns_id) << 32);
    let tables = tables::random_tables(&mut rng, rig.interfaces(), &rig.constants);
    rig.replace(tables);
    for _ in 0..RUNS_PER_SET {
        let case = frames::case(&mut rng, rig);
        if let Err(found) = rig.compare_case(&case, deep) {
            return Err(report(rig, &case, &found));
        }
    }
    rig.compare_counters()
}

/// Runs parts until the number or duration is reached; every reason except `never` must occur.
fn fuzz(constants: Constants, programs: Programs, share: u64, never: &[Reason]) {
    let start = Seed::start();
    let default = RUNS * share / 100;
    let runs = number("OVERLAY_FUZZ_FRAMES").map_or(default, |runs| runs * share / 100);
    let seconds = number("OVERLAY_FUZZ_SECONDS").map(Duration::from_secs);
    programs.enable_forwarding();
    let mut rig = Rig::new(programs, constants);
    let started = Instant::now();
    let missing = |rig: &Rig| -> Vec<_> {
        let required = Reason::ALL.into_iter().filter(|reason| !never.contains(reason)).map(Reason::name);
        required.filter(|name| !rig.counts.contains_key(name)).collect()
    };
    let goes_on = |rig: &Rig| match seconds {
        Some(seconds) => started.elapsed() < seconds,
        // The rarest reason occurs about ten times in the default number of runs.
        None => rig.runs < runs || (runs == default && rig.runs < 10 * runs && !missing(rig).is_empty()),
    };
    while goes_on(&rig) {
        let seed = start.part(rig.runs / RUNS_PER_SET);
        if let Err(mut found) = run_seed(&mut rig, seed.number(), false) {
            // A difference in the final counters does not identify the packet: compare after each one.
            if let Err(packet) = run_seed(&mut rig, seed.number(), true) {
                found = packet;
            }
            panic!("repeat with {seed}:\n{found}");
        }
    }
    eprintln!("{} runs in {:.1} s: {:?}", rig.runs, started.elapsed().as_secs_f64(), rig.counts);
    let missing = missing(&rig);
    assert!(missing.is_empty() || rig.runs < default, "no packet was generated for {missing:?}; extend the generator");
}

/// Everything that a regression test needs.
fn report(rig: &mut Rig, case: &Case, found: &str) -> String {
    let original = hex(&case.bytes);
    let (case, found) = shrink::shrink(rig, case, found);
    // Earlier counts do not matter.
    let tables = Tables { reasons: BTreeMap::new(), ..rig.tables.clone() };
    let Case { program, skb, bytes } = &case;
    let packet = hex(bytes);
    format!("{found}\n{program:?} {skb:?}\npacket {packet}\nbefore {original}\n{:?}\n{tables:?}", rig.constants)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn programs_match_reference_model() {
    // Packets in a tick are not repeatable: `segments.rs` counts them.
    let never = [Reason::OtherDevice, Reason::InnerIpv6, Reason::Unfinished, Reason::Segments];
    fuzz(Constants::default(), Programs::empty(), 70, &never);
}

/// The programs of another netns behind a shim, on a kernel that cannot decapsulate IPv6.
#[test]
fn sandbox_programs_match_reference_model() {
    let constants = Constants { netns_id: SANDBOX.into(), shim: SHIM, vni: VNI, decap_ipv6: false };
    let globals = [("OVL_NETNS_ID", constants.netns_id), ("OVL_SHIM", SHIM), ("OVL_VNI", VNI), ("OVL_DECAP_IPV6", 0)];
    fuzz(constants, Programs::with_globals(&globals), 30, &[Reason::Unfinished, Reason::Segments]);
}
