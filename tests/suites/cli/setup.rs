//! A host to run `overlay` on, and snapshots of its state.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use overlay_tests::lab::{
    BPFFS, Cluster, Endpoint, Host, Lab, NIC, NetNs, Network, overlay_binary, private_bpffs,
    snapshot::{network, tree},
};
use tempfile::TempDir;

pub(crate) use overlay_tests::lab::snapshot::assert_same;

/// The two hosts of the running example, without overlay.
pub(crate) struct Setup {
    pub(crate) lab: Lab,
    directory: TempDir,
    pin_root: PathBuf,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let pin_root = private_bpffs().unwrap().join("overlay");
        let setup = Self { lab: Lab::two_hosts(), directory: tempfile::tempdir().unwrap(), pin_root };
        setup.lab.hosts().iter().for_each(wait_for_the_link);
        setup
    }

    /// node01.
    pub(crate) fn host(&self) -> &Host {
        self.lab.host(1)
    }

    pub(crate) fn container(&self) -> &NetNs {
        self.host().container("gindemo1")
    }

    pub(crate) fn pin_root(&self) -> &Path {
        &self.pin_root
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file with this text.
    pub(crate) fn file(&self, text: &str) -> PathBuf {
        let path = self.directory().join("cluster.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes the configuration of the running example after `edit`.
    pub(crate) fn config(&self, edit: impl FnOnce(&mut Cluster)) -> PathBuf {
        let mut cluster = Cluster::example(&self.lab);
        edit(&mut cluster);
        self.file(&cluster.to_toml().unwrap())
    }

    /// A command that runs `overlay` on node01 through a wrapper like `setpriv`, with a timeout.
    pub(crate) fn wrapped<S: AsRef<OsStr>>(&self, wrapper: &[&str], arguments: &[S]) -> Command {
        let mut command = self.host().command("timeout");
        command.args(["--kill-after=1", "20"]).args(wrapper).arg(overlay_binary().unwrap()).args(arguments);
        command
    }

    pub(crate) fn overlay<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        self.wrapped(&[], arguments).arg("--pin-root").arg(&self.pin_root).output().unwrap()
    }

    fn with_config(&self, subcommand: &str, config: &Path) -> Output {
        self.overlay(&[OsStr::new(subcommand), OsStr::new("--config"), config.as_os_str()])
    }

    /// `overlay run` exits with 2 and one message with all of `parts`, and changes nothing.
    #[track_caller]
    pub(crate) fn assert_refused(&self, config: &Path, parts: &[&str]) {
        let before = self.snapshot();
        assert_message(&self.with_config("run", config), 2, parts);
        assert_same(&before, &self.snapshot());
    }

    /// [`Self::assert_refused`], and `overlay check` prints the same message.
    #[track_caller]
    pub(crate) fn assert_checked(&self, config: &Path, parts: &[&str]) {
        self.assert_refused(config, parts);
        let before = self.snapshot();
        assert_message(&self.with_config("check", config), 2, parts);
        assert_same(&before, &self.snapshot());
    }

    /// State of node01 and gindemo1 that a daemon can change, as text.
    pub(crate) fn snapshot(&self) -> String {
        let mut text = format!("{BPFFS}:\n{}", tree(Path::new(BPFFS)));
        for ns in [self.host(), self.container()] {
            text += &network(ns);
        }
        text
    }
}

/// Waits until the state of the NIC is stable.
fn wait_for_the_link(host: &Host) {
    for _ in 0..500 {
        let nic = host.run(&["ip", "addr", "show", "dev", NIC]);
        if nic.contains("state UP") && nic.contains("inet6 fe80:") && !nic.contains("tentative") {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{}: {NIC} does not come up", host.name());
}

/// Checks the exit code, and that standard error is one line that begins with `overlay: ` and has all parts.
#[track_caller]
pub(crate) fn assert_message(output: &Output, code: i32, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "exit code; standard error:\n{stderr}");
    let mut lines = stderr.lines();
    let message = lines.next().unwrap_or_default().strip_prefix("overlay: ");
    let message = message.unwrap_or_else(|| panic!("standard error is no message:\n{stderr}"));
    assert_eq!(lines.next(), None, "more than one message:\n{stderr}");
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

/// Another network, without endpoints.
pub(crate) fn other_network() -> Network {
    Network {
        name: "other".to_owned(),
        vni: 4098,
        subnet: "10.0.2.0/24".to_owned(),
        gateway: None,
        ..Network::example()
    }
}

/// Another endpoint of the running example, on node02.
pub(crate) fn other_endpoint(cluster: &Cluster) -> Endpoint {
    Endpoint {
        name: "gindemo3".to_owned(),
        ip: [10, 0, 1, 7].into(),
        host: "node02".to_owned(),
        netns: None,
        ..cluster.endpoints[0].clone()
    }
}
