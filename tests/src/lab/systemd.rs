//! systemd as pid 1 of a host, for tests of units.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{DaemonHost, Host, sys};

/// Number of systemd instances of this process: tests may run concurrently.
static NUMBER: AtomicU32 = AtomicU32::new(0);

const BOOT: &str = include_str!("systemd.sh");

/// Longest time until systemd has booted, and until its processes have exited.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A systemd in its own pid, mount and cgroup namespaces, and in the network namespace of a host. Its root is
/// the machine's root with changes in memory (overlayfs). It runs only the units that a test starts.
#[derive(Clone, Debug)]
pub struct Systemd {
    host: Host,
    /// Process id of systemd, outside its pid namespace.
    init: u32,
}

/// A booted systemd. Dropping it kills all processes.
#[derive(Debug)]
pub struct Booted {
    /// The running systemd.
    pub systemd: Systemd,
    process: Child,
    groups: PathBuf,
}

impl Systemd {
    /// Boots systemd. `directory` is empty, in memory, and removed after the test. The files below `files` are copied
    /// to the root of systemd first.
    ///
    /// # Errors
    /// Without root, where control groups of version 2 cannot be mounted, or when it has not booted after 30 s.
    pub fn boot(host: &Host, directory: &Path, files: &Path) -> Result<Booted> {
        let mounted = directory.join("cgroup");
        let machine = directory.join("machine");
        fs::create_dir(&mounted).and_then(|()| fs::create_dir(&machine)).context("cannot create directories")?;
        sys::mount(Path::new("cgroup2"), &mounted, "cgroup2", 0).context("cannot mount cgroup2")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let groups = mounted.join(format!("overlay-lab-{}-{number}", std::process::id()));
        fs::create_dir(&groups).context("cannot create a control group")?;
        let script = "echo $$ > \"$1/cgroup.procs\" || exit; shift\n\
             exec unshare --mount --propagation slave --pid --ipc --uts --cgroup --fork --kill-child=KILL sh -c \"$@\"";
        let mut command = (**host).command("sh");
        command.args(["-c", script, "sh"]).arg(&groups).args([BOOT, "sh"]).arg(&machine).arg(files);
        let process = command.spawn().context("cannot start unshare")?;
        let mut booted = Booted { systemd: Self { host: host.clone(), init: 0 }, process, groups };
        let start = Instant::now();
        loop {
            ensure!(booted.process.try_wait()?.is_none(), "systemd exited during boot");
            booted.systemd.init = booted.child().unwrap_or_default();
            if booted.systemd.init != 0 {
                let state = booted.systemd.output(&["systemctl", "is-system-running"]);
                if state.is_ok_and(|output| output.stdout == b"running\n") {
                    return Ok(booted);
                }
            }
            ensure!(start.elapsed() < TIMEOUT, "systemd has not booted after {TIMEOUT:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a command as root in the namespaces of systemd.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn output<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Output> {
        let (program, arguments) = words.split_first().context("no command given")?;
        self.command(program.as_ref()).args(arguments).output().context("cannot start nsenter")
    }

    /// Runs a command and returns its output.
    ///
    /// # Panics
    /// When the command fails.
    #[track_caller]
    #[must_use]
    pub fn run(&self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        let output = self.output(&words).unwrap_or_else(|error| panic!("{error:#}"));
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "`{line}`: {}\n{stdout}{stderr}", output.status);
        stdout.into_owned()
    }

    /// A property of a unit, by `systemctl show`.
    ///
    /// # Panics
    /// When `systemctl` fails.
    #[track_caller]
    #[must_use]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.run(&format!("systemctl show --value --property {property} {unit}")).trim_end().to_owned()
    }

    /// Root directory of systemd, as seen from outside.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init))
    }
}

impl DaemonHost for Systemd {
    fn name(&self) -> &str {
        self.host.name()
    }

    fn command(&self, program: &OsStr) -> Command {
        let mut command = (*self.host).command("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--pid", "--cgroup", "--root", "--wd"]);
        command.arg("--").arg(program);
        command
    }

    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        command.spawn()
    }

    fn wait_for_devices(&self) -> Result<()> {
        self.host.wait_for_all_devices()
    }
}

impl Booted {
    /// systemd: the only child of `unshare`.
    fn child(&self) -> Option<u32> {
        let pid = self.process.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // The kernel kills all processes of a pid namespace with its first one.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let start = Instant::now();
        while remove_groups(&self.groups).is_err() && start.elapsed() < TIMEOUT {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Removes control groups from the leaves up. Groups with processes cannot be removed.
fn remove_groups(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
