//! Negative controls: one fault of one program run is exactly one difference from the reference model, or two when two
//! packets are exchanged.

use fastrand::Rng;
use overlay_common::{Reason, maps::Count};
use overlay_tests::{
    lab::Fault,
    program::Programs,
    reference::{Action, Constants, Prediction, Program, predict},
};

use super::{
    frames,
    rig::{Case, Rig, compare, hook},
    tables,
};

/// Runs of one control.
const RUNS: usize = 6;

/// Cases in which `ovl_nic_in` decapsulates different frames, with their predictions, and the tables for them.
fn cases(rig: &mut Rig) -> Vec<(Case, Prediction)> {
    let mut rng = Rng::with_seed(1);
    loop {
        rig.replace(tables::random_tables(&mut rng, rig.interfaces(), &rig.constants));
        let mut cases: Vec<(Case, Prediction)> = Vec::new();
        for _ in 0..2000 {
            let case = frames::case(&mut rng, rig);
            let predicted = predict(case.program, &rig.constants, &rig.tables, &rig.packet(&case));
            let is_new = |(_, earlier): &(Case, Prediction)| earlier.action != predicted.action;
            if case.program == Program::NicIn
                && matches!(predicted.action, Action::Forwarded(..))
                && cases.iter().all(is_new)
            {
                cases.push((case, predicted));
            }
            if cases.len() == RUNS {
                return cases;
            }
        }
    }
}

/// Runs all cases with a fault of the third; returns the number of the packet in each difference, and the difference up
/// to its first line.
fn verdict(rig: &mut Rig, fault: Option<Fault>) -> Vec<(usize, String)> {
    let cases = cases(rig);
    let execute = |(case, _): &(Case, Prediction)| {
        rig.programs.execute(hook(case.program), &case.bytes, case.skb).expect("the kernel accepts the packet")
    };
    let mut found: Vec<_> = cases.iter().map(execute).collect();
    let third = &cases[2];
    match fault {
        None => {}
        Some(Fault::Loss) => found[2] = (hook(third.0.program).drop(), third.0.bytes.clone()),
        Some(Fault::Reordering) => found.swap(2, 3),
        Some(Fault::Duplication) => drop(execute(third)),
        Some(Fault::Corruption | Fault::InvalidChecksum) => *found[2].1.last_mut().expect("a frame has bytes") ^= 1,
    }
    cases.iter().for_each(|(_, predicted)| rig.tables.count(predicted));
    let mut differences = Vec::new();
    for (number, ((case, predicted), found)) in (1..).zip(cases.iter().zip(found)) {
        differences.extend(compare(case, predicted, found).err().map(|difference| (number, difference)));
    }
    // Counters belong to no packet.
    differences.extend(rig.compare_counters().err().map(|difference| (0, difference)));
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    differences.into_iter().map(|(number, difference)| (number, first_line(difference))).collect()
}

#[test]
fn reference_model_detects_each_fault_of_one_run() {
    let mut rig = Rig::new(Programs::empty(), Constants::default());
    assert_eq!(verdict(&mut rig, None), []);
    let hook = hook(Program::NicIn);
    let dropped = format!("the program returns {}; the model predicts {}: decap", hook.drop(), hook.redirect());
    assert_eq!(verdict(&mut rig, Some(Fault::Loss)), [(3, dropped)]);
    let [(3, third), (4, fourth)] = &verdict(&mut rig, Some(Fault::Reordering))[..] else {
        panic!("an exchange is a difference of each packet")
    };
    assert!([third, fourth].iter().all(|text| text.starts_with("decap: byte ")), "{third}, {fourth}");

    let (_, third) = cases(&mut rig).swap_remove(2);
    let found = verdict(&mut rig, Some(Fault::Duplication));
    let (expected, again) = (rig.tables.reasons[&(Reason::Decap as u32)], third.counted.unwrap());
    let counted = Count { packets: expected.packets + again.packets, bytes: expected.bytes + again.bytes };
    assert_eq!(found, [(0, format!("decap is {counted:?}; the model predicts {expected:?}"))]);

    let Action::Forwarded(_, frame) = third.action else { panic!("{third:?}") };
    let modified = format!("decap: byte {} differs", frame.len() - 1);
    // The comparison does not depend on checksums.
    for fault in [Fault::Corruption, Fault::InvalidChecksum] {
        assert_eq!(verdict(&mut rig, Some(fault)), [(3, modified.clone())], "{fault:?}");
    }
}
