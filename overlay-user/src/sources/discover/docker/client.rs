//! GET requests with JSON answers over Docker's socket.

use std::{error::Error, fmt::Display, path::Path};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{net::UnixStream, task::JoinSet};

/// The newest API version used. With an older Docker the client uses Docker's version.
const API: (u32, u32) = (1, 53);
/// Maximum length of an answer, in bytes.
const LIMIT: usize = 16 << 20;

/// A connection to Docker.
pub(super) struct Client {
    sender: SendRequest<Empty<Bytes>>,
    version: (u32, u32),
    /// The task that reads and writes the socket; aborted on drop.
    _connection: JoinSet<hyper::Result<()>>,
}

impl Client {
    /// Connects and negotiates the API version.
    pub(super) async fn connect(socket: &Path) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Version {
            api_version: String,
        }
        /// The only request without a version in its path.
        const VERSION: &str = "/version";
        let stream = UnixStream::connect(socket).await.map_err(|error| format!("cannot connect: {error}"))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(VERSION, &error))?;
        let mut task = JoinSet::new();
        task.spawn(connection);
        let Version { api_version } = get(&mut sender, VERSION).await?;
        let version =
            api_version.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let version = version.ok_or_else(|| failed(VERSION, &format!("{api_version:?} is not an API version")))?;
        Ok(Self { sender, version: API.min(version), _connection: task })
    }

    /// The answer to a request for this path.
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, String> {
        let (major, minor) = self.version;
        get(&mut self.sender, &format!("/v{major}.{minor}{path}")).await
    }
}

async fn get<T: DeserializeOwned>(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let (status, body) = exchange(sender, path).await.map_err(|error| failed(path, &error))?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| failed(path, &error));
    }
    Err(match serde_json::from_slice(&body) {
        Ok(Refusal { message }) => failed(path, &format!("Docker answers {status}: {message}")),
        Err(_) => failed(path, &format!("Docker answers {status}")),
    })
}

/// Sends a request and reads the complete answer.
async fn exchange(
    sender: &mut SendRequest<Empty<Bytes>>,
    path: &str,
) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
    let request = Request::get(path).header(HOST, "docker").body(Empty::new())?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, Limited::new(response.into_body(), LIMIT).collect().await?.to_bytes()))
}

fn failed(path: &str, reason: &impl Display) -> String {
    format!("GET {path}: {reason}")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};

    use super::*;

    const VERSION: &str = r#"{ "ApiVersion": "1.41" }"#;

    /// The client's result when Docker answers `/version` and then `/info` with `answers`.
    async fn info(answers: [(u16, String); 2]) -> Result<serde_json::Value, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("docker.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let server = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines().map_while(Result::ok);
            let mut requests = Vec::new();
            for (status, body) in answers {
                let Some(request) = lines.next() else { break };
                requests.push(request);
                while lines.next().is_some_and(|line| !line.is_empty()) {}
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
                // The client may have closed the connection.
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
            }
            requests
        });
        let result = async { Client::connect(&path).await?.get("/info").await }.await;
        let requests = server.await.expect("the server ends");
        if result.is_ok() {
            assert_eq!(requests, ["GET /version HTTP/1.1", "GET /v1.41/info HTTP/1.1"]);
        }
        result
    }

    #[tokio::test]
    async fn client_uses_the_api_version_of_an_older_docker() {
        let answer = info([(200, VERSION.into()), (200, r#"{ "Swarm": {} }"#.into())]).await;
        assert_eq!(answer, Ok(serde_json::json!({ "Swarm": {} })));
    }

    #[tokio::test]
    async fn errors_name_request_and_reason() {
        let version = || (200, VERSION.to_owned());
        let refusal = (503, r#"{ "message": "this node is not a swarm manager" }"#.to_owned());
        for (answers, wanted) in [
            ([version(), refusal], ["GET /v1.41/info", "503 Service Unavailable: this node is not a swarm manager"]),
            ([version(), (500, "<html>".into())], ["GET /v1.41/info", "500 Internal Server Error"]),
            ([version(), (200, "{".into())], ["GET /v1.41/info", "EOF while parsing"]),
            ([version(), (200, " ".repeat(LIMIT + 1))], ["GET /v1.41/info", "length limit exceeded"]),
            (
                [(200, r#"{ "ApiVersion": "new" }"#.into()), version()],
                ["GET /version", "\"new\" is not an API version"],
            ),
        ] {
            let error = info(answers).await.expect_err("an error");
            assert!(wanted.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[tokio::test]
    async fn missing_socket_is_a_connect_error() {
        let error = Client::connect(Path::new("/no/such/docker.sock")).await.err().expect("an error");
        assert!(error.contains("cannot connect: No such file"), "{error}");
    }
}
