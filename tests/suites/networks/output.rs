//! Commands whose output cannot be written.

use std::{
    fs::File,
    io,
    os::unix::process::ExitStatusExt as _,
    process::{Output, Stdio},
};

use overlay_tests::lab::overlay_binary;

use crate::setup::{Single, ok};

/// Commands with output, as text and as JSON; `down` is last.
fn commands(netns: &str) -> Vec<Vec<String>> {
    let mut commands: Vec<Vec<&str>> = vec![vec!["--help"], vec!["--version"], vec!["network", "--help"], vec!["help"]];
    for json in [false, true] {
        let (red, two) = if json { ("red1", "two1") } else { ("red0", "two0") };
        let both: [&[&str]; 14] = [
            &["status"],
            &["fdb"],
            &["ports"],
            &["counters"],
            &["audit"],
            &["network", "create", red],
            &["network", "ls"],
            &["network", "inspect", red],
            &["endpoint", "add", red, two, "--netns", netns],
            &["endpoint", "ls"],
            &["endpoint", "inspect", red, two],
            &["endpoint", "rm", red, two],
            &["node", "ls"],
            &["network", "rm", red],
        ];
        commands.extend(both.map(|words| [words, if json { &["--json"] } else { &[] }].concat()));
    }
    // As text this prints nothing.
    commands.push(vec!["events", "--json"]);
    commands.push(vec!["down", "--json"]);
    commands.into_iter().map(|words| words.into_iter().map(str::to_owned).collect()).collect()
}

/// Runs every command with this standard output.
fn each(stdout: impl Fn() -> Stdio, check: impl Fn(&[String], &Output)) {
    let single = Single::start();
    single.json(&["network", "create", "blue"]);
    ok(&single.add("blue", "one", "gindemo1", &[]));
    let netns = single.container("spare").path().to_str().unwrap().to_owned();
    for words in commands(&netns) {
        let mut command = single.lab.host(1).command(overlay_binary().unwrap());
        command.args(&words);
        if words.iter().all(|word| !word.contains("help") && word != "--version") {
            command.arg("--pin-root").arg(single.daemon.pin_root());
        }
        check(&words, &command.stdout(stdout()).stderr(Stdio::piped()).output().unwrap());
    }
    assert!(!single.daemon.pin_root().exists(), "`down` removes the pin root without a reader");
}

#[test]
fn full_disk_is_reported_as_error() {
    let full = || File::options().write(true).open("/dev/full").unwrap().into();
    each(full, |words, output| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("overlay: standard output: ") && last.contains("No space left"),
            "{words:?}: {stderr}"
        );
        assert!(!stderr.contains("panicked"), "{words:?}: {stderr}");
    });
}

#[test]
fn closed_pipe_ends_command_silently() {
    // The reading end is closed immediately.
    let closed = || io::pipe().unwrap().1.into();
    each(closed, |words, output| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let quiet = output.status.success() || output.status.signal() == Some(libc::SIGPIPE);
        assert!(quiet, "{words:?}: {} {stderr}", output.status);
        assert!(stderr.lines().all(|line| line.contains(" INFO ")), "{words:?}: {stderr}");
    });
}

/// The exit code is kept if the message cannot be written.
#[test]
fn exit_codes_are_kept_without_standard_error() {
    let single = Single::start();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let closed = || io::pipe().unwrap().1;
    let cases: [(&[&str], i32); 4] = [
        (&["status", "--colour"], 2),
        (&["network", "rm", "no-such"], 2),
        (&["check", "--config", "/no/such"], 2),
        (&[], 2),
    ];
    for (words, code) in cases {
        for stderr in [Stdio::from(full()), Stdio::from(closed())] {
            let mut command = single.lab.host(1).command(overlay_binary().unwrap());
            let output = command.args(words).stdout(Stdio::piped()).stderr(stderr).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{words:?}: {:?}", output.status);
        }
    }
    // `down` completes without a log.
    let mut command = single.lab.host(1).command(overlay_binary().unwrap());
    command.args(["down", "--pin-root"]).arg(single.daemon.pin_root());
    let status = command.env("RUST_LOG", "trace").stdout(Stdio::null()).stderr(closed()).status().unwrap();
    assert!(status.success(), "{status}");
    assert!(!single.daemon.pin_root().exists());
}
