//! `--help`, and invalid command lines.

use overlay_tests::lab::overlay_binary;
use std::process::{Command, Output};

const SUBCOMMANDS: [&str; 8] = ["run", "check", "status", "fdb", "ports", "counters", "events", "down"];

/// Commands that send a request to the daemon.
const REQUESTS: [[&str; 2]; 10] = [
    ["network", "create"],
    ["network", "ls"],
    ["network", "inspect"],
    ["network", "rm"],
    ["endpoint", "add"],
    ["endpoint", "ls"],
    ["endpoint", "inspect"],
    ["endpoint", "rm"],
    ["node", "ls"],
    ["node", "rm"],
];

fn overlay(arguments: &[&str]) -> Output {
    Command::new(overlay_binary().unwrap()).args(arguments).output().unwrap()
}

fn help(arguments: &[&str]) -> String {
    let output = overlay(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    assert!(output.stderr.is_empty(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_of_every_subcommand_lists_options_and_exit_codes() {
    for subcommand in SUBCOMMANDS {
        let text = help(&[subcommand, "--help"]);
        for part in ["Usage: overlay ", "--json", "--pin-root <DIR>", "/sys/fs/bpf/overlay"] {
            assert!(text.contains(part), "{subcommand} --help has no {part:?}:\n{text}");
        }
        assert!(!help(&[subcommand, "-h"]).is_empty());
    }
    for request in REQUESTS {
        let text = help(&[&request[..], &["--help"]].concat());
        for part in ["--json", "--pin-root <DIR>", "--socket <PATH>"] {
            assert!(text.contains(part), "{request:?} --help has no {part:?}:\n{text}");
        }
    }
    let text = help(&["audit", "--help"]);
    for part in ["--json", "--repair", "--pin-root <DIR>", "--socket <PATH>", "  1  differences remain"] {
        assert!(text.contains(part), "audit --help has no {part:?}:\n{text}");
    }
    for subcommand in ["check", "status", "audit", "down"] {
        assert!(help(&[subcommand, "--help"]).contains("\nExit codes:"), "{subcommand}");
    }
    let text = help(&["--help"]);
    for part in SUBCOMMANDS.into_iter().chain(["audit", "network", "endpoint", "node"]).chain([
        "Exit codes:",
        "  0  ",
        "  1  ",
        "  2  ",
        "  3  ",
        "RUST_LOG",
    ]) {
        assert!(text.contains(part), "--help has no {part:?}:\n{text}");
    }
    assert!(help(&["--version"]).starts_with("overlay "));
}

/// The example can be used as it is printed.
#[test]
fn example_configuration_in_help_is_valid() {
    let text = help(&["run", "--help"]);
    let (_, example) = text.split_once("the same on all hosts:").expect("an example");
    let (example, _) = example.split_once("All keys are documented in").expect("the example's end");
    let cluster = overlay_user::testing::sources::parse(example, "help").unwrap();
    assert_eq!((cluster.hosts.len(), cluster.networks.len(), cluster.endpoints.len()), (2, 1, 1));
}

#[test]
fn invalid_command_line_exits_with_2_and_names_the_argument() {
    let invalid: [(&[&str], &str); 14] = [
        (&[], "Usage"),
        (&["fly"], "'fly'"),
        (&["status", "--colour"], "'--colour'"),
        (&["run", "--store", "paper"], "'paper'"),
        (&["run", "--config", "a.toml", "--store", "etcd"], "cannot be used with"),
        (&["run", "--config", "a.toml", "--node", "192.168.1.9"], "cannot be used with"),
        (&["run", "--etcd-cert", "a.pem"], "--etcd-key"),
        (&["network"], "Usage"),
        (&["network", "create"], "<NAME>"),
        (&["network", "create", "a", "--subnet", "10.0.0.0/33"], "--subnet"),
        (&["endpoint", "add", "a", "b"], "--netns"),
        (&["check"], "--config <FILE>"),
        (&["status", "blue", "extra"], "'extra'"),
        (&["status", "blue", "--problems"], "cannot be used with"),
    ];
    for (arguments, part) in invalid {
        let output = overlay(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.stdout.is_empty() && stderr.contains(part), "{arguments:?}: {stderr}");
    }
}
