//! The servers: Debian's programs with configuration and data in a directory of their own.
//!
//! They run as an unprivileged user, on one CPU. The kernel sends them SIGINT when the benchmark ends, also by SIGKILL,
//! and each of them then shuts down: PostgreSQL removes its shared memory.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{NetNs, sys};

/// Debian's user and group without files (base-passwd). initdb needs a user with an entry in `/etc/passwd`.
const USER: u32 = 65_534;

/// Longest time until a server serves, and until it has ended.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Name of the PostgreSQL superuser.
pub(super) const DATABASE_USER: &str = "bench";

/// Length of the page that nginx serves.
pub(super) const PAGE: usize = 1024;

/// Directories of PostgreSQL's programs, by major version.
const POSTGRES: &str = "/usr/lib/postgresql";

/// Where servers start.
#[derive(Clone, Copy)]
pub(super) struct Start<'a> {
    pub(super) ns: &'a NetNs,
    pub(super) address: IpAddr,
    pub(super) cpu: Option<usize>,
    /// Existing directory for the files of all servers.
    pub(super) directory: &'a Path,
}

/// A kind of server.
pub(super) trait Service {
    const NAME: &'static str;
    /// Debian package.
    const PACKAGE: &'static str;
    const PORT: u16;

    /// Writes the configuration into the server's directory and returns the command line.
    fn prepare(&self, start: &Start<'_>, directory: &Path) -> Result<Vec<String>>;

    /// Fills the running server with data.
    fn fill(&self, _start: &Start<'_>) -> Result<()> {
        Ok(())
    }
}

/// A running server. Dropping it ends the server.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Start<'_> {
    /// Starts a server and waits until it serves.
    pub(super) fn server<S: Service>(&self, service: &S) -> Result<Server> {
        let log = self.directory.join(format!("{}.log", S::NAME));
        self.try_server(service, &log).with_context(|| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            format!("cannot start {} (Debian package {}) {}", S::NAME, S::PACKAGE, log.trim())
        })
    }

    fn try_server<S: Service>(&self, service: &S, log: &Path) -> Result<Server> {
        let directory = self.directory.join(S::NAME);
        fs::create_dir(&directory)?;
        chown(&directory, Some(USER), Some(USER))?;
        let output = File::create(log)?;
        let mut command = self.command(&service.prepare(self, &directory)?);
        command.current_dir(&directory).stdout(output.try_clone()?).stderr(output);
        let mut server = Server { child: command.spawn()?, address: SocketAddr::new(self.address, S::PORT) };
        self.wait(&mut server)?;
        service.fill(self)?;
        Ok(server)
    }

    /// A command as [`USER`] on the servers' CPU.
    fn command(&self, words: &[String]) -> Command {
        let user = USER.to_string();
        let mut command = self.ns.command("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        // The kernel clears the parent-death signal when the user id changes.
        command.args(["--pdeathsig", "INT"]);
        if let Some(cpu) = self.cpu {
            command.args(["taskset", "--cpu-list", &cpu.to_string()]);
        }
        command.args(words).env("LC_ALL", "C");
        command
    }

    /// Runs a command to its end.
    fn run(&self, words: &[String], directory: &Path) -> Result<()> {
        let output = self.command(words).current_dir(directory).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{}`: {}\n{text}", words.join(" "), output.status);
        Ok(())
    }

    fn wait(&self, server: &mut Server) -> Result<()> {
        let start = Instant::now();
        while self.ns.enter(|| TcpStream::connect_timeout(&server.address, TIMEOUT)).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("it ended at once: {status}");
            }
            ensure!(start.elapsed() < TIMEOUT, "no connection to {} after {TIMEOUT:?}", server.address);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL ends its sessions and shuts down.
        let _ = sys::signal(&self.child, libc::SIGINT);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Fails only if the server has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

/// Redis without files.
pub(super) struct Redis;

impl Service for Redis {
    const NAME: &'static str = "redis-server";
    const PACKAGE: &'static str = "redis-server";
    const PORT: u16 = 6379;

    fn prepare(&self, start: &Start<'_>, _directory: &Path) -> Result<Vec<String>> {
        let (address, port) = (start.address.to_string(), Self::PORT.to_string());
        Ok([
            words([Self::NAME, "--bind", &address, "--port", &port, "--protected-mode", "no"]),
            words(["--save", "", "--appendonly", "no", "--daemonize", "no"]),
        ]
        .concat())
    }
}

/// memcached with one thread.
pub(super) struct Memcached;

impl Service for Memcached {
    const NAME: &'static str = "memcached";
    const PACKAGE: &'static str = "memcached";
    const PORT: u16 = 11_211;

    fn prepare(&self, start: &Start<'_>, _directory: &Path) -> Result<Vec<String>> {
        let (address, port) = (start.address.to_string(), Self::PORT.to_string());
        Ok([
            words([Self::NAME, "--listen", &address, "--port", &port, "--udp-port", "0"]),
            words(["--threads", "1", "--memory-limit", "64"]),
        ]
        .concat())
    }
}

/// nginx with one process and a static page.
pub(super) struct Nginx;

impl Service for Nginx {
    const NAME: &'static str = "nginx";
    const PACKAGE: &'static str = "nginx";
    const PORT: u16 = 8080;

    fn prepare(&self, start: &Start<'_>, directory: &Path) -> Result<Vec<String>> {
        let (path, configuration) = (directory.display(), directory.join("nginx.conf"));
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {path}/{kind};\n"))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {path}/nginx.pid;\nerror_log stderr;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n{temporary}    access_log off;\n    keepalive_requests 1000000000;\n    sendfile on;\n    \
             server {{ listen {}; root {path}; }}\n}}\n",
            SocketAddr::new(start.address, Self::PORT)
        );
        fs::write(&configuration, text)?;
        fs::write(directory.join("index.html"), "x".repeat(PAGE))?;
        Ok(words([Self::NAME, "-p", &path.to_string(), "-e", "stderr", "-c", &configuration.display().to_string()]))
    }
}

/// PostgreSQL with the tables of pgbench.
pub(super) struct Postgres;

impl Service for Postgres {
    const NAME: &'static str = "postgres";
    const PACKAGE: &'static str = "postgresql";
    const PORT: u16 = 5432;

    fn prepare(&self, start: &Start<'_>, directory: &Path) -> Result<Vec<String>> {
        let data = directory.join("data");
        let path = data.display().to_string();
        let user = format!("--username={DATABASE_USER}");
        let initialise =
            words(["--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", &user, "--pgdata", &path]);
        start.run(&[vec![postgres_program("initdb")?], initialise].concat(), directory)?;
        // Only the namespaces of the path reach the server.
        let mut access = File::options().append(true).open(data.join("pg_hba.conf"))?;
        writeln!(access, "host all all all trust")?;
        let settings = [
            format!("listen_addresses={}", start.address),
            format!("port={}", Self::PORT),
            format!("unix_socket_directories={}", directory.display()),
            "fsync=off".to_owned(),
            "autovacuum=off".to_owned(),
        ];
        let settings = settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]);
        Ok([postgres_program(Self::NAME)?, "-D".to_owned(), path].into_iter().chain(settings).collect())
    }

    fn fill(&self, start: &Start<'_>) -> Result<()> {
        let (address, port) = (start.address.to_string(), Self::PORT.to_string());
        let options = words(["--initialize", "--quiet", "--host", &address, "--port", &port]);
        let database = words(["--username", DATABASE_USER, "postgres"]);
        let command = [vec![postgres_program("pgbench")?], options, database].concat();
        let begin = Instant::now();
        // The server accepts connections before it serves them.
        while let Err(error) = start.run(&command, start.directory) {
            ensure!(begin.elapsed() < TIMEOUT, "{error:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Path of a program of PostgreSQL's newest version. Debian does not have them in `PATH`.
pub(super) fn postgres_program(name: &str) -> Result<String> {
    let programs = fs::read_dir(POSTGRES).into_iter().flatten().filter_map(|entry| {
        let directory: PathBuf = entry.ok()?.path();
        let version: u32 = directory.file_name()?.to_str()?.parse().ok()?;
        let program = directory.join("bin").join(name);
        program.is_file().then_some((version, program))
    });
    let (_, newest) = programs.max().with_context(|| format!("no {name} in {POSTGRES}/*/bin"))?;
    Ok(newest.display().to_string())
}
