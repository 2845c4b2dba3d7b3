//! Labs and sessions remove everything they created.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use overlay_tests::lab::{BPFFS, Lab, NetNs, Session, private_bpffs};

const VICTIM: &str = "OVERLAY_LAB_VICTIM";

/// Whether any process of the machine has the netns `inode` open, runs in it, or has it mounted.
fn exists(inode: u64) -> bool {
    let link = format!("net:[{inode}]");
    let is_link = |path: &Path| fs::read_link(path).is_ok_and(|target| target.to_string_lossy() == link);
    let has = |directory: &Path| {
        fs::read_dir(directory).is_ok_and(|entries| entries.flatten().any(|entry| is_link(&entry.path())))
    };
    let processes = fs::read_dir("/proc").expect("/proc can be listed").flatten().map(|entry| entry.path());
    processes.filter(|path| path.join("stat").exists()).any(|process| {
        let tasks = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
        has(&process.join("fd"))
            || tasks.into_iter().any(|task| is_link(&task.path().join("ns/net")))
            || fs::read_to_string(process.join("mountinfo")).is_ok_and(|mounts| mounts.contains(&link))
    })
}

fn wait_for(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn inodes(lab: &Lab) -> Vec<u64> {
    let namespaces = lab.hosts().iter().flat_map(|host| {
        let containers = host.containers().iter().map(|container| container.inode());
        std::iter::once(host.inode()).chain(containers)
    });
    namespaces.collect::<Result<_, _>>().expect("namespaces have numbers")
}

#[test]
fn namespaces_are_removed_with_lab() {
    let lab = Lab::two_hosts();
    let inodes = inodes(&lab);
    assert_eq!(inodes.len(), 4);
    assert!(inodes.iter().all(|inode| exists(*inode)));
    drop(lab);
    for inode in inodes {
        assert!(wait_for(|| !exists(inode)), "{inode}");
    }
}

/// Not a separate test: the process that the next test kills.
#[test]
fn victim() {
    if env::var_os(VICTIM).is_none() {
        return;
    }
    let pins = private_bpffs().unwrap();
    fs::create_dir(pins.join("victim")).unwrap();
    let lab = Lab::two_hosts();
    let mut sleeper = lab.host(1).container("gindemo1").command("sleep").arg("600").spawn().unwrap();
    for inode in inodes(&lab) {
        println!("{VICTIM} {inode}");
    }
    println!("{VICTIM} pid {}", sleeper.id());
    sleeper.wait().unwrap();
}

#[test]
fn killed_process_leaves_no_namespace_pin_or_process() {
    let mut process = Command::new(env::current_exe().unwrap())
        .args(["victim", "--exact", "--nocapture", "--test-threads=1"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut inodes: Vec<u64> = Vec::new();
    let mut sleeper = None;
    for line in BufReader::new(process.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The test runner prints the test's name on the same line.
        let Some((_, rest)) = line.split_once(&format!("{VICTIM} ")) else { continue };
        if let Some(pid) = rest.strip_prefix("pid ") {
            sleeper = Some(pid.to_owned());
            break;
        }
        inodes.push(rest.parse().unwrap());
    }
    let sleeper = Path::new("/proc").join(sleeper.unwrap());
    assert_eq!(inodes.len(), 4);
    assert!(inodes.iter().all(|inode| exists(*inode)));
    assert!(sleeper.join("exe").exists());
    assert!(!Path::new(BPFFS).join("victim").exists());

    process.kill().unwrap();
    process.wait().unwrap();
    assert!(wait_for(|| fs::read_link(sleeper.join("exe")).is_err()), "the command outlived its lab");
    for inode in inodes {
        assert!(wait_for(|| !exists(inode)), "{inode}");
    }
}

#[test]
fn private_bpffs_is_visible_to_its_thread_and_children_only() {
    std::thread::spawn(|| {
        let ns = NetNs::anonymous("somewhere").unwrap();
        let pins = private_bpffs().unwrap();
        fs::create_dir(pins.join("only-here")).unwrap();
        assert!(ns.run(&["ls", BPFFS]).contains("only-here"));
        assert!(ns.enter(|| Path::new(BPFFS).join("only-here").exists()));
    })
    .join()
    .unwrap();
    assert!(!Path::new(BPFFS).join("only-here").exists());
}

#[test]
fn session_removes_names_and_directories_when_dropped() {
    let directory = env::temp_dir().join("overlay-lab-session-a");
    let mut session = Session::open("overlay-lab-session-a").unwrap();
    session.directory(&directory).unwrap();
    fs::write(directory.join("something"), "in it").unwrap();
    let ns = session.create("overlay-lab-a").unwrap();
    assert_eq!(ns.path(), Path::new("/run/netns/overlay-lab-a"));
    let entered =
        Command::new("nsenter").args(["--net=/run/netns/overlay-lab-a", "readlink", "/proc/self/ns/net"]).output();
    assert_eq!(String::from_utf8(entered.unwrap().stdout).unwrap().trim(), format!("net:[{}]", ns.inode().unwrap()));

    let second = Session::open("overlay-lab-session-a").unwrap_err().to_string();
    assert!(second.contains(&format!("is already running as process {}", std::process::id())), "{second}");
    let taken = session.create("overlay-lab-a").unwrap_err().to_string();
    assert!(taken.contains("overlay-lab-a already exists"), "{taken}");

    drop(session);
    assert!(!ns.path().exists() && !directory.exists());
    assert!(!Path::new("/run/overlay-lab-session-a.lock").exists());
}

/// Not a separate test: the process that the next test kills.
#[test]
fn session_victim() {
    if env::var_os(VICTIM).is_none() {
        return;
    }
    let mut session = Session::open("overlay-lab-session-b").unwrap();
    session.directory(&env::temp_dir().join("overlay-lab-session-b")).unwrap();
    session.create("overlay-lab-b1").unwrap();
    session.create("overlay-lab-b2").unwrap();
    println!("{VICTIM} ready");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn next_session_removes_only_leftovers_of_killed_session() {
    let mut process = Command::new(env::current_exe().unwrap())
        .args(["session_victim", "--exact", "--nocapture", "--test-threads=1"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(&format!("{VICTIM} ready"))));
    process.kill().unwrap();
    process.wait().unwrap();

    let [one, two] = ["overlay-lab-b1", "overlay-lab-b2"].map(|name| Path::new("/run/netns").join(name));
    assert!(one.exists() && two.exists(), "the killed session left nothing");
    // Another process creates a netns with one of the names.
    let replaced =
        Command::new("sh").arg("-c").arg("ip netns del overlay-lab-b2 && ip netns add overlay-lab-b2").status();
    assert!(replaced.unwrap().success());

    let session = Session::open("overlay-lab-session-b").unwrap();
    let (removed_own, kept_other) = (!one.exists(), two.exists());
    drop(session);
    let still_kept_other = two.exists();
    let removed = Command::new("ip").args(["netns", "del", "overlay-lab-b2"]).status();
    assert!(removed_own && kept_other && still_kept_other, "{removed_own} {kept_other} {still_kept_other}");
    assert!(removed.unwrap().success());
    assert!(!env::temp_dir().join("overlay-lab-session-b").exists());
}

#[test]
fn failed_command_reports_namespace_command_status_and_output() {
    let ns = NetNs::anonymous("somewhere").unwrap();
    let error = ns.try_run(&["ip", "link", "show", "dev", "nothing"]).unwrap_err().to_string();
    for part in ["somewhere", "`ip link show dev nothing`", "exit status: 1", "does not exist"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
}
