//! The Swarm without overlay: the base of the other tests.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use overlay_tests::lab::{
    docker_mac,
    swarm::{Engine, Swarm},
    traffic::{Ping, ping, tcp_transfer},
};

use super::setup::{GINDEMO1, GINDEMO2, NETWORK, until};

const VICTIM: &str = "OVERLAY_SWARM_VICTIM";

/// Cgroup directories of a process's nodes, of either cgroup version.
fn control_groups(pid: u32) -> Vec<String> {
    let prefix = format!("overlay-swarm-{pid}-");
    let below = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let roots = below(Path::new("/sys/fs/cgroup"));
    let all = roots.iter().flat_map(|root| below(root)).chain(roots.clone());
    let matching = all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    matching.map(|path| path.display().to_string()).collect()
}

/// Processes in the cgroups of a process's nodes.
fn processes(pid: u32) -> Vec<String> {
    let group = format!("overlay-swarm-{pid}-");
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let mentions = |path: &Path, file: &str| fs::read(path.join(file)).is_ok_and(|text| contains(&text, &group));
    let matching = all.filter(|path| mentions(path, "cgroup") || mentions(path, "cmdline"));
    matching.map(|path| path.display().to_string()).collect()
}

fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
fn containers_on_two_nodes_reach_each_other_and_nodes_leave_nothing() {
    let pid = std::process::id();
    let swarm = Swarm::up(2).unwrap();
    let engine = Engine::of_environment().version().unwrap();
    for node in swarm.nodes() {
        assert_eq!(node.query("/version").unwrap()["Version"], engine, "{}", node.name());
    }
    swarm.network(NETWORK, "10.0.1.0/24", &[]).unwrap();
    swarm.container(1, "gindemo1", NETWORK, GINDEMO1).unwrap();
    swarm.container(2, "gindemo2", NETWORK, GINDEMO2).unwrap();
    assert!(!control_groups(pid).is_empty() && !processes(pid).is_empty());
    let [one, two] = [1, 2].map(|node| swarm.node(node).container(&format!("gindemo{node}")).unwrap());
    let sandbox = swarm.node(1).sandbox(NETWORK).unwrap();
    let vtep = Some(swarm.node(2).address());
    until("node01's kernel FDB has gindemo2", || sandbox.vtep_of(&docker_mac(GINDEMO2)).unwrap() == vtep);
    assert!(ping(&one, GINDEMO2.into(), Ping::default()).unwrap().all());
    let before = sandbox.vxlan_packets().unwrap();
    tcp_transfer(&one, &two, GINDEMO2.into(), 10_000_000).unwrap();
    assert!(sandbox.vxlan_packets().unwrap() > before + 100);
    let fdb = sandbox.fdb().unwrap().unwrap();
    // Docker gives every node an address in every network, for its load balancer.
    assert_eq!((fdb.vni, fdb.remote.len(), fdb.ports.len()), (4097, 2, 2), "{fdb:?}");
    assert!(fdb.neighbours.contains(&docker_mac(GINDEMO2)), "{fdb:?}");
    assert!(fdb.learned.contains(&docker_mac(GINDEMO1)), "{fdb:?}");
    drop(swarm);
    assert_eq!((control_groups(pid), processes(pid)), (vec![], vec![]));
}

/// Not a separate test: the process that the next test kills.
#[test]
fn victim() {
    if env::var_os(VICTIM).is_none() {
        return;
    }
    let swarm = Swarm::up(1).unwrap();
    swarm.node(1).docker(&["run", "--detach", "--network", "none", "lab:1", "sleep", "1000000"]).unwrap();
    println!("{VICTIM} is up");
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[test]
fn killed_process_leaves_no_container_and_no_cgroup() {
    let mut process = Command::new(env::current_exe().unwrap())
        .args(["baseline::victim", "--exact", "--nocapture", "--test-threads=1"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let up = |line: &String| line.contains(&format!("{VICTIM} is up"));
    assert!(BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok).any(|line| up(&line)));
    let pid = process.id();
    assert!(!control_groups(pid).is_empty() && !processes(pid).is_empty());
    process.kill().unwrap();
    process.wait().unwrap();
    until("nothing is left", || control_groups(pid).is_empty() && processes(pid).is_empty());
}
