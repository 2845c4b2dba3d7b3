//! Lines of JSON, and their limits.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    time::timeout,
};

use super::types::Failure;

/// Longest request in bytes.
pub(super) const REQUEST_MAX: u64 = 64 << 10;
/// Longest answer in bytes: some hundred thousand endpoints.
pub(super) const ANSWER_MAX: u64 = 256 << 20;

/// An answer of the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// Success, with the document.
    Ok(serde_json::Value),
    /// Failure.
    Error(Failure),
}

/// Reads one line.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the line does not end, [`io::ErrorKind::InvalidData`] when it is longer than
/// `max` bytes or is not a `T`, [`io::ErrorKind::TimedOut`].
pub(super) async fn read<T: DeserializeOwned>(
    stream: impl AsyncRead + Unpin,
    max: u64,
    limit: Duration,
) -> io::Result<T> {
    let mut line = Vec::new();
    // One byte more distinguishes a line that is too long from one of the maximum length.
    let mut reader = BufReader::new(stream.take(max + 1));
    timeout(limit, reader.read_until(b'\n', &mut line)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    if line.last() != Some(&b'\n') {
        return Err(if line.len() as u64 > max {
            io::Error::new(io::ErrorKind::InvalidData, format!("the line is longer than {max} bytes"))
        } else {
            io::ErrorKind::UnexpectedEof.into()
        });
    }
    serde_json::from_slice(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes one line.
///
/// # Errors
/// The stream's, and [`io::ErrorKind::TimedOut`] when the peer does not read.
pub(super) async fn write<T: Serialize>(
    mut stream: impl AsyncWrite + Unpin,
    message: &T,
    limit: Duration,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let written = async {
        stream.write_all(&line).await?;
        stream.flush().await
    };
    timeout(limit, written).await.map_err(|_| io::ErrorKind::TimedOut)?
}
