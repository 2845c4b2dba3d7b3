//! Notifications to the service manager (`sd_notify`), received by a socket of the test.

use std::{
    io::ErrorKind,
    os::unix::{
        fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
        net::UnixDatagram,
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use overlay_common::Vni;
use overlay_tests::maps::WritableMaps;
use overlay_tests::{
    check::until,
    lab::{Daemon, Unprivileged},
};
use overlay_user::testing::{
    apply::{Deadline, Maps},
    plan::{Changes, Tables},
};

use crate::setup::{OVERLAY, Pair, THREE};

/// Socket of the service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn bind(pair: &Pair) -> Self {
        let path = pair.directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        Self { socket, path }
    }

    fn account(&self, pair: &Pair, watchdog: Option<Duration>) -> Unprivileged {
        let account = pair.user(1, &THREE).with("NOTIFY_SOCKET", &self.path);
        match watchdog {
            Some(limit) => account.with("WATCHDOG_USEC", limit.as_micros().to_string()),
            None => account,
        }
    }

    /// The next notification within the limit.
    fn next(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8(buffer[..length].to_vec()).unwrap()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for a line; returns the notifications before it.
    #[track_caller]
    fn wait_for(&self, line: &str) -> Vec<String> {
        let (start, mut before) = (Instant::now(), Vec::new());
        while start.elapsed() < Duration::from_secs(30) {
            match self.next(Duration::from_secs(1)) {
                Some(text) if text.lines().any(|text| text.starts_with(line)) => return before,
                text => before.extend(text),
            }
        }
        panic!("{line} was not received, but {before:?}");
    }

    /// All queued notifications.
    fn drain(&self) -> Vec<String> {
        std::iter::from_fn(|| self.next(Duration::from_millis(1))).collect()
    }
}

/// Number of FDB entries, and the deadline.
fn tables() -> (usize, Deadline) {
    let maps = Maps::open(&Pair::pin_root(1)).unwrap();
    (maps.read().unwrap().fdb.len(), maps.deadline().unwrap())
}

/// Starts a daemon; returns it and the state of the maps when it reported ready.
fn start_and_read_maps(pair: &Pair, manager: &Manager, arguments: &[&str]) -> (Daemon, (usize, Deadline)) {
    let account = manager.account(pair, None);
    let config = pair.config();
    let arguments: Vec<_> = ["--config", config.to_str().unwrap()].iter().chain(arguments).map(Into::into).collect();
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            manager.wait_for("READY=1");
            tables()
        });
        let daemon = pair.start_with(1, &account, &arguments);
        (daemon, seen.join().unwrap())
    })
}

#[test]
fn daemon_notifies_ready_when_maps_are_up_to_date() {
    let pair = Pair::new();
    let manager = Manager::bind(&pair);
    let other = pair.start(2, &pair.user(2, &THREE));
    let (mut daemon, (entries, deadline)) = start_and_read_maps(&pair, &manager, &["--deadline", "2"]);
    assert_eq!(entries, 2, "the local and the remote container");
    assert!(matches!(deadline, Deadline::Left(_)), "{deadline:?}");
    manager.wait_for("STATUS=1 network, 1 endpoint here");
    assert!(!manager.drain().iter().any(|text| text.contains("READY")), "ready is reported once");

    // A restarted daemon finds stale maps after the deadline.
    daemon.kill9().unwrap();
    until("the deadline has expired", || tables().1 == Deadline::Expired);
    let mut maps = WritableMaps::open(&Pair::pin_root(1)).unwrap();
    let tables_before = maps.read().unwrap();
    let vni = Vni::new(4097).unwrap();
    let (key, _) = tables_before.fdb.iter().next().unwrap();
    assert!(format!("{key:?}").contains(&vni.to_string()), "{key:?}");
    maps.write(&Changes::pruning(&tables_before, &Tables::default())).unwrap();
    assert_eq!(tables().0, 0);
    let seen = std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            manager.wait_for("READY=1");
            tables()
        });
        daemon.restart().unwrap();
        seen.join().unwrap()
    });
    assert!(seen.0 == 2 && matches!(seen.1, Deadline::Left(_)), "{seen:?}");
    let daemons = [daemon, other];
    daemons.iter().for_each(|daemon| daemon.wait_until_resolved(&pair.lab).unwrap());
    pair.ping(1, 2);
    pair.by_fast_path(&daemons);
}

#[test]
fn watchdog_is_notified_only_while_daemon_runs() {
    let pair = Pair::new();
    let manager = Manager::bind(&pair);
    let limit = Duration::from_millis(1500);
    let account = manager.account(&pair, Some(limit));
    let mut daemon = pair.start(1, &account);
    manager.wait_for("WATCHDOG=1");
    let start = Instant::now();
    for _ in 0..4 {
        let waiting = Instant::now();
        manager.wait_for("WATCHDOG=1");
        assert!(waiting.elapsed() < limit, "{:?}", waiting.elapsed());
    }
    // Not more often than half of the interval.
    assert!(start.elapsed() > limit, "{:?}", start.elapsed());

    daemon.hang().unwrap();
    // Discard earlier notifications.
    std::thread::sleep(Duration::from_millis(100));
    manager.drain();
    assert_eq!(manager.next(limit * 2), None);
    daemon.resume().unwrap();
    manager.wait_for("WATCHDOG=1");

    daemon.sigterm().unwrap();
    manager.wait_for("STOPPING=1");
}

/// The process runs and its socket answers, but the event loop blocks while it opens a FIFO that the configuration
/// names as a netns.
#[test]
fn watchdog_is_not_notified_while_event_loop_blocks() {
    let mut pair = Pair::new();
    let manager = Manager::bind(&pair);
    let mut account = manager.account(&pair, Some(Duration::from_secs(1)));
    account.capabilities.push("sys_admin".to_owned());
    let daemon = pair.start(1, &account);
    let pipe = pair.directory.join("pipe");
    pair.lab.host(1).run(&["mkfifo", "-m", "644", pipe.to_str().unwrap()]);
    let mut endpoint = pair.cluster.endpoints[0].clone();
    (endpoint.name, endpoint.ip) = ("more".to_owned(), [10, 0, 1, 9].into());
    (endpoint.port, endpoint.netns) = (None, Some(pipe.clone()));
    pair.cluster.endpoints.push(endpoint);
    manager.wait_for("WATCHDOG=1");
    pair.config();
    until("the watchdog is not notified", || manager.next(Duration::from_secs(2)).is_none());
    let output = daemon.output(&["network", "ls"]).unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--store"), "{output:?}");
    drop(std::fs::OpenOptions::new().write(true).open(&pipe).unwrap());
    until("the change is rejected", || {
        // The daemon opens the FIFO more than once.
        let _ = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&pipe);
        daemon.log().contains("the configuration is rejected")
    });
    manager.wait_for("WATCHDOG=1");
}

#[test]
fn notify_status_names_problem() {
    let pair = Pair::new();
    let manager = Manager::bind(&pair);
    let _daemon = pair.start(1, &manager.account(&pair, None));
    manager.wait_for("READY=1");
    pair.lab.host(1).run(&["ip", "addr", "flush", "dev", overlay_tests::lab::NIC]);
    manager
        .wait_for("STATUS=1 network, 1 endpoint here, 0 external networks; no interface has the address 192.168.1.9");
    pair.lab.host(1).run(&["ip", "addr", "add", "192.168.1.9/24", "dev", overlay_tests::lab::NIC]);
    manager.wait_for("STATUS=1 network, 1 endpoint here, 0 external networks");
    let owner = std::fs::metadata(Pair::pin_root(1)).unwrap().uid();
    assert_eq!(owner, OVERLAY.uid);
}
