//! Connections with one request and one response each.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{Calls, Cpus, tcp, timeout};
use crate::lab::NetNs;

/// Connections before the clock starts.
const WARM_UP: usize = 20;

/// Opens connections from `client` to `address` in `server` for `duration`, one after another, each for a request and a
/// response of one byte, like netperf's `TCP_CRR`.
///
/// The server closes first: the TIME_WAIT sockets are on its side, and the client does not run out of ports.
///
/// # Errors
/// When a connection fails.
pub fn connect_rate(client: &NetNs, server: &NetNs, address: IpAddr, duration: Duration, cpus: Cpus) -> Result<Calls> {
    tcp::with_server([client, server], address, cpus, answer, |to| Calls::measure(duration, WARM_UP, || call(to)))
}

fn call(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(timeout()))?;
    stream.write_all(&[0])?;
    let mut answer = Vec::new();
    // Until the server closes the connection.
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == 1, "the response has {} bytes, expected 1", answer.len());
    Ok(())
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.read_exact(&mut [0])?;
    Ok(stream.write_all(&[0])?)
}
