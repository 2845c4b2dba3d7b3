//! `docs/failure.md` names tests that there are.

use std::{fs, path::Path};

#[test]
fn every_test_that_the_page_names_exists() {
    let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
    let page = fs::read_to_string(suites.join("../../docs/failure.md")).unwrap();
    let names = page.split('`').filter(|word| word.matches("::").count() == 2 && !word.contains(' '));
    let mut found = 0;
    for name in names.filter(|name| *name != "suite::module::test") {
        let [suite, module, test] = name.split("::").collect::<Vec<_>>()[..] else { unreachable!() };
        let text = fs::read_to_string(suites.join(suite).join(module).with_extension("rs")).unwrap_or_default();
        // Some are made by a macro: `name: Reason = {`.
        let there = [format!("fn {test}("), format!("{test}: ")].iter().any(|line| text.contains(line));
        assert!(there, "there is no test {name}");
        found += 1;
    }
    assert!(found > 40, "only {found} tests are named");
}
