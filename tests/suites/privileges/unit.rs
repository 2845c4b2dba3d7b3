//! The systemd unit under a real systemd.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use overlay_tests::{
    check::until,
    lab::{
        Booted, Cluster, Daemon, Lab, Systemd, docker_mac, overlay_binary, private_bpffs, private_directory,
        traffic::{Ping, ping},
    },
};

use crate::setup::process_status;

const UNIT: &str = include_str!("../../../overlay-user/systemd/overlay.service");
const NAMESPACES: &str = include_str!("../../../overlay-user/systemd/namespaces.conf");
const SYSUSERS: &str = include_str!("../../../overlay-user/systemd/sysusers.conf");
const TMPFILES: &str = include_str!("../../../overlay-user/systemd/tmpfiles.conf");

/// Number of packets of [`Ping::default`].
const PINGS: u64 = 5;

/// Drop-in for tests: a log file, and a short watchdog interval.
const DROP_IN: &str = "[Service]\nStandardOutput=append:/var/log/overlay.log\nStandardError=inherit\nWatchdogSec=3\n";

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Installs the files below `root` at the paths of docs/operations.md.
fn install(root: &Path, namespaces: bool) {
    let units = root.join("etc/systemd/system");
    write(&units.join("overlay.service"), UNIT);
    write(&units.join("overlay.service.d/test.conf"), DROP_IN);
    if namespaces {
        write(&units.join("overlay.service.d/namespaces.conf"), NAMESPACES);
    }
    write(&root.join("usr/local/lib/sysusers.d/overlay.conf"), SYSUSERS);
    write(&root.join("usr/local/lib/tmpfiles.d/overlay.conf"), TMPFILES);
    let binary = root.join("usr/local/bin/overlay");
    fs::create_dir_all(binary.parent().unwrap()).unwrap();
    fs::copy(overlay_binary().unwrap(), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
}

/// node01 with the service, node02 with a daemon as root.
struct Service {
    other: Daemon,
    booted: Booted,
    lab: Lab,
    cluster: Cluster,
}

impl Service {
    fn boot(namespaces: bool) -> Self {
        let pins = private_bpffs().unwrap();
        let directory = private_directory().unwrap();
        let lab = Lab::two_hosts();
        let mut cluster = Cluster::example(&lab);
        (cluster.endpoints[0].netns, cluster.endpoints[0].port) = (None, Some("port0".to_owned()));
        let container = &lab.host(1).containers()[0];
        let address = format!("{}/24", container.ip());
        lab.host(1).plug("port0", container, &address, &docker_mac(container.ip()), 1450).unwrap();
        let files = directory.join("files");
        install(&files, namespaces);
        let config = directory.join("cluster.toml");
        cluster.write(&config).unwrap();
        write(&files.join("etc/overlay/cluster.toml"), &fs::read_to_string(&config).unwrap());
        let booted = Systemd::boot(lab.host(1), &directory, &files).unwrap();
        let _ = booted.systemd.run("systemd-sysusers");
        let _ = booted.systemd.run("systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/overlay.conf");
        let other = Daemon::start(lab.host(2), &config, &pins.join("node02")).unwrap();
        Self { other, booted, lab, cluster }
    }

    fn systemd(&self) -> &Systemd {
        &self.booted.systemd
    }

    /// Starts the service; `systemctl` returns when it is ready.
    #[track_caller]
    fn start(&self) {
        let output = self.systemd().output(&["systemctl", "start", "overlay"]).unwrap();
        assert!(output.status.success(), "{output:?}\n{}", self.log());
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.systemd().root().join("var/log/overlay.log")).unwrap_or_default();
        log + &String::from_utf8_lossy(&self.systemd().output(&["systemctl", "status", "overlay"]).unwrap().stdout)
    }

    /// Process id of the daemon outside its PID namespace.
    fn pid(&self) -> u32 {
        let inside = self.systemd().show("overlay", "MainPID");
        let init = self.systemd().root();
        let init = init.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        let is_daemon =
            |pid: &&str| process_status(pid.parse().unwrap(), "NSpid").split_whitespace().last() == Some(&inside);
        children.split_whitespace().find(is_daemon).unwrap().parse().unwrap()
    }

    /// Pings from node01 to node02 take the fast path of both hosts.
    #[track_caller]
    fn by_fast_path(&self) {
        let encap = || {
            let text = self.systemd().run("overlay counters --json");
            let counters: serde_json::Value = serde_json::from_str(&text).unwrap();
            let rows = counters["reasons"].as_array().unwrap().clone();
            rows.iter().find(|row| row["reason"] == "encap").unwrap()["packets"].as_u64().unwrap()
        };
        let before = (encap(), self.other.packets("encap").unwrap());
        self.ping();
        let after = (encap(), self.other.packets("encap").unwrap());
        assert!(after.0 >= before.0 + PINGS && after.1 >= before.1 + PINGS, "{before:?} {after:?}\n{}", self.log());
    }

    #[track_caller]
    fn ping(&self) {
        let container = |host: usize| &self.lab.host(host).containers()[0];
        let replies = ping(container(1), container(2).ip().into(), Ping::default()).unwrap();
        assert!(replies.all(), "{replies:?}\n{}", self.log());
    }

    /// `systemd-analyze verify` reports nothing, and the exposure level is at most `threshold` tenths.
    #[track_caller]
    fn assert_exposure(&self, threshold: u32) {
        let unit = "/etc/systemd/system/overlay.service";
        let verified = self.systemd().output(&["systemd-analyze", "verify", "--man=no", unit]).unwrap();
        assert_eq!((verified.status.success(), String::from_utf8(verified.stderr).unwrap().as_str()), (true, ""));
        let _ = self.systemd().run(&format!("systemd-analyze security --offline=true --threshold={threshold} {unit}"));
    }

    /// Waits until next hops are resolved: earlier packets take the kernel path.
    fn warm_up(&self) {
        until("the next hop is resolved", || {
            let status: serde_json::Value = serde_json::from_str(&self.systemd().run("overlay status --json")).unwrap();
            status["vteps"][0]["resolved"] == true
        });
        self.other.wait_until_resolved(&self.lab).unwrap();
        self.ping();
    }
}

#[test]
fn hardened_service_forwards_and_stopping_it_keeps_data_path() {
    let service = Service::boot(false);
    service.start();
    service.warm_up();
    service.by_fast_path();
    let systemd = service.systemd();
    assert_eq!(systemd.show("overlay", "ActiveState"), "active");
    service.assert_exposure(20);
    until("the status is reported", || systemd.show("overlay", "StatusText").starts_with("1 network, 1 endpoint here"));
    let pid = service.pid();
    crate::setup::assert_capabilities(pid, &crate::setup::THREE);
    assert_eq!(process_status(pid, "Seccomp"), "2");
    assert_ne!(process_status(pid, "Uid").split('\t').next(), Some("0"));
    let inside = PathBuf::from(format!("/proc/{pid}/root"));
    for path in ["/usr/new", "/etc/new", "/sys/fs/bpf/new"] {
        let output = Command::new("nsenter")
            .args(["--target", &pid.to_string(), "--mount", "--root", "touch", path])
            .output()
            .unwrap();
        assert!(!output.status.success(), "{path} can be written by the service in {}", inside.display());
    }

    // Members of the group reach the daemon, which reports that it has no store; others do not.
    for (group, code, expected) in [("overlay", 2, "--store"), ("64322", 1, "permission denied")] {
        let line = format!("setpriv --reuid 64322 --regid {group} --clear-groups overlay network ls");
        let output = systemd.output(&line.split(' ').collect::<Vec<_>>()).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && stderr.contains(expected), "{group}: {stderr}");
    }

    let _ = systemd.run("systemctl stop overlay");
    service.by_fast_path();
    service.start();
    service.by_fast_path();
    let _ = systemd.run("systemctl stop overlay");
    let _ = systemd.run("overlay down");
    let listed = systemd.run("ls -A /sys/fs/bpf/overlay");
    assert_eq!(listed, "");
    // Start again with the directory that root's `down` has left.
    service.start();
    service.warm_up();
    service.by_fast_path();
    let _ = systemd.run("systemctl stop overlay");
    let _ = systemd.run("overlay down");
}

#[test]
fn systemd_restarts_hanging_or_killed_daemon() {
    let service = Service::boot(false);
    service.start();
    service.warm_up();
    let systemd = service.systemd();
    for (restarts, signal) in [(1, "STOP"), (2, "KILL")] {
        let old = systemd.show("overlay", "MainPID");
        let _ = systemd.run(&format!("kill -{signal} {old}"));
        until(&format!("the service restarts after SIG{signal}"), || {
            systemd.show("overlay", "NRestarts") == restarts.to_string()
                && systemd.show("overlay", "ActiveState") == "active"
                && systemd.show("overlay", "MainPID") != old
        });
        service.by_fast_path();
    }
    let _ = systemd.run("systemctl stop overlay");
    let _ = systemd.run("overlay down");
}

#[test]
fn service_with_drop_in_enters_container_netns() {
    let mut service = Service::boot(true);
    service.start();
    // This netns is created after the service started.
    let systemd = service.systemd().clone();
    service.assert_exposure(35);
    let _ = systemd.run("ip netns add later");
    let mut endpoint = service.cluster.endpoints[0].clone();
    (endpoint.name, endpoint.ip) = ("later".to_owned(), [10, 0, 1, 20].into());
    (endpoint.port, endpoint.netns) = (None, Some("/run/netns/later".into()));
    service.cluster.endpoints.push(endpoint);
    service.cluster.write(Path::new("/mnt/cluster.toml")).unwrap();
    service.cluster.write(&systemd.root().join("etc/overlay/cluster.toml")).unwrap();
    until("the endpoint is added", || {
        let output = systemd.output(&["ip", "-n", "later", "addr", "show", "dev", "eth0"]).unwrap();
        String::from_utf8_lossy(&output.stdout).contains("10.0.1.20")
    });
    service.warm_up();
    let target = service.lab.host(2).containers()[0].ip().to_string();
    until("the ping is answered", || {
        let words = ["ip", "netns", "exec", "later", "ping", "-c1", "-W1", &target];
        systemd.output(&words).unwrap().status.success()
    });
    service.by_fast_path();
    let _ = systemd.run("systemctl stop overlay");
    let _ = systemd.run("overlay down");
}
