//! The tests named in `docs/failure.md` exist.

use std::fs;

use crate::{assert_none, pages::page, read, root};

#[test]
fn tests_that_the_page_names_exist() {
    let text = read("docs/failure.md");
    assert!(text.matches("::").count() > 80, "the page names few tests");
    let suites = root().join("tests/suites");
    let source = |suite: &str, module: &str| fs::read_to_string(suites.join(suite).join(module).with_extension("rs"));
    assert_none(&missing_tests(&text, |suite, module| source(suite, module).unwrap_or_default()));
}

/// Code spans of the form `suite::module::test` that name a missing test; `source` reads a module.
fn missing_tests(text: &str, source: impl Fn(&str, &str) -> String) -> Vec<String> {
    let mut missing = Vec::new();
    for code in page("docs/failure.md", text).code.iter().filter(|code| code.text != "suite::module::test") {
        let [suite, module, test] = code.text.split("::").collect::<Vec<_>>()[..] else { continue };
        let source = source(suite, module);
        // A macro creates some tests: `name: Reason = {`.
        if ![format!("fn {test}("), format!("{test}: ")].iter().any(|line| source.contains(line)) {
            missing.push(format!("docs/failure.md:{}: there is no test {}", code.line, code.text));
        }
    }
    missing
}

#[test]
fn missing_test_is_found() {
    let text = "| `a::b::works` |\n| `a::b::fails`, `a::b` |";
    assert_eq!(missing_tests(text, |_, _| "fn works() {}".into()), ["docs/failure.md:2: there is no test a::b::fails"]);
}
