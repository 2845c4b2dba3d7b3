//! A change is answered when the daemon has received its revision.

use crate::setup::Single;

pub(crate) fn is_listed(single: &Single, network: &str) -> bool {
    let list = single.json(&["network", "ls"]);
    list["networks"].as_array().unwrap().iter().any(|row| row["name"] == network)
}

/// Every change can be read immediately.
#[test]
fn change_is_visible_in_next_answer() {
    let single = Single::start();
    for round in 0..20 {
        let name = format!("n{round}");
        single.json(&["network", "create", &name]);
        assert!(is_listed(&single, &name), "round {round}");
        if round % 2 == 0 {
            single.json(&["network", "rm", &name]);
            assert!(!is_listed(&single, &name), "round {round}");
        }
    }
}
