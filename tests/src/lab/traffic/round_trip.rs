//! Round trips: request and response, one at a time.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Cpus, Latency, tcp, udp::UdpEcho};
use crate::lab::NetNs;

/// Transport protocol of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A datagram of one byte in each direction, like netperf's `UDP_RR`.
    Udp,
    /// One byte in each direction on one connection, like netperf's `TCP_RR`.
    Tcp,
}

/// Requests before the clock starts, to fill caches and neighbour tables.
const WARM_UP: usize = 50;

/// Sends requests from `client` to `address` in `server` for `duration`, each after the reply to the previous one.
///
/// # Errors
/// When a TCP connection fails, or without any UDP reply.
pub fn round_trips(
    protocol: Protocol,
    client: &NetNs,
    server: &NetNs,
    address: IpAddr,
    duration: Duration,
    cpus: Cpus,
) -> Result<Latency> {
    let times = match protocol {
        Protocol::Udp => {
            let echo = UdpEcho::start(server, address, cpus.server)?;
            client.enter(|| {
                super::pin(cpus.client);
                let socket = UdpSocket::bind((super::any(address), 0))?;
                socket.connect(echo.address())?;
                socket.set_read_timeout(Some(Duration::from_millis(200)))?;
                Ok(measure(duration, || udp(&socket)))
            })
        }
        Protocol::Tcp => {
            let listener = tcp::listen(server, address)?;
            let to = listener.local_addr()?;
            let replies = server.spawn(move || {
                super::pin(cpus.server);
                tcp::accept(&listener).and_then(answer)
            });
            let times = client.enter(|| {
                super::pin(cpus.client);
                let mut stream = tcp::connect(to)?;
                stream.set_nodelay(true)?;
                Ok(measure(duration, || tcp(&mut stream)))
            });
            // The client has closed its end, so the server thread ends.
            replies.join().expect("the replying thread does not panic").and(times)
        }
    };
    let times: Vec<_> = times.with_context(|| format!("{protocol:?} round trips from {}", client.name()))?;
    anyhow::ensure!(!times.is_empty(), "{}: no {protocol:?} reply from {address}", client.name());
    Ok(Latency::new(times))
}

/// Repeats a call for `duration` and returns the times of the successful calls.
fn measure(duration: Duration, mut call: impl FnMut() -> Option<()>) -> Vec<Duration> {
    for _ in 0..WARM_UP {
        if call().is_none() {
            break;
        }
    }
    let mut times = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    let mut before = start;
    while before - start < duration {
        let answered = call();
        let now = Instant::now();
        times.extend(answered.map(|()| now - before));
        before = now;
    }
    times
}

fn udp(socket: &UdpSocket) -> Option<()> {
    socket.send(&[0]).ok()?;
    socket.recv(&mut [0]).ok().map(|_| ())
}

fn tcp(stream: &mut TcpStream) -> Option<()> {
    stream.write_all(&[0]).ok()?;
    stream.read_exact(&mut [0]).ok()
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}
