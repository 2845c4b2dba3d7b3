//! Packets that nobody meant, and tables that nobody would fill in so: valid, damaged and random frames through every
//! program, each compared with [the reference model](overlay_tests::reference): forwarded as exactly these bytes, dropped or left for
//! exactly this reason, counted so.
//!
//! `OVERLAY_FUZZ_FRAMES` says how many runs (100,000), or `OVERLAY_FUZZ_SECONDS` how long, `OVERLAY_FUZZ_SEED` where to begin. A failure prints the seed that
//! makes it come first, the packet as hexadecimal bytes after it was made as plain as it could be, and the tables.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use fastrand::Rng;
use overlay_common::Reason;
use overlay_tests::program::{Programs, SANDBOX, SHIM, VNI};
use overlay_tests::reference::{Constants, Tables};

mod damage;
mod examine;
mod frames;
mod shrink;
mod world;

use examine::{Case, Rig};

/// Runs with the same tables.
const RUNS_PER_SET: u64 = 250;
/// Runs of both tests together, unless `OVERLAY_FUZZ_FRAMES` says otherwise.
const RUNS: u64 = 100_000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.replace('_', "").parse().unwrap_or_else(|_| panic!("{variable}: {text:?} is not a number; give one")))
}

/// One set of tables and the packets for it: the same for the same seed.
fn set(rig: &mut Rig, seed: u64, deep: bool) -> Result<(), String> {
    // Other frames in each namespace.
    let mut rng = Rng::with_seed(seed ^ u64::from(rig.constants.netns_id) << 32);
    let tables = world::tables(&mut rng, rig.interfaces(), &rig.constants);
    rig.replace(tables);
    for _ in 0..RUNS_PER_SET {
        let case = frames::case(&mut rng, rig);
        if let Err(found) = rig.examine(&case, deep) {
            return Err(report(rig, &case, &found));
        }
    }
    rig.compare_counters()
}

/// Runs sets until there were enough runs, and meets every reason but these.
fn prove(constants: Constants, programs: Programs, share: u64, never: &[Reason]) {
    let seed = number("OVERLAY_FUZZ_SEED").unwrap_or(1);
    let runs = number("OVERLAY_FUZZ_FRAMES").unwrap_or(RUNS) * share / 100;
    let seconds = number("OVERLAY_FUZZ_SECONDS").map(Duration::from_secs);
    programs.make_a_router();
    let mut rig = Rig::new(programs, constants);
    let started = Instant::now();
    let goes_on = |index| match seconds {
        Some(seconds) => started.elapsed() < seconds,
        None => index < runs.div_ceil(RUNS_PER_SET),
    };
    for index in (0..).take_while(|index| goes_on(*index)) {
        let seed = seed.wrapping_add(index);
        if let Err(mut found) = set(&mut rig, seed, false) {
            // What only the counters of the whole set showed: which packet was it?
            if let Err(packet) = set(&mut rig, seed, true) {
                found = packet;
            }
            panic!("OVERLAY_FUZZ_SEED={seed} finds at once:\n{found}");
        }
    }
    eprintln!("{} runs in {:.1} s, seed {seed}: {:?}", rig.runs, started.elapsed().as_secs_f64(), rig.met);
    if rig.runs < RUNS * share / 100 {
        return;
    }
    // A generator that makes nothing but rubbish would prove little.
    let wanted = Reason::ALL.into_iter().filter(|reason| !never.contains(reason)).map(Reason::name);
    let missing: Vec<_> = wanted.filter(|name| !rig.met.contains_key(name)).collect();
    assert!(missing.is_empty(), "no packet was made for {missing:?}; teach the generator to");
}

/// What has to be known to make a test of it.
fn report(rig: &mut Rig, case: &Case, found: &str) -> String {
    let original = hex(&case.bytes);
    let (case, found) = shrink::shrink(rig, case, found);
    // What was counted before does not matter.
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
    let elsewhere = [Reason::OtherDevice, Reason::InnerIpv6, Reason::Unfinished];
    prove(Constants::default(), Programs::empty(), 70, &elsewhere);
}

/// In another namespace, behind a shim; and where the kernel cannot decapsulate IPv6.
#[test]
fn sandbox_programs_match_reference_model() {
    let constants = Constants { netns_id: SANDBOX.into(), shim: SHIM, vni: VNI, decap_ipv6: false };
    let globals = [("OVL_NETNS_ID", constants.netns_id), ("OVL_SHIM", SHIM), ("OVL_VNI", VNI), ("OVL_DECAP_IPV6", 0)];
    prove(constants, Programs::with_globals(&globals), 30, &[Reason::Unfinished]);
}
