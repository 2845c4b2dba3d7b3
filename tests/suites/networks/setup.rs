//! One host with containers and a daemon with an embedded store.

use std::{fs, path::PathBuf, process::Output};

use overlay_tests::lab::{Container, Daemon, Lab, NIC, overlay_binary, private_bpffs, private_directory};
use overlay_user::testing::{apply::Maps, plan::Tables};
use serde_json::Value;

/// node01 with `gindemo1` and `spare`, and a daemon, private to the test.
pub(crate) struct Single {
    // Dropped first: the daemon stops before its host is removed.
    pub(crate) daemon: Daemon,
    pub(crate) lab: Lab,
}

impl Single {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With additional arguments to `overlay run`.
    pub(crate) fn start_with(more: &[&str]) -> Self {
        Self::start_by(&[], more)
    }

    /// With a daemon that reads the faults of [`FAULTS`].
    pub(crate) fn with_faults() -> Self {
        Self::start_by(&["env", &format!("OVERLAY_FAULTS={FAULTS}")], &[])
    }

    /// Started by another program, see [`Daemon::start_by`].
    pub(crate) fn start_by(prefix: &[&str], more: &[&str]) -> Self {
        // Threads inherit the mounts, so this comes first.
        let pins = private_bpffs().unwrap();
        let data = private_directory().unwrap().join("data");
        let lab = Lab::builder(2).container(1, "spare", [10, 0, 1, 3].into()).build().unwrap();
        // The only address of the host is used.
        let arguments = [&["--data-dir", data.to_str().unwrap(), "--node-name", "node01"][..], more].concat();
        let binary = overlay_binary().unwrap();
        let daemon = Daemon::start_by(prefix, &binary, lab.host(1), &arguments, &pins.join("overlay")).unwrap();
        Self { daemon, lab }
    }

    pub(crate) fn container(&self, name: &str) -> &Container {
        self.lab.host(1).container(name)
    }

    /// A subcommand with `--json` that has to succeed.
    #[track_caller]
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        self.daemon.overlay(&[words, &["--json"]].concat()).unwrap()
    }

    /// `overlay endpoint add NETWORK NAME --netns …`, with the container of that name and more arguments.
    pub(crate) fn add(&self, network: &str, name: &str, container: &str, more: &[&str]) -> Output {
        let path = self.container(container).path().to_str().unwrap().to_owned();
        self.daemon
            .output(&[&["endpoint", "add", network, name, "--netns", &path, "--json"][..], more].concat())
            .unwrap()
    }

    pub(crate) fn tables(&self) -> Tables {
        Maps::open(self.daemon.pin_root()).unwrap().read().unwrap()
    }

    /// State that a command can change: links, addresses, routes, neighbours, FDB, maps and store.
    pub(crate) fn snapshot(&self) -> String {
        let mut text = String::new();
        for ns in [&**self.lab.host(1), self.container("gindemo1"), self.container("spare")] {
            for line in ["ip link", "ip addr", "ip route show table all", "ip neigh", "bridge fdb"] {
                text += &ns.run(&line.split(' ').collect::<Vec<_>>());
            }
        }
        let tables = self.tables();
        text += &format!("{:?}{:?}{:?}", tables.ports, tables.fdb, tables.networks);
        for words in [&["network", "ls"][..], &["endpoint", "ls"], &["node", "ls"]] {
            let mut list = self.json(words);
            // A failed command may increase the revision.
            list["store"] = Value::Null;
            text += &list.to_string();
        }
        text
    }

    /// A command exits with 2 and one message with all of `parts`, and changes nothing.
    #[track_caller]
    pub(crate) fn assert_refused(&self, words: &[&str], parts: &[&str]) {
        let before = self.snapshot();
        let output = self.daemon.output(words).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{words:?}");
        for part in parts {
            assert!(stderr.contains(part), "{words:?}: no {part:?} in: {stderr}");
        }
        let after = self.snapshot();
        let changed: Vec<_> = after.lines().filter(|line| !before.lines().any(|old| old == *line)).collect();
        assert!(after == before, "{words:?} changed something: {changed:#?}");
    }
}

#[track_caller]
pub(crate) fn ok(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The only interfaces of node01 when no network is in use.
pub(crate) const IDLE: [&str; 2] = ["lo", NIC];

/// The faults of [`Single::with_faults`], in the test's private directory.
const FAULTS: &str = "/mnt/faults";

/// Injects `ENOMEM` at a fault point of `overlay-user/src/sys/fault.rs` until the next call; an empty name clears it.
pub(crate) fn inject_fault(point: &str) {
    let line = if point.is_empty() { String::new() } else { format!("{point} {}\n", libc::ENOMEM) };
    fs::write(FAULTS, line).unwrap();
}

/// The socket of the daemons in this suite, in the test's private directory.
pub(crate) fn socket() -> PathBuf {
    PathBuf::from("/run/overlay/overlay.sock")
}
