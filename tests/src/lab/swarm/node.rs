//! A node: a host with its own mount, pid and UTS namespace, and a dockerd.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    net::Ipv4Addr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Engine, Sandbox, TIMEOUT, api, engine::PATH};
use crate::lab::{DaemonHost, Host, NetNs, overlay_binary, sys};

/// Script of the first process of a node.
const SCRIPT: &str = include_str!("node.sh");

/// Longest time until a node has stopped its processes and removed its control groups.
const END: Duration = Duration::from_secs(15);

/// A node of a [`Swarm`](super::Swarm). Clones refer to the same node, which is stopped with the Swarm.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Host,
    /// Pid of the first process, in this process's pid namespace.
    pid: u32,
    namespaces: Namespaces,
    /// The first process. The node ends when its standard input is closed.
    init: std::sync::Mutex<Child>,
    log: File,
}

/// Namespaces of a node, in addition to the network namespace of its host.
#[derive(Debug)]
struct Namespaces {
    pid: OwnedFd,
    mount: OwnedFd,
    uts: OwnedFd,
}

impl Node {
    /// Starts the first process, which starts dockerd.
    pub(super) fn start(host: &Host, group: &str, engine: &Engine) -> Result<Self> {
        let log = tempfile::tempfile().context("cannot create the log file of the node")?;
        let overlay = overlay_binary()?;
        let mut command = Command::new("bash");
        command
            .args(["-c", SCRIPT, "node.sh", host.name(), &format!("{group}-{}", host.name())])
            .arg(engine.root())
            .arg(overlay.parent().context("a binary is in a directory")?)
            .env("PATH", PATH)
            // A separate process group: a signal to the group of this process must not prevent the cleanup.
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
            // A separate thread, because all its later children are in the new pid namespace.
            let started = scope.spawn(|| sys::unshare(libc::CLONE_NEWPID).and_then(|()| command.spawn())).join();
            started.expect("the helper thread does not panic")
        });
        let init = init.with_context(|| format!("{}: cannot start a node; run this as root", host.name()))?;
        let pid = init.id();
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from);
        let namespaces = Namespaces { pid: open("pid")?, mount: open("mnt")?, uts: open("uts")? };
        Ok(Self(Arc::new(Inner { host: host.clone(), pid, namespaces, init: init.into(), log })))
    }

    /// `node01` and so on.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.host.name()
    }

    /// Address of the NIC, which Docker advertises.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.0.host.address()
    }

    /// The node's network namespace, with the NIC in it.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Translates a path of the node to a path of this process. The node has its own `/run`.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        // The absolute symbolic link /var/run would be resolved in this process's root.
        let path = path.strip_prefix("/var/run/").map_or_else(|| path.to_owned(), |rest| format!("/run/{rest}"));
        PathBuf::from(format!("/proc/{}/root{path}", self.0.pid))
    }

    /// Runs a command on the node and waits for it, whatever its exit code.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn output<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<Output> {
        let Some((program, arguments)) = command.split_first() else { bail!("no command given") };
        let mut command = DaemonHost::command(self, program.as_ref());
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = DaemonHost::spawn(self, &mut command).and_then(Child::wait_with_output);
        run.with_context(|| format!("{}: cannot start {command:?}", self.name()))
    }

    /// Runs a command on the node and returns its output.
    ///
    /// # Errors
    /// When the command cannot be started or fails; the message has the command and its output.
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

    /// Runs `docker` on the node and returns its output.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn docker<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let words = arguments.iter().map(AsRef::as_ref);
        self.run(&std::iter::once(OsStr::new("docker")).chain(words).collect::<Vec<_>>())
    }

    /// Network namespace of a container.
    ///
    /// # Errors
    /// When no such container runs on the node.
    pub fn container(&self, name: &str) -> Result<NetNs> {
        let answer = self.query(&format!("/containers/{name}/json"))?;
        let key = answer["NetworkSettings"]["SandboxKey"].as_str().filter(|key| !key.is_empty());
        let key = key.with_context(|| format!("{}: container {name} is not running", self.name()))?;
        NetNs::open(name, &self.path(key))
    }

    /// Address of a container in a network.
    ///
    /// # Errors
    /// When the container is not in the network.
    pub fn container_ip(&self, name: &str, network: &str) -> Result<Ipv4Addr> {
        let answer = self.query(&format!("/containers/{name}/json"))?;
        let address = answer["NetworkSettings"]["Networks"][network]["IPAddress"].as_str();
        let address = address.and_then(|address| address.parse().ok());
        address.with_context(|| format!("{}: {name} has no address in {network}", self.name()))
    }

    /// The sandbox of a network: the namespace with its bridge and its VXLAN device.
    ///
    /// # Errors
    /// When the network has no container on this node, and so no sandbox.
    pub fn sandbox(&self, network: &str) -> Result<Sandbox> {
        let answer = self.query(&format!("/networks/{network}"))?;
        let id = answer["Id"]
            .as_str()
            .and_then(|id| id.get(..10))
            .with_context(|| format!("network {network} has no id"))?;
        let prefix = format!("1-{id}");
        let found = self.sandboxes()?.into_iter().find(|sandbox| sandbox.name() == prefix);
        found.with_context(|| format!("{}: network {network} has no sandbox {prefix}", self.name()))
    }

    /// Sandboxes of all overlay networks with containers on this node.
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
            // A file whose namespace is not mounted yet, or unmounted, is skipped.
            if let Ok(ns) = NetNs::open(&name.to_string_lossy(), &path.join(&name))
                && ns.is_network_namespace()
            {
                found.push(ns);
            }
        }
        found.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(found)
    }

    /// Sends SIGKILL to dockerd. Its containers keep running.
    ///
    /// # Errors
    /// When dockerd is not running.
    pub fn kill_dockerd(&self) -> Result<()> {
        self.run(&["sh", "-c", "kill -KILL $(cat /run/docker.pid)"]).map(drop)
    }

    pub(super) fn wait_for_dockerd(&self) -> Result<()> {
        let start = Instant::now();
        while !self.is_dockerd_ready() {
            if let Some(status) = self.exit_status()? {
                bail!("{}: the first process exited with {status}\n{}", self.name(), self.log());
            }
            ensure!(
                start.elapsed() < TIMEOUT,
                "{}: dockerd does not answer after {TIMEOUT:?}\n{}",
                self.name(),
                self.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn is_dockerd_ready(&self) -> bool {
        api::get(&self.path("/run/docker.sock"), "/_ping").is_ok()
    }

    /// Sends a GET request to dockerd and returns the JSON of the response.
    ///
    /// # Errors
    /// When dockerd does not answer, or answers with an error.
    pub fn query(&self, path: &str) -> Result<Value> {
        let body = api::get(&self.path("/run/docker.sock"), path).with_context(|| self.name().to_owned())?;
        serde_json::from_str(&body).with_context(|| format!("{}: GET {path}: {body}", self.name()))
    }

    fn exit_status(&self) -> Result<Option<ExitStatus>> {
        Ok(self.init().try_wait()?)
    }

    fn init(&self) -> std::sync::MutexGuard<'_, Child> {
        self.0.init.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// End of the output of the first process, and of dockerd's log.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = String::new();
        for file in [self.0.log.try_clone(), File::open(self.path("/run/dockerd.log"))] {
            match file.and_then(tail) {
                Ok(end) => text += &end,
                Err(error) => text += &format!("(cannot read the log: {error})\n"),
            }
        }
        text
    }

    pub(super) fn request_shutdown(&mut self) {
        self.init().stdin = None;
    }

    pub(super) fn wait_for_shutdown(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.exit_status()?.is_none() {
            if start.elapsed() > END {
                let mut init = self.init();
                init.kill()?;
                init.wait()?;
                drop(init);
                bail!("still running after {END:?}\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
        let status = self.exit_status()?;
        ensure!(status.is_some_and(|status| status.success()), "{status:?}\n{}", self.log());
        Ok(())
    }
}

impl DaemonHost for Node {
    fn name(&self) -> &str {
        self.0.host.name()
    }

    /// In a new process group, without input.
    fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0).env("PATH", PATH).env("HOME", "/run").env_remove("DOCKER_HOST");
        let inner = Arc::clone(&self.0);
        let enter = move || {
            sys::enter_netns(inner.host.fd())?;
            sys::enter(inner.namespaces.uts.as_fd(), libc::CLONE_NEWUTS)?;
            sys::enter(inner.namespaces.mount.as_fd(), libc::CLONE_NEWNS)
        };
        // SAFETY: the closure only makes system calls; it does not allocate and takes no locks.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// As a process of the node, which is killed with the node.
    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let spawned = thread::scope(|scope| {
            let pid = self.0.namespaces.pid.as_fd();
            // A separate thread, because all its later children are in that pid namespace.
            scope.spawn(move || sys::enter(pid, libc::CLONE_NEWPID).and_then(|()| command.spawn())).join()
        });
        spawned.expect("the helper thread does not panic")
    }

    fn wait_for_devices(&self) -> Result<()> {
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
