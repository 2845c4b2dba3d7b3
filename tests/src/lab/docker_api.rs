//! A fake of Docker's API with one overlay network.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// Behaviour of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Docker {
    /// Every request is answered.
    Answers,
    /// Every request is answered, and the network is encrypted.
    Encrypts,
    /// Requests are read and not answered.
    Hangs,
    /// The list of networks is answered, the inspection of a network is not.
    HangsLater,
    /// Every connection is closed.
    Closes,
}

/// A socket with the API of Docker 20.10.
#[derive(Debug)]
pub struct DockerApi {
    behaviour: Arc<AtomicU8>,
    directory: tempfile::TempDir,
}

impl DockerApi {
    /// Identifier of the network `my-overlay-network`.
    pub const ID: &str = "abcdefghijklmnopqrstuvwxy";

    /// Listens until the process ends. The network has VNI `vni` and one container, `gindemo1`.
    ///
    /// # Errors
    /// I/O errors.
    pub fn start(vni: u32, mac: &str) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let listener = UnixListener::bind(directory.path().join("docker.sock"))?;
        let behaviour = Arc::new(AtomicU8::new(Docker::Answers as u8));
        let (current, mac) = (Arc::clone(&behaviour), mac.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (behaviour, mac) = (current.load(Ordering::Relaxed), mac.clone());
                thread::spawn(move || serve(&stream, behaviour, |path, behaviour| answer(path, behaviour, vni, &mac)));
            }
        });
        Ok(Self { behaviour, directory })
    }

    /// Sets the behaviour for later connections.
    pub fn set_behaviour(&self, behaviour: Docker) {
        self.behaviour.store(behaviour as u8, Ordering::Relaxed);
    }

    /// Path of the socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }
}

fn serve(mut stream: &UnixStream, behaviour: u8, answer: impl Fn(&str, u8) -> Value) {
    const HANGS: u8 = Docker::Hangs as u8;
    const HANGS_LATER: u8 = Docker::HangsLater as u8;
    const CLOSES: u8 = Docker::Closes as u8;
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        // Skips the headers; none of these requests has a body.
        while lines.next().is_some_and(|line| !line.is_empty()) {}
        let path = request.split(' ').nth(1).unwrap_or_default();
        match behaviour {
            HANGS => thread::sleep(Duration::from_secs(3600)),
            HANGS_LATER if path.contains("/networks/") => thread::sleep(Duration::from_secs(3600)),
            CLOSES => return,
            _ => {}
        }
        let body = answer(path, behaviour).to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(path: &str, behaviour: u8, vni: u32, mac: &str) -> Value {
    let mut options = json!({ "com.docker.network.driver.overlay.vxlanid_list": vni.to_string() });
    if behaviour == Docker::Encrypts as u8 {
        options["encrypted"] = json!("");
    }
    let mut network =
        json!({ "Name": "my-overlay-network", "Id": DockerApi::ID, "Driver": "overlay", "Options": options });
    match path.rsplit('/').next().unwrap_or_default() {
        "version" => json!({ "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12" }),
        "info" => json!({ "Swarm": { "NodeID": "n", "NodeAddr": "192.168.1.9", "LocalNodeState": "active" } }),
        DockerApi::ID => {
            let endpoint = |name: &str, mac: &str| json!({ "Name": name, "EndpointID": "e", "MacAddress": mac });
            network["Containers"] = json!({
                "c0ffee": endpoint("gindemo1", mac),
                "lb-my-overlay-network": endpoint("my-overlay-network-endpoint", "02:42:0a:00:01:99"),
            });
            network
        }
        _ => json!([{ "Name": "bridge", "Id": "b0", "Driver": "bridge", "Options": {} }, network]),
    }
}
