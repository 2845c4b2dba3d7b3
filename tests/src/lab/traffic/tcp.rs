//! TCP streams with verified contents.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Cpus, TICK, pattern, timeout};
use crate::lab::NetNs;

const CHUNK: usize = 128 * 1024;

/// Result of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Received and verified bytes.
    pub bytes: u64,
    /// From connecting to the last byte.
    pub elapsed: Duration,
}

/// Sends `bytes` from `client` to `address` in `server`, over one connection.
///
/// # Errors
/// When the connection fails, makes no progress for 10 s, or the received data is wrong.
pub fn tcp_transfer(client: &NetNs, server: &NetNs, address: IpAddr, bytes: u64) -> Result<Transfer> {
    TcpFlow::begin(client, server, address, bytes, None)?.join()
}

/// A continuous stream, for tests that make changes under traffic.
#[derive(Debug)]
pub struct TcpFlow {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<u64>>,
    start: Instant,
}

impl TcpFlow {
    /// Starts a stream from `client` to `address` in `server` with at most `bytes_per_second`.
    ///
    /// # Errors
    /// When the server does not have the address. [`Self::stop`] returns later errors.
    pub fn start(client: &NetNs, server: &NetNs, address: IpAddr, bytes_per_second: Option<u32>) -> Result<Self> {
        Self::begin(client, server, address, u64::MAX, bytes_per_second)
    }

    fn begin(client: &NetNs, server: &NetNs, address: IpAddr, limit: u64, pace: Option<u32>) -> Result<Self> {
        let listener = listen(server, address)?;
        let to = listener.local_addr()?;
        let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = Instant::now();
        let receiver = {
            let progress = Arc::clone(&progress);
            server.spawn(move || receive(&mut accept(&listener)?, &progress))
        };
        let sender = {
            let stop = Arc::clone(&stop);
            client.spawn(move || send(&mut connect(to)?, limit, pace, &stop))
        };
        Ok(Self { stop, progress, sender, receiver, start })
    }

    /// Received and verified bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` more are received.
    ///
    /// # Errors
    /// After 10 s without progress.
    pub fn wait_for(&self, bytes: u64) -> Result<()> {
        let goal = self.bytes() + bytes;
        let (mut last, mut since) = (self.bytes(), Instant::now());
        while self.bytes() < goal {
            if self.bytes() != last {
                (last, since) = (self.bytes(), Instant::now());
            }
            ensure!(since.elapsed() < timeout(), "the TCP stream makes no progress after {last} bytes");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops sending and waits for outstanding data.
    ///
    /// # Errors
    /// When the connection broke, or a byte was wrong or missing.
    pub fn stop(self) -> Result<Transfer> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(self) -> Result<Transfer> {
        let sent = self.sender.join().expect("the sending thread does not panic");
        let received = self.receiver.join().expect("the receiving thread does not panic");
        let elapsed = self.start.elapsed();
        // A receiver that finds a wrong byte closes the connection, which is an error of the sender, too.
        let (sent, received) = match (sent, received) {
            (Ok(sent), Ok(received)) => (sent, received),
            (Err(sent), Err(received)) => bail!("cannot receive over TCP: {received:#}; cannot send: {sent:#}"),
            (sent, received) => (sent.context("cannot send over TCP")?, received.context("cannot receive over TCP")?),
        };
        ensure!(sent == received, "TCP stream: {sent} bytes sent, {received} received");
        Ok(Transfer { bytes: received, elapsed })
    }
}

fn send(stream: &mut TcpStream, limit: u64, pace: Option<u32>, stop: &AtomicBool) -> Result<u64> {
    let start = Instant::now();
    let mut buffer = vec![0; CHUNK];
    let mut sent = 0;
    while sent < limit && !stop.load(Ordering::Relaxed) {
        let length = (CHUNK as u64).min(limit - sent) as usize;
        pattern::fill(&mut buffer[..length], sent);
        stream.write_all(&buffer[..length]).with_context(|| format!("after {sent} bytes"))?;
        sent += length as u64;
        while let Some(rate) = pace {
            let due = start + Duration::from_secs_f64(sent as f64 / f64::from(rate));
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() || stop.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(wait.min(TICK));
        }
    }
    stream.shutdown(Shutdown::Write)?;
    // The receiver closes the connection after the last byte.
    let rest = stream.read(&mut buffer).context("the receiver has not closed the connection")?;
    ensure!(rest == 0, "the receiver sent {rest} bytes, expected none");
    Ok(sent)
}

fn receive(stream: &mut TcpStream, progress: &AtomicU64) -> Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    loop {
        let length = stream.read(&mut buffer).with_context(|| format!("after {received} bytes"))?;
        if length == 0 {
            return Ok(received);
        }
        ensure!(pattern::matches(&buffer[..length], received), "wrong content after {received} bytes");
        received += length as u64;
        progress.store(received, Ordering::Relaxed);
    }
}

/// Calls `request` in `client` with the address of a server on `address` in `server`. The server calls `answer` for
/// each connection, one after another, on one thread.
pub(super) fn with_server<T: Send>(
    [client, server]: [&NetNs; 2],
    address: IpAddr,
    cpus: Cpus,
    answer: impl Fn(TcpStream) -> Result<()> + Sync,
    request: impl FnOnce(SocketAddr) -> Result<T> + Send,
) -> Result<T> {
    let listener = listen(server, address)?;
    listener.set_nonblocking(false)?;
    let to = listener.local_addr()?;
    let done = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            super::pin(cpus.server);
            while let Ok((stream, _)) = listener.accept() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                // An error here also causes an error at the client.
                let _ = answer(stream);
            }
        });
        let outcome = client.enter(|| {
            super::pin(cpus.client);
            request(to)
        });
        done.store(true, Ordering::Relaxed);
        // Wakes the server if it is in `accept`.
        let _ = server.enter(|| TcpStream::connect_timeout(&to, timeout()));
        outcome
    });
    outcome.with_context(|| format!("{}: requests to {to}", client.name()))
}

/// A non-blocking listener in `ns` on `address` and an ephemeral port, for [`accept`].
pub(super) fn listen(ns: &NetNs, address: IpAddr) -> Result<TcpListener> {
    let listener = ns.enter(|| TcpListener::bind((address, 0)));
    let listener = listener.with_context(|| format!("{}: cannot listen on {address}", ns.name()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts one connection, with timeouts of 10 s.
pub(super) fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return with_timeouts(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot accept a connection"),
        }
        if start.elapsed() > timeout() {
            bail!("no connection for {} s", timeout().as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Connects from the namespace of the calling thread, with timeouts of 10 s.
pub(super) fn connect(to: SocketAddr) -> Result<TcpStream> {
    with_timeouts(TcpStream::connect_timeout(&to, timeout()).with_context(|| format!("cannot connect to {to}"))?)
}

/// The stream, with timeouts of 10 s.
pub(super) fn with_timeouts(stream: TcpStream) -> Result<TcpStream> {
    stream.set_read_timeout(Some(timeout()))?;
    stream.set_write_timeout(Some(timeout()))?;
    Ok(stream)
}
