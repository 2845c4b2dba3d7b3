//! Network namespaces: create them, run code and commands in them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    panic,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{patient, sys};

/// Filesystem type of namespace files (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Longest time until devices can send.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A network namespace. Clones refer to the same namespace, which exists until the last clone, the last process in it
/// and its last name are gone.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    fd: OwnedFd,
    path: PathBuf,
}

impl NetNs {
    /// Creates a namespace that only this process holds: it is removed when the process ends.
    ///
    /// `lo` is up, and IPv6 duplicate address detection is off, so that addresses can be used at once. `name` is for
    /// messages only.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`, or if `ip` is missing.
    pub fn anonymous(name: &str) -> Result<Self> {
        let fd = create().with_context(|| format!("cannot create the network namespace {name}; run this as root"))?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
        Self::prepare(Inner { name: name.to_owned(), fd, path })
    }

    /// Opens an existing namespace, for instance `/proc/PID/ns/net`, without changing it.
    ///
    /// # Errors
    /// When `path` cannot be opened.
    pub fn open(name: &str, path: &Path) -> Result<Self> {
        let opened = File::open(path).with_context(|| format!("{name}: cannot open {}", path.display()))?;
        let fd = OwnedFd::from(opened);
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
        Ok(Self(Arc::new(Inner { name: name.to_owned(), fd, path })))
    }

    /// Like [`Self::anonymous`], with a name at `path`, where `publish` mounts the new namespace.
    pub(crate) fn published(name: &str, path: PathBuf, publish: impl FnOnce(&OwnedFd) -> Result<()>) -> Result<Self> {
        let fd = create().with_context(|| format!("cannot create the network namespace {name}; run this as root"))?;
        publish(&fd)?;
        Self::prepare(Inner { name: name.to_owned(), fd, path })
    }

    fn prepare(inner: Inner) -> Result<Self> {
        let ns = Self(Arc::new(inner));
        for which in ["all", "default"] {
            ns.sysctl(&format!("net.ipv6.conf.{which}.accept_dad"), "0")?;
            // Unsolicited packets would add to the counters.
            ns.sysctl(&format!("net.ipv6.conf.{which}.router_solicitations"), "0")?;
        }
        ns.try_run(&["ip", "link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// The name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the file is a network namespace: [`Self::open`] also opens a former mount point.
    pub(crate) fn is_network_namespace(&self) -> bool {
        sys::filesystem(&self.0.path).is_ok_and(|kind| kind == NSFS_MAGIC)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// A path that any process of this machine can open, as long as this process exists.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The number in `net:[…]`, as `lsns` and `/proc/PID/ns/net` show it.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn inode(&self) -> Result<u64> {
        inode(&self.0.fd)
    }

    /// A command that runs inside the namespace, in a new process group and without input.
    ///
    /// It is killed when the *thread* that spawns it ends. It inherits the mount namespace of that thread, so it sees
    /// pins below [`private_bpffs`](super::private_bpffs).
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0);
        let (namespace, parent) = (Arc::clone(&self.0), std::process::id());
        let enter = move || {
            sys::enter_netns(namespace.fd.as_fd())?;
            sys::set_parent_death_signal(parent)
        };
        // SAFETY: the closure only makes system calls; it does not allocate and takes no locks.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a command inside the namespace and returns its output.
    ///
    /// # Errors
    /// When the command cannot be started or fails; the message has the namespace, the command and its output.
    pub fn try_run<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<String> {
        let Some((program, arguments)) = command.split_first() else { bail!("no command given") };
        let line = command.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .with_context(|| format!("{}: cannot start `{line}`", self.name()))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{}: `{line}`: {}\n{stdout}{stderr}", self.name(), output.status);
        }
        Ok(stdout.into_owned())
    }

    /// [`Self::try_run`] for tests.
    ///
    /// # Panics
    /// When `try_run` returns an error.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, command: &[S]) -> String {
        self.try_run(command).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Runs a command per line, with words separated by blanks; empty lines are skipped.
    ///
    /// # Errors
    /// As [`Self::try_run`], for the first line that fails; later lines are not run.
    pub fn try_script(&self, lines: &str) -> Result<()> {
        for line in lines.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if !words.is_empty() {
                self.try_run(&words)?;
            }
        }
        Ok(())
    }

    /// Calls `f` on a new thread inside the namespace and returns its result. Sockets that `f` opens stay in the
    /// namespace. The thread has the caller's mount namespace.
    ///
    /// # Panics
    /// When `f` panics, with the same payload.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let joined = thread::scope(|scope| {
            scope
                .spawn(|| {
                    sys::enter_netns(self.0.fd.as_fd()).expect("entering a namespace that is open needs only root");
                    f()
                })
                .join()
        });
        joined.unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// [`Self::enter`] without waiting. Commands that the thread spawns are killed when it ends.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = self.clone();
        thread::spawn(move || {
            sys::enter_netns(namespace.0.fd.as_fd()).expect("entering a namespace that is open needs only root");
            f()
        })
    }

    /// Sets a sysctl of the namespace, for instance `("net.ipv4.ip_forward", "1")`. Interface names with dots need the
    /// form with slashes.
    ///
    /// # Errors
    /// When the kernel has no such sysctl or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
        // /proc/sys/net is that of the reading thread's namespace.
        self.enter(|| fs::write(Path::new("/proc/sys").join(path), value))
            .with_context(|| format!("{}: cannot set {key} to {value}", self.name()))
    }

    /// Waits until every device that is up has carrier, every bridge port forwards, and no IPv6 address is tentative,
    /// so that packets are not lost in this namespace. Call it after setting up links or IPv6 addresses.
    ///
    /// The kernel starts the queues of a device some time after `ip link set up` has returned
    /// (`net/core/link_watch.c`), and joins the multicast group of an IPv6 address some time after `ip addr add`
    /// (`addrconf_dad_work`); tens of milliseconds on a busy machine. A device whose peer is down never gets carrier.
    ///
    /// # Errors
    /// After 10 s.
    pub fn wait_for_devices(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let pending = self.pending_devices()?;
            if pending.is_empty() {
                return Ok(());
            }
            ensure!(
                start.elapsed() < patient(TIMEOUT),
                "{}: not ready to send after {TIMEOUT:?}: {}",
                self.name(),
                pending.join(", ")
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn pending_devices(&self) -> Result<Vec<String>> {
        let name = |device: &Value| device["ifname"].as_str().unwrap_or_default().to_owned();
        let mut pending = Vec::new();
        for link in self.list(&["ip", "-j", "link", "show", "up"])? {
            let is_up = |link: &Value| link["operstate"] == "UP" || link["operstate"] == "UNKNOWN";
            // A query of one device, unlike a list, makes kernels since 6.9 process pending link events at once,
            // instead of after up to a second.
            let query = |name: &str| self.list(&["ip", "-j", "link", "show", "dev", name]);
            if !is_up(&link) && !query(&name(&link))?.first().is_some_and(is_up) {
                pending.push(name(&link));
            }
        }
        let ports = self.list(&["bridge", "-j", "link", "show"])?;
        pending.extend(ports.iter().filter(|port| port["state"] != "forwarding").map(name));
        let addresses = self.list(&["ip", "-j", "-6", "addr", "show", "tentative"])?;
        let is_tentative = |device: &&Value| device["addr_info"].as_array().is_some_and(|list| !list.is_empty());
        pending.extend(addresses.iter().filter(is_tentative).map(name));
        Ok(pending)
    }

    /// Runs a command of iproute2 that prints a JSON list.
    fn list(&self, command: &[&str]) -> Result<Vec<Value>> {
        match self.try_run(command)?.trim() {
            "" => Ok(Vec::new()),
            text => {
                let list: Vec<Value> =
                    serde_json::from_str(text).with_context(|| format!("cannot parse the output of {command:?}"))?;
                // iproute2 prints an empty object for a device that does not match.
                Ok(list
                    .into_iter()
                    .filter(|device| device.as_object().is_none_or(|device| !device.is_empty()))
                    .collect())
            }
        }
    }
}

/// Creates an empty namespace. The helper thread ends; the descriptor keeps the namespace.
fn create() -> Result<OwnedFd> {
    let thread = thread::spawn(|| {
        sys::unshare(libc::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
    });
    Ok(thread.join().expect("the helper thread does not panic")?)
}

pub(crate) fn inode(namespace: &OwnedFd) -> Result<u64> {
    Ok(File::from(namespace.try_clone()?).metadata()?.ino())
}
