//! The code under test: one `overlay` daemon on one host.

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

use super::{Lab, Place, sys};

/// How long a daemon may take to be ready, or to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long the next hop may stay unknown.
const UNRESOLVED: Duration = Duration::from_secs(20);

/// Exit code of `overlay`: nothing is loaded at the pin root.
const NOTHING_LOADED: i32 = 3;

/// A running `overlay run … --pin-root DIR` inside a host.
///
/// In a [`Host`](super::Host) it is killed when the thread that started it ends, and sees that thread's mounts, and so
/// do the commands of [`Self::overlay`]: see [`private_bpffs`](super::private_bpffs). Dropping it ends the process and its
/// data path.
#[derive(Debug)]
pub struct Daemon {
    host: Box<dyn Place>,
    /// What starts `overlay`, for instance `env NAME=VALUE`; mostly nothing.
    prefix: Vec<OsString>,
    overlay: PathBuf,
    /// After `run`.
    arguments: Vec<OsString>,
    pin_root: PathBuf,
    /// The place where it is to die, as `OVERLAY_DIE_AT` names it.
    die_at: Option<String>,
    /// `None` when it was ended.
    process: Option<Child>,
    /// `overlay down` was run.
    finished: bool,
    log: File,
}

impl Daemon {
    /// Starts the daemon with a cluster file, and waits until it is ready and the devices of the host and its containers
    /// can send.
    ///
    /// # Errors
    /// When it cannot be started, ends, or is not ready in 15 s; the message has its log.
    pub fn start<P: Place + Clone + 'static>(host: &P, config: &Path, pin_root: &Path) -> Result<Self> {
        Self::start_binary(&overlay_binary()?, host, config, pin_root)
    }

    /// The same with a given `overlay` binary.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_binary<P: Place + Clone + 'static>(
        overlay: &Path,
        host: &P,
        config: &Path,
        pin_root: &Path,
    ) -> Result<Self> {
        Self::start_with(overlay, host, &[OsStr::new("--config"), config.as_os_str()], pin_root)
    }

    /// The same with other arguments of `overlay run` than `--config`, for instance `&["--discover"]`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with<P: Place + Clone + 'static, S: AsRef<OsStr>>(
        overlay: &Path,
        host: &P,
        arguments: &[S],
        pin_root: &Path,
    ) -> Result<Self> {
        Self::start_by::<P, &str, S>(&[], overlay, host, arguments, pin_root)
    }

    /// The same, started by another program that takes its place, as `env NAME=VALUE` does.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_by<P: Place + Clone + 'static, W: AsRef<OsStr>, S: AsRef<OsStr>>(
        prefix: &[W],
        overlay: &Path,
        host: &P,
        arguments: &[S],
        pin_root: &Path,
    ) -> Result<Self> {
        let mut daemon = Self::new(overlay, host, arguments, pin_root)?;
        daemon.start_again_by(prefix);
        daemon.finished = false;
        daemon.restart()?;
        Ok(daemon)
    }

    /// From now on commands, and the daemon at the next [`Self::restart`], are started by another program.
    pub fn start_again_by<W: AsRef<OsStr>>(&mut self, prefix: &[W]) {
        self.prefix = prefix.iter().map(|word| word.as_ref().to_owned()).collect();
    }

    /// Not started, and with nothing to be ended.
    fn new<P: Place + Clone + 'static, S: AsRef<OsStr>>(
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
            die_at: None,
            process: None,
            finished: true,
            // Without a name: nothing has to remove it.
            log: tempfile::tempfile().context("cannot make a file for the daemon's log")?,
        })
    }

    /// Runs a daemon that has to end by itself, and returns its exit code and what it wrote.
    ///
    /// # Errors
    /// When it cannot be started, or runs for more than 90 s; it is killed then.
    pub fn refused<P: Place + Clone + 'static>(
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
    /// As [`Self::start`], and when it is running.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{}: the daemon is running already", self.host.name());
        self.spawn()?;
        self.wait_until_ready()
    }

    /// Has another `overlay` run from the next start on.
    pub fn replace_binary(&mut self, overlay: &Path) {
        overlay.clone_into(&mut self.overlay);
    }

    /// Starts the daemon again, as [`Self::restart`], and has it die by SIGKILL at a place of the code, for instance
    /// `attached:2`: when it has attached its second program.
    ///
    /// # Errors
    /// When it does not die there, for instance because it is a release build.
    pub fn restart_and_die_at(&mut self, place: &str) -> Result<()> {
        ensure!(self.process.is_none(), "{}: the daemon is running already", self.host.name());
        self.die_at = Some(place.to_owned());
        let spawned = self.spawn();
        self.die_at = None;
        spawned?;
        let status = self.wait()?;
        let killed = status.signal() == Some(libc::SIGKILL);
        ensure!(
            killed,
            "{}: the daemon did not die at {place} but ended with {status}\n{}",
            self.host.name(),
            self.log()
        );
        Ok(())
    }

    /// Starts the daemon again; it has to end by itself. Returns its exit code and what was written so far.
    ///
    /// # Errors
    /// When it cannot be started, or runs for more than 90 s; it is killed then.
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
        command.envs(self.die_at.iter().map(|place| ("OVERLAY_DIE_AT", place)));
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
                bail!("{}: the daemon ended with {status}\n{}", self.host.name(), self.log());
            }
            let asked = Instant::now();
            match self.overlay(&["status", "--json"]) {
                Ok(status) if status["ready"] == true => return self.host.settle(),
                result if start.elapsed() > PATIENCE => {
                    let said = result.map_or_else(|error| format!("{error:#}"), |status| status.to_string());
                    bail!(
                        "{}: the daemon is not ready after {PATIENCE:?}; status: {said}\n{}",
                        self.host.name(),
                        self.log()
                    );
                }
                // Where it takes long to ask, the daemon needs the time more.
                _ => std::thread::sleep(asked.elapsed().max(Duration::from_millis(50))),
            }
        }
    }

    /// Waits until the daemon knows the next hop to every VTEP that is a host of `lab`; there has to be one.
    ///
    /// # Errors
    /// When that takes more than 20 s.
    pub fn wait_until_resolved(&self, lab: &Lab) -> Result<()> {
        let start = Instant::now();
        loop {
            let status = self.overlay(&["status", "--json"])?;
            let vteps = status["vteps"].as_array().context("`overlay status --json` has no list `vteps`")?;
            let is_there = |vtep: &&Value| lab.hosts().iter().any(|host| vtep["address"] == host.address().to_string());
            let mut there = vteps.iter().filter(is_there).peekable();
            if there.peek().is_some() && there.all(|vtep| vtep["resolved"] == true) {
                return Ok(());
            }
            let name = self.host.name();
            ensure!(start.elapsed() < UNRESOLVED, "{name}: the next hop is not resolved: {status}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A subcommand for this daemon, inside its host, with its `--pin-root`. It may fail.
    ///
    /// # Errors
    /// When it cannot be started.
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

    /// A subcommand that has to succeed and prints JSON, for instance `&["counters", "--json"]`.
    ///
    /// # Errors
    /// When it does not; the message has what it printed.
    pub fn overlay<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Value> {
        let line = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
        let output = self.output(arguments)?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let name = self.host.name();
        ensure!(output.status.success(), "{name}: `overlay {line}`: {}\n{stdout}{stderr}", output.status);
        serde_json::from_str(&stdout).with_context(|| format!("{name}: `overlay {line}` printed no JSON: {stdout}"))
    }

    /// Packets counted for one verdict reason, for instance `encap`; 0 for a reason that is not listed.
    ///
    /// # Errors
    /// When `overlay counters` fails.
    pub fn packets(&self, reason: &str) -> Result<u64> {
        let counters = self.overlay(&["counters", "--json"])?;
        let reasons = counters["reasons"].as_array().context("`overlay counters --json` has no list `reasons`")?;
        Ok(reasons.iter().filter(|entry| entry["reason"] == reason).filter_map(|entry| entry["packets"].as_u64()).sum())
    }

    /// What the daemon wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        let length = self.log.metadata().map_or(0, |file| file.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        // By position: the daemon writes through the same descriptor's offset.
        match self.log.read_exact_at(&mut bytes, 0) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(cannot read the daemon's log: {error})"),
        }
    }

    /// The cluster file, when that was the first argument.
    #[must_use]
    pub fn config(&self) -> Option<&Path> {
        match self.arguments.as_slice() {
            [option, path, ..] if option == "--config" => Some(Path::new(path)),
            _ => None,
        }
    }

    /// Where its maps, programs and links are pinned.
    #[must_use]
    pub fn pin_root(&self) -> &Path {
        &self.pin_root
    }

    /// SIGSTOP: the process is there and does nothing.
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn hang(&mut self) -> Result<()> {
        Ok(sys::signal(self.process()?, libc::SIGSTOP)?)
    }

    /// SIGCONT, after [`Self::hang`].
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn wake(&mut self) -> Result<()> {
        Ok(sys::signal(self.process()?, libc::SIGCONT)?)
    }

    /// Its process.
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().with_context(|| format!("{}: the daemon is not running", self.host.name()))?.id())
    }

    /// SIGKILL, and waits for the end. What is pinned stays.
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

    /// SIGTERM, and waits for the end. What is pinned stays.
    ///
    /// # Errors
    /// When the daemon is not running, or takes more than 15 s.
    pub fn sigterm(&mut self) -> Result<ExitStatus> {
        let process = self.process()?;
        sys::signal(process, libc::SIGTERM)?;
        self.wait()
    }

    /// Waits for the daemon to end, for instance because of `overlay down`.
    ///
    /// # Errors
    /// When it is not running, or still running after 15 s.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process()?.try_wait()? {
                self.process = None;
                return Ok(status);
            }
            ensure!(start.elapsed() < PATIENCE, "{}: the daemon does not end", self.host.name());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `overlay down`: ends the daemon, then removes everything that it made.
    ///
    /// # Errors
    /// When `down` fails; the process is ended in any case.
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
                eprintln!("while ending the daemon on {}: {error:#}", self.host.name());
            }
        }
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The `overlay` binary: `$OVERLAY_BIN`, or the one of the build that this process is from.
///
/// # Errors
/// When there is none.
pub fn overlay_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("OVERLAY_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "OVERLAY_BIN is {}, which is no file", path.display());
        return Ok(path);
    }
    let current = env::current_exe().context("cannot find this program's own path")?;
    // target/PROFILE/PROGRAM or target/PROFILE/deps/TEST; the other profile is better than nothing.
    let own_profile = current.ancestors().skip(1).take(2).map(|directory| directory.join("overlay"));
    let other_profiles = current
        .ancestors()
        .skip(2)
        .take(2)
        .flat_map(|target| ["release", "debug"].map(|profile| target.join(profile).join("overlay")));
    own_profile.chain(other_profiles).find(|path| path.is_file()).with_context(|| {
        format!(
            "there is no `overlay` next to {}: build it with `cargo build -p overlay-user`, or set OVERLAY_BIN",
            current.display()
        )
    })
}

/// The `overlay` whose maps have another layout and whose programs go with it, as a later version's may:
/// `$OVERLAY_OTHER_BIN`, or the one that `cargo xtask test` builds beside [`overlay_binary`].
///
/// # Errors
/// When there is none.
pub fn other_overlay_binary() -> Result<PathBuf> {
    let path = match env::var_os("OVERLAY_OTHER_BIN") {
        Some(path) => PathBuf::from(path),
        None => overlay_binary()?.with_file_name("overlay-other-build"),
    };
    ensure!(path.is_file(), "there is no {}: `cargo xtask test` builds it, or set OVERLAY_OTHER_BIN", path.display());
    Ok(path)
}
