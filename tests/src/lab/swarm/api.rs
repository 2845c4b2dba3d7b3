//! Questions to dockerd by its socket. Docker's command takes longer to start than the answer takes, and where the machine
//! is emulated, asking by it again and again would leave dockerd no time to work.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// What dockerd answers to a GET request.
///
/// # Errors
/// When it does not answer in time, or not with status 200; the message has what it said.
pub(super) fn get(socket: &Path, path: &str) -> Result<String> {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        // To version 1.0 the answer is one piece, and ends with the connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    let answer = ask().with_context(|| format!("GET {path}: dockerd does not answer"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    ensure!(head.split(' ').nth(1) == Some("200"), "GET {path}: {answer}");
    Ok(body.to_owned())
}
