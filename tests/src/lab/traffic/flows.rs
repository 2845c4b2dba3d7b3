//! Requests on several flows at once, from one thread: each flow sends the next request after the response to the
//! previous one.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Cpus, Latency, Protocol, TICK, tcp, udp::UdpEcho};
use crate::lab::{NetNs, sys::Epoll};

/// Longest time without any response. TCP repeats a lost segment sooner, also several times.
const SILENCE: Duration = Duration::from_secs(5);

/// A request of a TCP service.
#[derive(Clone, Debug)]
pub struct Request {
    /// The request.
    pub bytes: Vec<u8>,
    /// Length of the response, in bytes.
    pub response: usize,
}

impl Request {
    /// One byte each.
    fn byte() -> Self {
        Self { bytes: vec![0], response: 1 }
    }
}

/// Completed requests.
#[derive(Clone, Debug)]
pub struct Completed {
    /// From each request to its response.
    pub times: Latency,
    /// From the first request to the last response.
    pub elapsed: Duration,
}

impl Completed {
    /// Requests per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.times.count() as f64 / self.elapsed.as_secs_f64()
    }
}

/// Sends requests of one byte from `client` to an echo on `address` in `server` for `duration`, on `flows` flows at
/// once: TCP connections, or UDP sockets with a port each.
///
/// One thread sends the requests of all flows, and one thread answers.
///
/// # Errors
/// When a connection fails, or a flow has no response: a lost datagram is an error.
pub fn concurrent_round_trips(
    protocol: Protocol,
    flows: usize,
    client: &NetNs,
    server: &NetNs,
    address: IpAddr,
    duration: Duration,
    cpus: Cpus,
) -> Result<Completed> {
    match protocol {
        Protocol::Udp => {
            let echo = UdpEcho::start(server, address, cpus.server)?;
            let open = || Socket::udp(echo.address());
            exchange(client, flows, open, &Request::byte(), duration, cpus.client)
        }
        Protocol::Tcp => {
            let echo = TcpEcho::start(server, address, cpus.server)?;
            let open = || Socket::tcp(echo.address);
            exchange(client, flows, open, &Request::byte(), duration, cpus.client)
        }
    }
}

/// Sends a request again and again from `client` to a TCP service for `duration`, on `connections` connections at once,
/// from one thread on `cpu`.
///
/// # Errors
/// When a connection fails, or a response has another length.
pub fn concurrent_requests(
    client: &NetNs,
    service: SocketAddr,
    connections: usize,
    request: &Request,
    duration: Duration,
    cpu: Option<usize>,
) -> Result<Completed> {
    exchange(client, connections, || Socket::tcp(service), request, duration, cpu)
}

fn exchange(
    client: &NetNs,
    flows: usize,
    open: impl Fn() -> Result<Socket> + Sync,
    request: &Request,
    duration: Duration,
    cpu: Option<usize>,
) -> Result<Completed> {
    let completed = client.enter(|| {
        super::pin(cpu);
        let flows = (0..flows).map(|_| Ok(Flow { socket: open()?, sent: Instant::now(), missing: 0 }));
        run(flows.collect::<Result<_>>()?, request, duration)
    });
    completed.with_context(|| format!("{flows} flows from {}", client.name()))
}

/// Sends on all flows until `duration` is over, and waits for the responses.
fn run(mut flows: Vec<Flow>, request: &Request, duration: Duration) -> Result<Completed> {
    let mut poll = Epoll::new()?;
    for (token, flow) in flows.iter().enumerate() {
        poll.add(flow.socket.as_fd(), token)?;
    }
    let mut times = Vec::with_capacity(1 << 16);
    let mut buffer = vec![0; request.response + 1];
    let start = Instant::now();
    for flow in &mut flows {
        flow.send(request, Instant::now())?;
    }
    let mut open = flows.len();
    while open > 0 {
        let ready = poll.wait(SILENCE)?;
        ensure!(ready.len() > 0, "no response on {open} of {} flows for {SILENCE:?}", flows.len());
        for token in ready {
            let flow = &mut flows[token];
            let length = flow.socket.receive(&mut buffer)?;
            ensure!(length > 0, "the server has closed a connection");
            flow.missing = flow.missing.checked_sub(length).context("a response is longer than expected")?;
            if flow.missing > 0 {
                continue;
            }
            let now = Instant::now();
            times.push(now - flow.sent);
            if now - start < duration {
                flow.send(request, now)?;
            } else {
                open -= 1;
            }
        }
    }
    Ok(Completed { elapsed: start.elapsed(), times: Latency::new(times) })
}

struct Flow {
    socket: Socket,
    /// Time of the last request.
    sent: Instant,
    /// Bytes of its response that have not arrived.
    missing: usize,
}

impl Flow {
    fn send(&mut self, request: &Request, now: Instant) -> Result<()> {
        (self.sent, self.missing) = (now, request.response);
        self.socket.send(&request.bytes)
    }
}

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Socket {
    fn udp(to: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind((super::any(to.ip()), 0))?;
        socket.connect(to)?;
        Ok(Self::Udp(socket))
    }

    fn tcp(to: SocketAddr) -> Result<Self> {
        let stream = tcp::connect(to)?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(socket) => socket.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Udp(socket) => socket.send(bytes).map(drop),
            Self::Tcp(stream) => stream.write_all(bytes),
        }
        .context("cannot send a request")
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Udp(socket) => socket.recv(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
        .context("cannot receive a response")
    }
}

/// Sends every byte back to its source, on many connections, from one thread. Dropping it stops the echo.
struct TcpEcho {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TcpEcho {
    /// Starts an echo on `address` in `ns`, on an ephemeral port.
    fn start(ns: &NetNs, address: IpAddr, cpu: Option<usize>) -> Result<Self> {
        let listener = tcp::listen(ns, address)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = ns.spawn(move || {
            super::pin(cpu);
            // The client reports an error, too: it has no response.
            let _ = serve(&listener, &stopped);
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool) -> Result<()> {
    let mut poll = Epoll::new()?;
    // The token of a connection is its index; that of the listener is larger.
    poll.add(listener.as_fd(), usize::MAX)?;
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let ready: Vec<usize> = poll.wait(TICK)?.collect();
        for token in ready {
            let Some(slot) = connections.get_mut(token) else {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                poll.add(stream.as_fd(), connections.len())?;
                connections.push(Some(stream));
                continue;
            };
            let Some(stream) = slot else { continue };
            match stream.read(&mut buffer) {
                Ok(length @ 1..) => stream.write_all(&buffer[..length])?,
                _ => *slot = None,
            }
        }
    }
    Ok(())
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
