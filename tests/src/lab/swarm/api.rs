//! Requests to dockerd by its socket. Starting the `docker` command takes longer than the request, and polling with it
//! would take too much CPU time from dockerd on an emulated machine.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// Sends a GET request to dockerd and returns the body of the response.
///
/// # Errors
/// After 30 s without a response, or for a status other than 200; the message has the response.
pub(super) fn get(socket: &Path, path: &str) -> Result<String> {
    let request = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        // With HTTP 1.0 the response is not chunked, and ends with the connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut response = String::new();
        stream.read_to_string(&mut response).map(|_| response)
    };
    let response = request().with_context(|| format!("GET {path}: dockerd does not answer"))?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    ensure!(head.split(' ').nth(1) == Some("200"), "GET {path}: {response}");
    Ok(body.to_owned())
}
