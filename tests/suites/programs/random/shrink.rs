//! From a packet that shows a fault to a plainer one that still does.

use overlay_tests::program::Skb;

use super::examine::{Case, Rig};

/// Makes the packet as short and as empty as it can be made, byte by byte.
pub(super) fn shrink(rig: &mut Rig, case: &Case, found: &str) -> (Case, String) {
    let (mut case, mut found) = (case.clone(), found.to_owned());
    let mut attempt = |smaller: Case, case: &mut Case| {
        // Counters are part of what the model goes by, and a fault may have left them wrong.
        rig.sync();
        if let Err(error) = rig.examine(&smaller, true) {
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
