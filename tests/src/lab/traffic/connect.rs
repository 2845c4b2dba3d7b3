//! Connect, ask, be answered, close: what a client without keep-alive costs.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Cpus, PATIENCE, tcp};
use crate::lab::NetNs;

/// Connections before the clock starts.
const WARM_UP: usize = 20;

/// Connections over a time.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// Opened, answered and closed.
    pub count: u64,
    /// In this time.
    pub elapsed: Duration,
}

impl Connections {
    /// How many in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }
}

/// Opens connections from `client` to `address` in `server` for `duration`, one after another, each for a request and a
/// response of one byte, as netperf's `TCP_CRR`.
///
/// The server closes first: the port that then waits for stray packets is its own, and the client does not run out of
/// ports.
///
/// # Errors
/// When a connection fails.
pub fn connect_rate(
    client: &NetNs,
    server: &NetNs,
    address: IpAddr,
    duration: Duration,
    cpus: Cpus,
) -> Result<Connections> {
    let listener = tcp::listen(server, address)?;
    listener.set_nonblocking(false)?;
    let to = listener.local_addr()?;
    let done = AtomicBool::new(false);
    let counted = std::thread::scope(|scope| {
        scope.spawn(|| {
            super::pin(cpus.server);
            serve(&listener, &done);
        });
        let counted = client.enter(|| {
            super::pin(cpus.client);
            count(to, duration)
        });
        done.store(true, Ordering::Relaxed);
        // The server may be waiting for one more.
        let _ = server.enter(|| TcpStream::connect_timeout(&to, PATIENCE));
        counted
    });
    counted.with_context(|| format!("{}: connecting to {to}", client.name()))
}

fn count(to: SocketAddr, duration: Duration) -> Result<Connections> {
    for _ in 0..WARM_UP {
        call(to)?;
    }
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < duration {
        call(to)?;
        count += 1;
    }
    Ok(Connections { count, elapsed: start.elapsed() })
}

fn call(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[0])?;
    let mut answer = Vec::new();
    // Up to the server's end of the connection.
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == 1, "no answer");
    Ok(())
}

fn serve(listener: &TcpListener, done: &AtomicBool) {
    while let Ok((mut stream, _)) = listener.accept() {
        if done.load(Ordering::Relaxed) {
            return;
        }
        // What fails here fails at the client, too.
        let _ = stream.read_exact(&mut [0]).and_then(|()| stream.write_all(&[0]));
    }
}
