//! The clients: load generators from Debian's packages.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    outputs::{self, Measured},
    servers::{DATABASE_USER, postgres_program},
};
use crate::lab::{
    NetNs,
    traffic::{Request, concurrent_requests},
};

/// Connections of Redis, memcached and nginx.
pub(super) const CONNECTIONS: usize = 32;

/// Sessions of PostgreSQL, which has a process for each.
pub(super) const SESSIONS: usize = 8;

/// Longest time of a run.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of a value in Redis and memcached.
const VALUE: usize = 100;

/// A client of a server.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    pub(super) ns: &'a NetNs,
    pub(super) server: SocketAddr,
    pub(super) cpu: Option<usize>,
    /// Directory for temporary files.
    pub(super) files: &'a Path,
}

impl Client<'_> {
    /// `count` times GET or SET, by redis-benchmark.
    pub(super) fn redis(self, test: &str, count: u32) -> Result<Measured> {
        let output = self.run("redis-benchmark", |command| {
            self.address(command, ["-h", "-p"]);
            command.args(["-t", test, "-n", &count.to_string(), "-c", &CONNECTIONS.to_string()]);
            command.args(["-d", &VALUE.to_string(), "--csv"]);
        })?;
        outputs::redis_benchmark(&output, count.into())
    }

    /// GET by a client of the lab: Debian's memaslap has no percentiles.
    pub(super) fn memcached(self, seconds: u32) -> Result<Measured> {
        self.ns.enter(|| store_value(self.server))?;
        let header = format!("VALUE key 0 {VALUE}\r\n");
        let response = header.len() + VALUE + "\r\nEND\r\n".len();
        let request = Request { bytes: b"get key\r\n".to_vec(), response };
        let time = Duration::from_secs(seconds.into());
        let completed = concurrent_requests(self.ns, self.server, CONNECTIONS, &request, time, self.cpu)?;
        Ok(Measured {
            requests: completed.times.count() as u64,
            per_second: completed.per_second(),
            p99_us: completed.times.percentile_us(99),
        })
    }

    /// A page over connections that stay open, by wrk.
    pub(super) fn keep_alive(self, seconds: u32) -> Result<Measured> {
        let output = self.run("wrk", |command| {
            command.args(["--threads", "1", "--connections", &CONNECTIONS.to_string()]);
            command.args(["--duration", &format!("{seconds}s"), "--latency", &self.url()]);
        })?;
        outputs::wrk(&output)
    }

    /// A page over `count` connections, by ab, which measures the connect, too.
    pub(super) fn connect(self, count: u32) -> Result<Measured> {
        let times = self.files.join("ab.csv");
        let output = self.run("ab", |command| {
            command.args(["-q", "-n", &count.to_string(), "-c", &CONNECTIONS.to_string(), "-e"]);
            command.arg(&times).arg(self.url());
        })?;
        outputs::apache_bench(&output, &fs::read_to_string(&times).context("ab wrote no percentiles")?)
    }

    /// SELECT of a row by its key, by pgbench.
    pub(super) fn postgres(self, seconds: u32) -> Result<Measured> {
        let log = tempfile::tempdir_in(self.files)?;
        let output = self.run(&postgres_program("pgbench")?, |command| {
            self.address(command, ["--host", "--port"]);
            command.args(["--select-only", "--no-vacuum", "--jobs", "1", "--client", &SESSIONS.to_string()]);
            command.args(["--time", &seconds.to_string(), "--username", DATABASE_USER, "--log", "--log-prefix"]);
            command.arg(log.path().join("log")).arg("postgres");
        })?;
        let mut lines = String::new();
        for entry in log.path().read_dir()? {
            lines += &fs::read_to_string(entry?.path())?;
        }
        outputs::pgbench(&output, &lines)
    }

    fn address(&self, command: &mut Command, [host, port]: [&str; 2]) {
        command.args([host, &self.server.ip().to_string(), port, &self.server.port().to_string()]);
    }

    fn url(&self) -> String {
        format!("http://{}/", self.server)
    }

    /// Runs a client on its CPU and returns its standard output.
    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command)) -> Result<String> {
        let mut command = match self.cpu {
            Some(cpu) => {
                let mut command = self.ns.command("taskset");
                command.args(["--cpu-list", &cpu.to_string(), program]);
                command
            }
            None => self.ns.command(program),
        };
        arguments(command.env("LC_ALL", "C"));
        let [mut stdout, mut stderr] = [tempfile::tempfile_in(self.files)?, tempfile::tempfile_in(self.files)?];
        command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let status = wait(child).with_context(|| program.to_owned())?;
        ensure!(status.success(), "{program}: {status}: {}", text(&mut stderr)?.trim());
        text(&mut stdout)
    }
}

/// Waits for a client. Without a connection, redis-benchmark repeats the attempt without end.
fn wait(mut client: Child) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = client.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > TIMEOUT {
            client.kill()?;
            client.wait()?;
            bail!("not finished after {TIMEOUT:?}");
        }
        // Shorter than a tick of `/proc/stat`.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Stores the value that the requests read.
fn store_value(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(format!("set key 0 0 {VALUE}\r\n{}\r\n", "x".repeat(VALUE)).as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    ensure!(answer == "STORED\r\n", "memcached: {}", answer.trim());
    Ok(())
}
