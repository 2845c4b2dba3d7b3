//! HTTP/1.1 requests for a page of 1 KiB, one after another (RFC 9112).
//!
//! Client and server have the same messages, and compare what they receive byte by byte instead of parsing it: the
//! figures are those of the network also in a build without optimisation.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{Calls, Cpus, tcp};
use crate::lab::NetNs;

/// Requests before the clock starts.
const WARM_UP: usize = 20;

/// The page is this line, repeated up to [`PAGE`] bytes.
const LINE: &str = "overlay\n";
const PAGE: usize = 1024;

/// More than the longest message.
const BUFFER: usize = 4096;

/// Connections of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpConnection {
    /// All requests use one connection.
    KeepAlive,
    /// Each request opens a connection, which the server closes after the response.
    Close,
}

/// Sends requests from `client` to `address` in `server` for `duration`, each after the response to the previous one.
///
/// # Errors
/// When a connection fails, or a request or a response is wrong.
pub fn http_rate(
    connection: HttpConnection,
    client: &NetNs,
    server: &NetNs,
    address: IpAddr,
    duration: Duration,
    cpus: Cpus,
) -> Result<Calls> {
    let messages = Messages::new(connection, address);
    tcp::with_server(
        [client, server],
        address,
        cpus,
        |stream| messages.answer(&mut open(tcp::with_timeouts(stream)?)?),
        |to| messages.measure(to, duration),
    )
}

/// Request and response of one measurement.
struct Messages {
    connection: HttpConnection,
    request: String,
    response: String,
}

impl Messages {
    fn new(connection: HttpConnection, host: IpAddr) -> Self {
        // Connections persist without this field (RFC 9112 §9.3).
        let close = match connection {
            HttpConnection::KeepAlive => "",
            HttpConnection::Close => "Connection: close\r\n",
        };
        let page = LINE.repeat(PAGE / LINE.len());
        let length = page.len();
        Self {
            connection,
            request: format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n{close}\r\n"),
            response: format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{close}\r\n{page}"
            ),
        }
    }

    fn measure(&self, to: SocketAddr, duration: Duration) -> Result<Calls> {
        match self.connection {
            HttpConnection::KeepAlive => {
                let mut stream = open(tcp::connect(to)?)?;
                Calls::measure(duration, WARM_UP, || self.get(&mut stream))
            }
            HttpConnection::Close => Calls::measure(duration, WARM_UP, || {
                let mut stream = open(tcp::connect(to)?)?;
                self.get(&mut stream)?;
                // The server closes first: the TIME_WAIT sockets are on its side, and the client does not run out of
                // ports.
                ensure!(stream.read(&mut [0])? == 0, "data after the response");
                Ok(())
            }),
        }
    }

    fn get(&self, stream: &mut (impl Read + Write)) -> Result<()> {
        stream.write_all(self.request.as_bytes())?;
        ensure!(receive(stream, &self.response)?, "the connection ended before the response");
        Ok(())
    }

    /// Answers the requests of one connection.
    fn answer(&self, stream: &mut (impl Read + Write)) -> Result<()> {
        while receive(stream, &self.request)? {
            stream.write_all(self.response.as_bytes())?;
            if self.connection == HttpConnection::Close {
                break;
            }
        }
        Ok(())
    }
}

/// Sends each message at once.
fn open(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Receives this message and nothing else; `false` if the connection ends before the message. The other side sends no
/// further message before it has an answer.
fn receive(stream: &mut impl Read, message: &str) -> Result<bool> {
    let (mut buffer, mut length) = ([0; BUFFER], 0);
    while length < message.len() {
        let more = stream.read(&mut buffer[length..])?;
        if more == 0 && length == 0 {
            return Ok(false);
        }
        ensure!(more > 0, "the connection ended after {length} of {} bytes", message.len());
        length += more;
    }
    let received = &buffer[..length];
    ensure!(received == message.as_bytes(), "unexpected message: {:?}", String::from_utf8_lossy(received));
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that returns at most `step` bytes at once.
    struct Slow<'bytes> {
        left: &'bytes [u8],
        step: usize,
        written: Vec<u8>,
    }

    impl<'bytes> Slow<'bytes> {
        fn new(text: &'bytes str, step: usize) -> Self {
            Self { left: text.as_bytes(), step, written: Vec::new() }
        }
    }

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            (&mut self.left).take(self.step as u64).read(buffer)
        }
    }

    impl Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.written.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn messages(connection: HttpConnection) -> Messages {
        Messages::new(connection, IpAddr::from([10, 0, 1, 6]))
    }

    #[test]
    fn messages_are_well_formed() {
        for connection in [HttpConnection::KeepAlive, HttpConnection::Close] {
            let Messages { request, response, .. } = messages(connection);
            let (head, page) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("Content-Length: 1024") && page.len() == 1024, "{response}");
            assert!(request.ends_with("\r\n\r\n") && response.len() < BUFFER, "{request}");
            for text in [&request[..], head] {
                assert_eq!(text.contains("\r\nConnection: close"), connection == HttpConnection::Close, "{text}");
                assert!(text.trim_end().split("\r\n").skip(1).all(|line| line.contains(": ")), "{text}");
            }
        }
    }

    #[test]
    fn messages_are_complete_in_segments_of_any_size() {
        let messages = messages(HttpConnection::Close);
        for step in [1, 2, 64, 1000, BUFFER] {
            let mut client = Slow::new(&messages.response, step);
            messages.get(&mut client).unwrap();
            assert_eq!(client.written, messages.request.as_bytes(), "{step}");
            let mut server = Slow::new(&messages.request, step);
            messages.answer(&mut server).unwrap();
            assert_eq!(server.written, messages.response.as_bytes(), "{step}");
        }
    }

    #[test]
    fn connection_is_kept_unless_it_is_closed_after_the_response() {
        for (connection, responses) in [(HttpConnection::KeepAlive, 2), (HttpConnection::Close, 1)] {
            let messages = messages(connection);
            let twice = messages.request.repeat(2);
            let mut server = Slow::new(&twice, messages.request.len());
            messages.answer(&mut server).unwrap();
            assert_eq!(server.written, messages.response.repeat(responses).as_bytes());
        }
    }

    #[test]
    fn incomplete_and_wrong_messages_are_errors() {
        let messages = messages(HttpConnection::KeepAlive);
        let response = &messages.response;
        let other_status = response.replace("200 OK", "404 No");
        let other_page = response.replace("overlay\noverlay", "overlay\noverfly");
        for text in ["", &response[..response.len() - 1], &format!("{response}!"), &other_status, &other_page] {
            assert!(messages.get(&mut Slow::new(text, BUFFER)).is_err(), "{text:?}");
        }
        assert!(messages.answer(&mut Slow::new(&messages.request[..20], BUFFER)).is_err());
        assert!(messages.answer(&mut Slow::new("", BUFFER)).is_ok());
    }
}
