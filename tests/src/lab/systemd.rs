//! systemd as the first process of a host, to see what it makes of a unit.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Host, Place, sys};

/// Of the machines that this process has booted: its tests may run at one time.
static NUMBER: AtomicU32 = AtomicU32::new(0);

const BOOT: &str = include_str!("systemd.sh");

/// How long systemd may take to boot, and its processes to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A systemd with process numbers, mounts and control groups of its own, in the network namespace of a host. Its root is
/// the machine's, and what is written there is written to memory. Nothing runs in it but what a test starts, and nothing
/// is left of it when it is dropped.
#[derive(Clone, Debug)]
pub struct Systemd {
    host: Host,
    /// Its number outside.
    init: u32,
}

/// Ends it all when it is dropped.
#[derive(Debug)]
pub struct Booted {
    /// What runs.
    pub systemd: Systemd,
    process: Child,
    groups: PathBuf,
}

impl Systemd {
    /// Boots. `directory` is empty and in memory, and goes with the test; the files below `files` are put below its root
    /// first.
    ///
    /// # Errors
    /// Without root, where control groups of version 2 cannot be mounted, or when it is not up in 30 s.
    pub fn boot(host: &Host, directory: &Path, files: &Path) -> Result<Booted> {
        let mounted = directory.join("cgroup");
        let machine = directory.join("machine");
        fs::create_dir(&mounted).and_then(|()| fs::create_dir(&machine)).context("cannot make directories")?;
        sys::mount(Path::new("cgroup2"), &mounted, "cgroup2", 0).context("cannot mount control groups")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let groups = mounted.join(format!("overlay-lab-{}-{number}", std::process::id()));
        fs::create_dir(&groups).context("cannot make a control group")?;
        let script = "echo $$ > \"$1/cgroup.procs\" || exit; shift\n\
             exec unshare --mount --propagation slave --pid --ipc --uts --cgroup --fork --kill-child=KILL sh -c \"$@\"";
        let mut command = (**host).command("sh");
        command.args(["-c", script, "sh"]).arg(&groups).args([BOOT, "sh"]).arg(&machine).arg(files);
        let process = command.spawn().context("cannot start unshare")?;
        let mut booted = Booted { systemd: Self { host: host.clone(), init: 0 }, process, groups };
        let start = Instant::now();
        loop {
            ensure!(booted.process.try_wait()?.is_none(), "systemd did not start");
            booted.systemd.init = booted.child().unwrap_or_default();
            if booted.systemd.init != 0 {
                let state = booted.systemd.output(&["systemctl", "is-system-running"]);
                if state.is_ok_and(|output| output.stdout == b"running\n") {
                    return Ok(booted);
                }
            }
            ensure!(start.elapsed() < PATIENCE, "systemd is not up after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a command as root inside.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Output> {
        let (program, arguments) = words.split_first().context("no command given")?;
        self.command(program.as_ref()).args(arguments).output().context("cannot start nsenter")
    }

    /// Runs a command that has to succeed, and returns what it printed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    #[must_use]
    pub fn run(&self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        let output = self.output(&words).unwrap_or_else(|error| panic!("{error:#}"));
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "`{line}`: {}\n{said}{errors}", output.status);
        said.into_owned()
    }

    /// One property of a unit, as `systemctl show` prints it.
    ///
    /// # Panics
    /// When systemd does not answer.
    #[track_caller]
    #[must_use]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.run(&format!("systemctl show --value --property {property} {unit}")).trim_end().to_owned()
    }

    /// Where its files are seen from outside.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init))
    }
}

impl Place for Systemd {
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

    fn settle(&self) -> Result<()> {
        self.host.settle_all()
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
        // The first process takes all others of its numbers with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let start = Instant::now();
        while remove_groups(&self.groups).is_err() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Control groups go from the leaves; those with processes do not go.
fn remove_groups(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
