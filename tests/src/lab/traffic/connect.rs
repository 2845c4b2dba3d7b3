//! Connections with one request and one response each.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Cpus, TIMEOUT, tcp};
use crate::lab::NetNs;

/// Connections before the clock starts.
const WARM_UP: usize = 20;

/// Number of connections and measuring time.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// Connections with request and response.
    pub count: u64,
    /// Measuring time.
    pub elapsed: Duration,
}

impl Connections {
    /// Connections per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }
}

/// Opens connections from `client` to `address` in `server` for `duration`, one after another, each for a request and a
/// response of one byte, like netperf's `TCP_CRR`.
///
/// The server closes first: the TIME_WAIT sockets are on its side, and the client does not run out of ports.
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
        // Wakes the server if it is in `accept`.
        let _ = server.enter(|| TcpStream::connect_timeout(&to, TIMEOUT));
        counted
    });
    counted.with_context(|| format!("{}: cannot connect to {to}", client.name()))
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
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(&[0])?;
    let mut answer = Vec::new();
    // Until the server closes the connection.
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == 1, "the response has {} bytes, expected 1", answer.len());
    Ok(())
}

fn serve(listener: &TcpListener, done: &AtomicBool) {
    while let Ok((mut stream, _)) = listener.accept() {
        if done.load(Ordering::Relaxed) {
            return;
        }
        // An error here also causes an error at the client.
        let _ = stream.read_exact(&mut [0]).and_then(|()| stream.write_all(&[0]));
    }
}
