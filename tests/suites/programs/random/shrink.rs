//! Minimises a failing packet.

use overlay_tests::program::Skb;

use super::rig::{Case, Rig};

/// Truncates the packet and clears its bytes as long as the failure persists.
pub(super) fn shrink(rig: &mut Rig, case: &Case, found: &str) -> (Case, String) {
    let (mut case, mut found) = (case.clone(), found.to_owned());
    let mut attempt = |smaller: Case, case: &mut Case| {
        // The model uses the counters, and a failure may leave them out of step.
        rig.sync();
        if let Err(error) = rig.compare_case(&smaller, true) {
            (*case, found) = (smaller, error);
            return true;
        }
        false
    };
    let ifindex = case.skb.ifindex;
    let _ = attempt(Case { skb: Skb { ifindex, ..Skb::default() }, ..case.clone() }, &mut case);
    let mut cut = case.bytes.len() / 2;
    while cut > 0 {
        let len = case.bytes.len().saturating_sub(cut);
        if len < 14 || !attempt(Case { bytes: case.bytes[..len].to_vec(), ..case.clone() }, &mut case) {
            cut /= 2;
        }
    }
    for at in (0..case.bytes.len()).rev() {
        if case.bytes[at] != 0 {
            let mut bytes = case.bytes.clone();
            bytes[at] = 0;
            let _ = attempt(Case { bytes, ..case.clone() }, &mut case);
        }
    }
    rig.sync();
    (case, found)
}
