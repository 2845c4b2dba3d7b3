//! A real etcd: one network namespace per member, and clients on the same switch.
//!
//! ```text
//!  etcd1 10.77.0.1   etcd2 10.77.0.2   etcd3 10.77.0.3   client1 10.77.0.11 …
//!        └─────────────────┴────── switch ──────┴───────────────┘
//! ```
//!
//! Dropping [`Etcd`] kills the members; so does the end of the process.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{Host, NetNs};

/// Longest time until a member serves clients.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Prefix of the directory name.
const PREFIX: &str = "overlay-etcd-";

/// An etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    switch: NetNs,
    directory: TempDir,
    tls: bool,
}

/// A client of the cluster: a namespace with one interface, `eth0`.
#[derive(Clone, Debug)]
pub struct Client {
    /// The namespace.
    pub ns: NetNs,
    /// Its address on the switch.
    pub address: Ipv4Addr,
}

#[derive(Debug)]
struct Member {
    ns: NetNs,
    /// Commands are killed with the thread that spawned them: this thread lives as long as the member.
    running: Option<(u32, mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Etcd {
    /// Starts members without TLS and authentication.
    ///
    /// # Errors
    /// Without root, `ip` or `etcd`, or when a member does not serve within 20 s.
    pub fn start(members: u8) -> Result<Self> {
        Self::with(members, false, TempDir::with_prefix(PREFIX)?)
    }

    /// Like [`Self::start`], with the files of the members below `parent`, for instance in memory.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in(members: u8, parent: &Path) -> Result<Self> {
        Self::with(members, false, TempDir::with_prefix_in(PREFIX, parent)?)
    }

    /// Starts one member that requires client certificates: see [`Self::certificate`].
    ///
    /// # Errors
    /// As [`Self::start`], and without `openssl`.
    pub fn start_tls() -> Result<Self> {
        Self::with(1, true, TempDir::with_prefix(PREFIX)?)
    }

    fn with(count: u8, tls: bool, directory: TempDir) -> Result<Self> {
        let switch = NetNs::anonymous("etcd switch")?;
        switch.try_script("ip link add br0 type bridge\nip link set br0 up")?;
        let mut etcd = Self { members: Vec::new(), switch, directory, tls };
        if tls {
            etcd.authority()?;
        }
        for number in 1..=count {
            let ns = etcd.plug(&format!("etcd{number}"), number)?;
            etcd.members.push(Member { ns, running: None });
        }
        for number in 1..=count {
            etcd.start_member(number)?;
        }
        for number in 1..=count {
            etcd.wait(number)?;
        }
        Ok(etcd)
    }

    /// Creates a namespace on the switch.
    fn plug(&self, name: &str, last: u8) -> Result<NetNs> {
        let ns = NetNs::anonymous(name)?;
        let switch = self.switch.path().display();
        ns.try_script(&format!(
            "ip link add eth0 type veth peer name p{last} netns {switch}
             ip addr add 10.77.0.{last}/24 dev eth0
             ip link set eth0 up"
        ))?;
        self.switch.try_script(&format!("ip link set p{last} master br0 up"))?;
        ns.wait_for_devices()?;
        Ok(ns)
    }

    /// Creates the namespace of the `number`th client, from 1.
    ///
    /// # Errors
    /// When the client exists.
    pub fn client(&self, number: u8) -> Result<Client> {
        let last = 10 + number;
        let ns = self.plug(&format!("client{number}"), last)?;
        Ok(Client { ns, address: Ipv4Addr::new(10, 77, 0, last) })
    }

    /// Adds an interface `mgmt` on the switch to a host, with the address of the `number`th client.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub fn join(&self, host: &Host, number: u8) -> Result<Client> {
        let client = self.client(number)?;
        let path = host.path().display();
        client.ns.try_script(&format!("ip link set eth0 name mgmt netns {path}"))?;
        host.try_script(&format!("ip addr add {}/24 dev mgmt\nip link set mgmt up", client.address))?;
        host.wait_for_devices()?;
        Ok(client)
    }

    /// URLs of the members.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.tls { "https" } else { "http" };
        (1..=self.members.len()).map(|number| format!("{scheme}://10.77.0.{number}:2379")).collect()
    }

    /// Runs `etcdctl` in the namespace of the first member, with the URLs of all members and, with TLS, the certificate
    /// of root.
    ///
    /// # Errors
    /// When `etcdctl` fails.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let endpoints = self.urls().join(",");
        let mut command = vec!["env".into(), "ETCDCTL_API=3".into(), "etcdctl".into(), "--endpoints".into(), endpoints];
        if self.tls {
            let (ca, certificate, key) = (self.file("ca.pem"), self.file("root.pem"), self.file("root.key"));
            for (option, path) in [("--cacert", ca), ("--cert", certificate), ("--key", key)] {
                command.extend([option.into(), path.display().to_string()]);
            }
        }
        command.extend(arguments.iter().map(ToString::to_string));
        self.members[0].ns.try_run(&command)
    }

    /// Kills the `number`th member, from 1, with SIGKILL.
    ///
    /// # Errors
    /// When the member does not run.
    pub fn kill(&mut self, number: u8) -> Result<()> {
        let member = &mut self.members[usize::from(number) - 1];
        let (_, stop, thread) = member.running.take().with_context(|| format!("etcd{number} is not running"))?;
        drop(stop);
        thread.join().map_err(|_| anyhow::anyhow!("the thread of etcd{number} panicked"))
    }

    /// Starts the `number`th member with its existing data directory.
    ///
    /// # Errors
    /// When the member cannot be started.
    pub fn start_member(&mut self, number: u8) -> Result<()> {
        let count = self.members.len();
        let cluster = (1..=count).map(|n| format!("e{n}=http://10.77.0.{n}:2380")).collect::<Vec<_>>().join(",");
        let scheme = if self.tls { "https" } else { "http" };
        let mut arguments: Vec<String> = [
            format!("--name=e{number}"),
            format!("--data-dir={}", self.file(&format!("{number}.data")).display()),
            "--logger=zap".into(),
            "--log-level=warn".into(),
            format!("--listen-peer-urls=http://10.77.0.{number}:2380"),
            format!("--initial-advertise-peer-urls=http://10.77.0.{number}:2380"),
            format!("--listen-client-urls={scheme}://10.77.0.{number}:2379"),
            format!("--advertise-client-urls={scheme}://10.77.0.{number}:2379"),
            format!("--initial-cluster={cluster}"),
            "--initial-cluster-state=new".into(),
        ]
        .into();
        if self.tls {
            arguments.push(format!("--cert-file={}", self.file("server.pem").display()));
            arguments.push(format!("--key-file={}", self.file("server.key").display()));
            arguments.push(format!("--trusted-ca-file={}", self.file("ca.pem").display()));
            arguments.push("--client-cert-auth".into());
        }
        let log = File::create(self.file(&format!("{number}.log")))?;
        let ns = self.members[usize::from(number) - 1].ns.clone();
        let (stop, stopped) = mpsc::channel::<()>();
        let (started, start) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut command = ns.command("etcd");
            command.args(arguments).stdout(Stdio::null()).stderr(Stdio::from(log));
            match command.spawn().context("cannot start etcd; install Debian's package etcd-server") {
                Ok(mut child) => {
                    let _ = started.send(Ok(child.id()));
                    // Ends when the sender is dropped.
                    let _ = stopped.recv();
                    end(&mut child);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
        let pid = start.recv().with_context(|| format!("the thread of etcd{number} ended"))??;
        self.members[usize::from(number) - 1].running = Some((pid, stop, thread));
        Ok(())
    }

    fn wait(&self, number: u8) -> Result<()> {
        let url = &self.urls()[usize::from(number) - 1];
        let start = Instant::now();
        while let Err(error) = self.ctl(&["endpoint", "health", "--command-timeout=1s", &format!("--endpoints={url}")])
        {
            let log = fs::read_to_string(self.file(&format!("{number}.log"))).unwrap_or_default();
            ensure!(start.elapsed() < TIMEOUT, "etcd{number} does not serve after {TIMEOUT:?}: {error:#}\n{log}");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Number of the leader, from 1.
    ///
    /// # Errors
    /// When etcd has no leader.
    pub fn leader(&self) -> Result<u8> {
        let status: serde_json::Value = serde_json::from_str(&self.ctl(&["endpoint", "status", "-w", "json"])?)?;
        for (index, member) in
            status.as_array().context("`etcdctl endpoint status` printed no list")?.iter().enumerate()
        {
            let status = &member["Status"];
            if status["leader"] == status["header"]["member_id"] {
                let endpoint = member["Endpoint"].as_str().unwrap_or_default();
                let position = self.urls().iter().position(|url| url == endpoint).unwrap_or(index);
                return Ok(u8::try_from(position + 1)?);
            }
        }
        bail!("etcd has no leader")
    }

    /// Sets the port of a client on the switch up or down.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn connect(&self, client: &Client, up: bool) -> Result<()> {
        let port = client.address.octets()[3];
        self.switch.try_script(&format!("ip link set p{port} {}", if up { "up" } else { "down" }))
    }

    /// Path of a file of the cluster.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Creates a client certificate and its key. etcd uses the common name as the user name.
    ///
    /// # Errors
    /// When `openssl` fails.
    pub fn certificate(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        self.sign(name, "DNS:localhost")?;
        Ok((self.file(&format!("{name}.pem")), self.file(&format!("{name}.key"))))
    }

    fn authority(&self) -> Result<()> {
        let (key, certificate) = (self.file("ca.key"), self.file("ca.pem"));
        self.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=lab",
            &[("-keyout", &key), ("-out", &certificate)],
        )?;
        self.sign("server", "IP:10.77.0.1")?;
        self.sign("root", "DNS:localhost")
    }

    fn sign(&self, name: &str, san: &str) -> Result<()> {
        let file = |suffix: &str| self.file(&format!("{name}.{suffix}"));
        let (key, request, certificate, extensions) = (file("key"), file("csr"), file("pem"), file("ext"));
        fs::write(&extensions, format!("subjectAltName={san}\nextendedKeyUsage=serverAuth,clientAuth\n"))?;
        self.openssl(
            &format!("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name}"),
            &[("-keyout", &key), ("-out", &request)],
        )?;
        let (ca, ca_key) = (self.file("ca.pem"), self.file("ca.key"));
        self.openssl(
            "x509 -req -days 2 -CAcreateserial",
            &[("-in", &request), ("-CA", &ca), ("-CAkey", &ca_key), ("-extfile", &extensions), ("-out", &certificate)],
        )
    }

    fn openssl(&self, words: &str, files: &[(&str, &Path)]) -> Result<()> {
        let mut command: Vec<_> = std::iter::once("openssl").chain(words.split(' ')).map(ToOwned::to_owned).collect();
        for (option, path) in files {
            command.extend([(*option).to_owned(), path.display().to_string()]);
        }
        self.switch.try_run(&command).map(drop)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some((_, stop, thread)) = member.running.take() {
                drop(stop);
                let _ = thread.join();
            }
        }
    }
}

fn end(child: &mut Child) {
    // Fails only if the process has already exited.
    let _ = child.kill();
    let _ = child.wait();
}
