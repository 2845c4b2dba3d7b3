//! One `overlay` daemon on one host.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{DaemonHost, Lab, patient, sys};

/// Longest time until a daemon is ready, or until it exits after SIGTERM.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Longest time until the next hops are resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Exit code of `overlay` if nothing is loaded at the pin root.
const NOTHING_LOADED: i32 = 3;

/// A running `overlay run … --pin-root DIR` inside a host.
///
/// In a [`Host`](super::Host) it is killed when the thread that started it ends, and sees that thread's mounts, and so
/// do the commands of [`Self::overlay`]: see [`private_bpffs`](super::private_bpffs). Dropping it ends the process and
/// its data path.
#[derive(Debug)]
pub struct Daemon {
    host: Box<dyn DaemonHost>,
    /// Command prefix of `overlay`, for instance `env NAME=VALUE`; usually empty.
    prefix: Vec<OsString>,
    overlay: PathBuf,
    /// Arguments of `overlay run`.
    arguments: Vec<OsString>,
    pin_root: PathBuf,
    /// Value of `OVERLAY_KILL_AT`: the point in the code where the daemon kills itself.
    crash_at: Option<String>,
    /// `None` if no process is running.
    process: Option<Child>,
    /// `overlay down` was run, or is not needed.
    finished: bool,
    log: File,
}

impl Daemon {
    /// Starts the daemon with a cluster file, and waits until it is ready and the devices of the host and its
    /// containers can send.
    ///
    /// # Errors
    /// When the daemon cannot be started, exits, or is not ready after 90 s; the message has its log.
    pub fn start<P: DaemonHost + Clone + 'static>(host: &P, config: &Path, pin_root: &Path) -> Result<Self> {
        Self::start_binary(&overlay_binary()?, host, config, pin_root)
    }

    /// Like [`Self::start`], with a given `overlay` binary.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_binary<P: DaemonHost + Clone + 'static>(
        overlay: &Path,
        host: &P,
        config: &Path,
        pin_root: &Path,
    ) -> Result<Self> {
        Self::start_with(overlay, host, &[OsStr::new("--config"), config.as_os_str()], pin_root)
    }

    /// Like [`Self::start`], with any arguments of `overlay run`, for instance `&["--discover"]`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with<P: DaemonHost + Clone + 'static, S: AsRef<OsStr>>(
        overlay: &Path,
        host: &P,
        arguments: &[S],
        pin_root: &Path,
    ) -> Result<Self> {
        Self::start_by::<P, &str, S>(&[], overlay, host, arguments, pin_root)
    }

    /// Like [`Self::start_with`], started by another program that executes it, for instance `env NAME=VALUE`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_by<P: DaemonHost + Clone + 'static, W: AsRef<OsStr>, S: AsRef<OsStr>>(
        prefix: &[W],
        overlay: &Path,
        host: &P,
        arguments: &[S],
        pin_root: &Path,
    ) -> Result<Self> {
        let mut daemon = Self::new(overlay, host, arguments, pin_root)?;
        daemon.set_prefix(prefix);
        daemon.finished = false;
        daemon.restart()?;
        Ok(daemon)
    }

    /// Sets the command prefix of later commands and of the daemon at the next [`Self::restart`].
    pub fn set_prefix<W: AsRef<OsStr>>(&mut self, prefix: &[W]) {
        self.prefix = prefix.iter().map(|word| word.as_ref().to_owned()).collect();
    }

    /// A daemon that is not started.
    fn new<P: DaemonHost + Clone + 'static, S: AsRef<OsStr>>(
        overlay: &Path,
        host: &P,
        arguments: &[S],
        pin_root: &Path,
    ) -> Result<Self> {
        Ok(Self {
            host: Box::new(host.clone()),
            prefix: Vec::new(),
            overlay: overlay.to_owned(),
            arguments: arguments.iter().map(|word| word.as_ref().to_owned()).collect(),
            pin_root: pin_root.to_owned(),
            crash_at: None,
            process: None,
            finished: true,
            log: tempfile::tempfile().context("cannot create the log file of the daemon")?,
        })
    }

    /// Runs a daemon that is expected to exit with an error. Returns its exit code and its log.
    ///
    /// # Errors
    /// When the daemon cannot be started, or runs for more than 90 s; it is killed then.
    pub fn refused<P: DaemonHost + Clone + 'static>(
        host: &P,
        config: &Path,
        pin_root: &Path,
    ) -> Result<(Option<i32>, String)> {
        let arguments = [OsStr::new("--config"), config.as_os_str()];
        let mut daemon = Self::new(&overlay_binary()?, host, &arguments, pin_root)?;
        daemon.restart_refused()
    }

    /// Starts the daemon again after [`Self::kill9`] or [`Self::sigterm`], with the same pins, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// As [`Self::start`], and when the daemon is running.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{}: the daemon is already running", self.host.name());
        self.spawn()?;
        self.wait_until_ready()
    }

    /// Sets the `overlay` binary for the next start.
    pub fn replace_binary(&mut self, overlay: &Path) {
        overlay.clone_into(&mut self.overlay);
    }

    /// Starts the daemon again; it kills itself with SIGKILL at a point in the code, for instance `attached:2`: after
    /// it has attached its second program.
    ///
    /// # Errors
    /// When the daemon does not crash there, for instance because it is a release build.
    pub fn restart_and_crash_at(&mut self, point: &str) -> Result<()> {
        ensure!(self.process.is_none(), "{}: the daemon is already running", self.host.name());
        self.crash_at = Some(point.to_owned());
        let spawned = self.spawn();
        self.crash_at = None;
        spawned?;
        let status = self.wait()?;
        let killed = status.signal() == Some(libc::SIGKILL);
        ensure!(
            killed,
            "{}: the daemon did not crash at {point}, it exited with {status}\n{}",
            self.host.name(),
            self.log()
        );
        Ok(())
    }

    /// Starts the daemon again; it is expected to exit with an error. Returns its exit code and its log.
    ///
    /// # Errors
    /// When the daemon cannot be started, or runs for more than 90 s; it is killed then.
    pub fn restart_refused(&mut self) -> Result<(Option<i32>, String)> {
        self.spawn()?;
        let status = self.wait();
        if status.is_err() {
            self.kill9()?;
        }
        Ok((status?.code(), self.log()))
    }

    fn spawn(&mut self) -> Result<()> {
        let mut command = self.command(&["run"]);
        command.envs(self.crash_at.iter().map(|point| ("OVERLAY_KILL_AT", point)));
        command.args(&self.arguments).stdout(self.log.try_clone()?).stderr(self.log.try_clone()?);
        let process = self.host.spawn(&mut command);
        self.process = Some(process.with_context(|| format!("cannot start {}", self.overlay.display()))?);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process()?.try_wait()? {
                self.process = None;
                bail!("{}: the daemon exited with {status}\n{}", self.host.name(), self.log());
            }
            let polled = Instant::now();
            match self.overlay(&["status", "--json"]) {
                Ok(status) if status["ready"] == true => return self.host.wait_for_devices(),
                result if start.elapsed() > patient(TIMEOUT) => {
                    let status = result.map_or_else(|error| format!("{error:#}"), |status| status.to_string());
                    bail!(
                        "{}: the daemon is not ready after {TIMEOUT:?}; status: {status}\n{}",
                        self.host.name(),
                        self.log()
                    );
                }
                // On a slow machine, polling must not take CPU time from the daemon.
                _ => std::thread::sleep(polled.elapsed().max(Duration::from_millis(50))),
            }
        }
    }

    /// Waits until the daemon has at least one VTEP that is a host of `lab`, and has resolved the next hops of all
    /// these VTEPs.
    ///
    /// # Errors
    /// After 20 s.
    pub fn wait_until_resolved(&self, lab: &Lab) -> Result<()> {
        let start = Instant::now();
        loop {
            let status = self.overlay(&["status", "--json"])?;
            let vteps = status["vteps"].as_array().context("`overlay status --json` has no list `vteps`")?;
            let is_host = |vtep: &&Value| lab.hosts().iter().any(|host| vtep["address"] == host.address().to_string());
            let mut hosts = vteps.iter().filter(is_host).peekable();
            if hosts.peek().is_some() && hosts.all(|vtep| vtep["resolved"] == true) {
                return Ok(());
            }
            let name = self.host.name();
            ensure!(
                start.elapsed() < patient(RESOLVE_TIMEOUT),
                "{name}: next hops not resolved: {status}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a subcommand with this daemon's `--pin-root` on its host, whatever its exit code.
    ///
    /// # Errors
    /// When the subcommand cannot be started.
    pub fn output<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output> {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = self.host.spawn(&mut command);
        process.and_then(Child::wait_with_output).with_context(|| format!("cannot start {}", self.overlay.display()))
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let words: Vec<&OsStr> =
            self.prefix.iter().map(OsString::as_os_str).chain([self.overlay.as_os_str()]).collect();
        let mut command = self.host.command(words[0]);
        command.args(&words[1..]).args(arguments).arg("--pin-root").arg(&self.pin_root);
        command
    }

    /// Runs a subcommand and parses its JSON output, for instance `&["counters", "--json"]`.
    ///
    /// # Errors
    /// When the subcommand fails or prints no JSON; the message has its output.
    pub fn overlay<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Value> {
        let line = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
        let output = self.output(arguments)?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let name = self.host.name();
        ensure!(output.status.success(), "{name}: `overlay {line}`: {}\n{stdout}{stderr}", output.status);
        serde_json::from_str(&stdout).with_context(|| format!("{name}: `overlay {line}` printed no JSON: {stdout}"))
    }

    /// Packets of one reason, for instance `encap`; 0 for a reason that is not listed.
    ///
    /// # Errors
    /// When `overlay counters` fails.
    pub fn packets(&self, reason: &str) -> Result<u64> {
        let counters = self.overlay(&["counters", "--json"])?;
        let reasons = counters["reasons"].as_array().context("`overlay counters --json` has no list `reasons`")?;
        Ok(reasons.iter().filter(|entry| entry["reason"] == reason).filter_map(|entry| entry["packets"].as_u64()).sum())
    }

    /// Output of the daemon so far.
    #[must_use]
    pub fn log(&self) -> String {
        let length = self.log.metadata().map_or(0, |file| file.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        // By position: the daemon shares the file offset.
        match self.log.read_exact_at(&mut bytes, 0) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(cannot read the daemon's log: {error})"),
        }
    }

    /// The cluster file, if `--config` is the first argument.
    #[must_use]
    pub fn config(&self) -> Option<&Path> {
        match self.arguments.as_slice() {
            [option, path, ..] if option == "--config" => Some(Path::new(path)),
            _ => None,
        }
    }

    /// Directory of its pinned maps, programs and links.
    #[must_use]
    pub fn pin_root(&self) -> &Path {
        &self.pin_root
    }

    /// Sends SIGSTOP: the process exists but does not run.
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn hang(&mut self) -> Result<()> {
        Ok(sys::signal(self.process()?, libc::SIGSTOP)?)
    }

    /// Sends SIGCONT, after [`Self::hang`].
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn resume(&mut self) -> Result<()> {
        Ok(sys::signal(self.process()?, libc::SIGCONT)?)
    }

    /// Process id.
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().with_context(|| format!("{}: the daemon is not running", self.host.name()))?.id())
    }

    /// Sends SIGKILL and waits for the process. Pins stay.
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn kill9(&mut self) -> Result<()> {
        let process = self.process()?;
        process.kill()?;
        process.wait()?;
        self.process = None;
        Ok(())
    }

    /// Sends SIGTERM and waits for the process. Pins stay.
    ///
    /// # Errors
    /// When the daemon is not running, or still running after 90 s.
    pub fn sigterm(&mut self) -> Result<ExitStatus> {
        let process = self.process()?;
        sys::signal(process, libc::SIGTERM)?;
        self.wait()
    }

    /// Waits for the daemon to exit, for instance because of `overlay down`.
    ///
    /// # Errors
    /// When the daemon is not running, or still running after 90 s.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process()?.try_wait()? {
                self.process = None;
                return Ok(status);
            }
            ensure!(
                start.elapsed() < patient(TIMEOUT),
                "{}: the daemon is still running after {TIMEOUT:?}",
                self.host.name()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the daemon, then runs `overlay down`.
    ///
    /// # Errors
    /// When `down` fails; the process is stopped in any case.
    pub fn down(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        self.finished = true;
        if self.process.is_some() && self.sigterm().is_err() {
            self.kill9()?;
        }
        let output = self.output(&["down"])?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let done = output.status.success() || output.status.code() == Some(NOTHING_LOADED);
        ensure!(done, "{}: `overlay down`: {}\n{stderr}", self.host.name(), output.status);
        Ok(())
    }

    fn process(&mut self) -> Result<&mut Child> {
        self.process.as_mut().with_context(|| format!("{}: the daemon is not running", self.host.name()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.finished {
            if std::thread::panicking() {
                eprintln!("--- log of the daemon on {}\n{}---", self.host.name(), self.log());
            }
            if let Err(error) = self.finish() {
                eprintln!("cannot stop the daemon on {}: {error:#}", self.host.name());
            }
        }
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The `overlay` binary: `$OVERLAY_BIN`, or the binary next to this program.
///
/// # Errors
/// When there is no such file.
pub fn overlay_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("OVERLAY_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "OVERLAY_BIN: {} is not a file", path.display());
        return Ok(path);
    }
    let current = env::current_exe().context("cannot find the path of this program")?;
    // target/PROFILE/PROGRAM or target/PROFILE/deps/TEST; the other profile is the fallback.
    let own_profile = current.ancestors().skip(1).take(2).map(|directory| directory.join("overlay"));
    let other_profiles = current
        .ancestors()
        .skip(2)
        .take(2)
        .flat_map(|target| ["release", "debug"].map(|profile| target.join(profile).join("overlay")));
    own_profile.chain(other_profiles).find(|path| path.is_file()).with_context(|| {
        format!(
            "no `overlay` next to {}; build it with `cargo build -p overlay-user`, or set OVERLAY_BIN",
            current.display()
        )
    })
}

/// A build of `overlay` with another map layout, like a later version: `$OVERLAY_OTHER_BIN`, or the binary that
/// `cargo xtask test` builds next to [`overlay_binary`].
///
/// # Errors
/// When there is no such file.
pub fn other_overlay_binary() -> Result<PathBuf> {
    let path = match env::var_os("OVERLAY_OTHER_BIN") {
        Some(path) => PathBuf::from(path),
        None => overlay_binary()?.with_file_name("overlay-other-build"),
    };
    ensure!(
        path.is_file(),
        "{} does not exist; build it with `cargo xtask test`, or set OVERLAY_OTHER_BIN",
        path.display()
    );
    Ok(path)
}

/// A release build of the previous commit: `$OVERLAY_PREVIOUS_BIN`, which `cargo xtask test --release-daemon` builds.
///
/// # Errors
/// When there is no such file.
pub fn previous_overlay_binary() -> Result<PathBuf> {
    let path = env::var_os("OVERLAY_PREVIOUS_BIN").map(PathBuf::from);
    let path = path.context("OVERLAY_PREVIOUS_BIN is not set; run `cargo xtask test --release-daemon`")?;
    ensure!(path.is_file(), "OVERLAY_PREVIOUS_BIN: {} is not a file", path.display());
    Ok(path)
}
