//! One node: a host with namespaces of its own for mounts, processes and its name, and a dockerd in it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    net::Ipv4Addr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{PATIENCE, Sandbox, api};
use crate::lab::{Host, NetNs, Place, sys};

/// What the first process of a node does.
const SCRIPT: &str = include_str!("node.sh");

/// Where a node finds its programs: its own `iptables` first, and Debian's Docker, not one that somebody installed.
const PATH: &str = "/run/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a node may take to end its processes and to remove its control groups.
const END: Duration = Duration::from_secs(15);

/// A node of a [`Swarm`](super::Swarm). Clones are the same node; it ends with the Swarm.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Host,
    /// The first process, as this process's namespace numbers it.
    pid: u32,
    spaces: Spaces,
    /// Its standard input is what keeps the node alive.
    init: std::sync::Mutex<Child>,
    log: File,
}

/// The namespaces of a node beside the host's.
#[derive(Debug)]
struct Spaces {
    processes: OwnedFd,
    mounts: OwnedFd,
    name: OwnedFd,
}

impl Node {
    /// Starts the first process, which starts dockerd.
    pub(super) fn start(host: &Host, group: &str) -> Result<Self> {
        let log = tempfile::tempfile().context("cannot make a file for a node's log")?;
        let mut command = Command::new("bash");
        command
            .args(["-c", SCRIPT, "node.sh", host.name(), &format!("{group}-{}", host.name())])
            .env("PATH", PATH)
            // Not this process's: who ends a whole group by a signal would keep the node from cleaning up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        let network = host.clone();
        let enter = move || {
            sys::enter_netns(network.fd())?;
            sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS)
        };
        // SAFETY: the closure only makes system calls; it does not allocate and takes no locks.
        unsafe { command.pre_exec(enter) };
        let init = thread::scope(|scope| {
            // A thread of its own: from now on its children are in a new process namespace.
            let started = scope.spawn(|| sys::unshare(libc::CLONE_NEWPID).and_then(|()| command.spawn())).join();
            started.expect("the helper thread does not panic")
        });
        let init = init.with_context(|| format!("{}: cannot start a node; run this as root", host.name()))?;
        let pid = init.id();
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from);
        let spaces = Spaces { processes: open("pid")?, mounts: open("mnt")?, name: open("uts")? };
        Ok(Self(Arc::new(Inner { host: host.clone(), pid, spaces, init: init.into(), log })))
    }

    /// `node01` and so on.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.host.name()
    }

    /// Of the NIC; what Docker advertises.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.0.host.address()
    }

    /// The node's network namespace, with the NIC in it.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// A path of the node's as this process finds it. The node's `/run` is not the machine's.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        // A symbolic link would be followed in this process's root.
        let path = path.strip_prefix("/var/run/").map_or_else(|| path.to_owned(), |rest| format!("/run/{rest}"));
        PathBuf::from(format!("/proc/{}/root{path}", self.0.pid))
    }

    /// Runs a command on the node to its end, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<Output> {
        let Some((program, arguments)) = command.split_first() else { bail!("no command given") };
        let mut command = Place::command(self, program.as_ref());
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = Place::spawn(self, &mut command).and_then(Child::wait_with_output);
        run.with_context(|| format!("{}: cannot start {command:?}", self.name()))
    }

    /// Runs a command on the node and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started or fails; the message has the command and all its output.
    pub fn run<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<String> {
        let output = self.output(command)?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let line = command.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{}: `{line}`: {}\n{stdout}{stderr}", self.name(), output.status);
        }
        Ok(stdout.into_owned())
    }

    /// `docker` on the node; returns what it printed.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn docker<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let words = arguments.iter().map(AsRef::as_ref);
        self.run(&std::iter::once(OsStr::new("docker")).chain(words).collect::<Vec<_>>())
    }

    /// A container's network namespace.
    ///
    /// # Errors
    /// When no such container runs here.
    pub fn container(&self, name: &str) -> Result<NetNs> {
        let answer = self.ask(&format!("/containers/{name}/json"))?;
        let key = answer["NetworkSettings"]["SandboxKey"].as_str().filter(|key| !key.is_empty());
        let key = key.with_context(|| format!("{}: {name} does not run", self.name()))?;
        NetNs::open(name, &self.path(key))
    }

    /// A container's address in a network.
    ///
    /// # Errors
    /// When it is not in it.
    pub fn container_ip(&self, name: &str, network: &str) -> Result<Ipv4Addr> {
        let answer = self.ask(&format!("/containers/{name}/json"))?;
        let address = answer["NetworkSettings"]["Networks"][network]["IPAddress"].as_str();
        let address = address.and_then(|address| address.parse().ok());
        address.with_context(|| format!("{}: {name} has no address in {network}", self.name()))
    }

    /// The sandbox of a network: the namespace with its bridge and its VXLAN device.
    ///
    /// # Errors
    /// When the network has no container here, and so no sandbox.
    pub fn sandbox(&self, network: &str) -> Result<Sandbox> {
        let answer = self.ask(&format!("/networks/{network}"))?;
        let id = answer["Id"].as_str().and_then(|id| id.get(..10)).context("Docker's network has no id")?;
        let prefix = format!("1-{id}");
        let found = self.sandboxes()?.into_iter().find(|sandbox| sandbox.name() == prefix);
        found.with_context(|| format!("{}: there is no sandbox {prefix} of {network}", self.name()))
    }

    /// The sandboxes of all overlay networks that have containers here.
    ///
    /// # Errors
    /// When Docker's directory cannot be read.
    pub fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        let namespaces = self.namespaces()?.into_iter();
        Ok(namespaces.filter(|ns| ns.name().starts_with("1-")).map(Sandbox::new).collect())
    }

    /// All of Docker's network namespaces: sandboxes and containers.
    ///
    /// # Errors
    /// When Docker's directory cannot be read.
    pub fn namespaces(&self) -> Result<Vec<NetNs>> {
        let directory = self.path("/run/docker/netns");
        let mut found = Vec::new();
        for entry in directory.read_dir().with_context(|| format!("cannot list {}", directory.display()))? {
            let (name, path) = (entry?.file_name(), &directory);
            // One that is being removed, or not mounted yet, is no namespace.
            if let Ok(ns) = NetNs::open(&name.to_string_lossy(), &path.join(&name))
                && ns.is_network_namespace()
            {
                found.push(ns);
            }
        }
        found.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(found)
    }

    /// SIGKILL to dockerd. Its containers go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_dockerd(&self) -> Result<()> {
        self.run(&["sh", "-c", "kill -KILL $(cat /run/docker.pid)"]).map(drop)
    }

    pub(super) fn wait_for_dockerd(&self) -> Result<()> {
        let start = Instant::now();
        while !self.dockerd_answers() {
            if let Some(status) = self.ended()? {
                bail!("{}: the node ended with {status}\n{}", self.name(), self.log());
            }
            ensure!(start.elapsed() < PATIENCE, "{}: dockerd does not answer\n{}", self.name(), self.log());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn dockerd_answers(&self) -> bool {
        api::get(&self.path("/run/docker.sock"), "/_ping").is_ok()
    }

    /// What dockerd answers to a GET request.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub fn ask(&self, path: &str) -> Result<Value> {
        let answer = api::get(&self.path("/run/docker.sock"), path).with_context(|| self.name().to_owned())?;
        serde_json::from_str(&answer).with_context(|| format!("{}: GET {path}: {answer}", self.name()))
    }

    fn ended(&self) -> Result<Option<ExitStatus>> {
        Ok(self.init().try_wait()?)
    }

    fn init(&self) -> std::sync::MutexGuard<'_, Child> {
        self.0.init.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What the node's first process wrote, and the end of what dockerd did.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = String::new();
        for file in [self.0.log.try_clone(), File::open(self.path("/run/dockerd.log"))] {
            match file.and_then(tail) {
                Ok(end) => text += &end,
                Err(error) => text += &format!("(no log: {error})\n"),
            }
        }
        text
    }

    pub(super) fn begin_to_end(&mut self) {
        self.init().stdin = None;
    }

    pub(super) fn wait_for_end(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.ended()?.is_none() {
            if start.elapsed() > END {
                let mut init = self.init();
                init.kill()?;
                init.wait()?;
                drop(init);
                bail!("it did not end by itself\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
        let status = self.ended()?;
        ensure!(status.is_some_and(|status| status.success()), "{status:?}\n{}", self.log());
        Ok(())
    }
}

impl Place for Node {
    fn name(&self) -> &str {
        self.0.host.name()
    }

    /// In a process group of its own, with no input.
    fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0).env("PATH", PATH).env("HOME", "/run").env_remove("DOCKER_HOST");
        let inner = Arc::clone(&self.0);
        let enter = move || {
            sys::enter_netns(inner.host.fd())?;
            sys::enter(inner.spaces.name.as_fd(), libc::CLONE_NEWUTS)?;
            sys::enter(inner.spaces.mounts.as_fd(), libc::CLONE_NEWNS)
        };
        // SAFETY: the closure only makes system calls; it does not allocate and takes no locks.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// As a process of the node: it ends with the node at the latest.
    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let spawned = thread::scope(|scope| {
            let processes = self.0.spaces.processes.as_fd();
            // A thread of its own, because all its children are in that process namespace from then on.
            scope.spawn(move || sys::enter(processes, libc::CLONE_NEWPID).and_then(|()| command.spawn())).join()
        });
        spawned.expect("the helper thread does not panic")
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }
}

/// The last 4 kB.
fn tail(mut file: File) -> io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned() + "\n")
}

/// Whether the machine has what a node needs.
///
/// # Errors
/// With the first program that is missing, and the Debian package that brings it.
pub(super) fn check_programs() -> Result<()> {
    let needed = [
        ("dockerd", "docker.io"),
        ("docker", "docker.io"),
        ("containerd", "containerd"),
        ("runc", "runc"),
        ("iptables-nft", "iptables"),
        ("busybox", "busybox-static"),
    ];
    for (program, package) in needed {
        let found = PATH.split(':').any(|directory| Path::new(directory).join(program).is_file());
        ensure!(found, "{program} is missing; install Debian's package {package}, or run `cargo xtask setup`");
    }
    Ok(())
}
