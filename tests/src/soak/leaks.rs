//! Leaks: resources that the daemons hold, and kernel objects that outlive them.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::programs::links::{FdLink, PinnedLink};

use super::testbed::{HOSTS, STEADY, Testbed};
use crate::{
    check::interfaces,
    lab::{Daemon, Host, Lab, NIC, sys},
};

/// Allowed growth of a daemon's resident memory, in KiB: memory that the allocator retains.
pub(super) const GROWTH_KIB: u64 = 8 << 10;
/// The kernel frees objects some time after their last user (RCU).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Resources that a process holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Resources {
    pub(super) descriptors: usize,
    /// Descriptors of network namespaces.
    pub(super) namespaces: usize,
    pub(super) threads: u64,
    /// Resident memory, in KiB.
    pub(super) resident: u64,
    /// Maps, programs and links held by the process or its pin root.
    pub(super) objects: usize,
}

/// Samples of all daemons, from the beginning to the end.
pub(super) struct Leaks {
    /// Per host: first sample, last sample, maximum of each field.
    pub(super) held: Vec<[Resources; 3]>,
    /// Maps, programs and links that the daemons and their pin roots held at the last sample.
    objects: BTreeSet<Object>,
    /// Per host: network namespaces that have an id (`ip netns list-id`).
    netns_ids: Vec<usize>,
}

/// An object of the kernel's BPF subsystem, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Map(u32),
    Program(u32),
    Link(u32),
}

impl Object {
    fn exists(self) -> bool {
        match self {
            Self::Map(id) => sys::bpf_object_exists(sys::BPF_MAP_GET_FD_BY_ID, id),
            Self::Program(id) => sys::bpf_object_exists(sys::BPF_PROG_GET_FD_BY_ID, id),
            Self::Link(id) => sys::bpf_object_exists(sys::BPF_LINK_GET_FD_BY_ID, id),
        }
    }
}

impl Leaks {
    /// Takes the first sample. All hosts have converged.
    pub(super) fn begin(testbed: &Testbed) -> Result<Self> {
        let netns_ids = testbed.lab.hosts().iter().map(netns_ids).collect::<Result<_>>()?;
        let mut leaks = Self { held: vec![[Resources::default(); 3]; HOSTS], objects: BTreeSet::new(), netns_ids };
        leaks.sample(testbed)?;
        for held in &mut leaks.held {
            held[0] = held[1];
        }
        Ok(leaks)
    }

    /// Samples every daemon. Returns a finding for each BPF object that is no longer held and still exists.
    pub(super) fn sample(&mut self, testbed: &Testbed) -> Result<Vec<String>> {
        let mut now = BTreeSet::new();
        for host in 1..=HOSTS {
            let daemon = testbed.daemon(host);
            let objects = objects(daemon)?;
            let held = Resources { objects: objects.len(), ..process(daemon.pid()?)? };
            now.extend(objects);
            let [_, last, most] = &mut self.held[host - 1];
            *last = held;
            most.descriptors = most.descriptors.max(held.descriptors);
            most.namespaces = most.namespaces.max(held.namespaces);
            most.threads = most.threads.max(held.threads);
            most.resident = most.resident.max(held.resident);
            most.objects = most.objects.max(held.objects);
        }
        let released: Vec<Object> = self.objects.difference(&now).copied().collect();
        let left = remaining(&released);
        self.objects = now;
        Ok(left.iter().map(|object| format!("{object:?} still exists after its daemon released it")).collect())
    }

    /// Number of BPF objects at the last sample.
    pub(super) fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Resources that have grown since the first sample. The hosts are in their initial state again.
    pub(super) fn grown(&self) -> Vec<String> {
        let mut grown = Vec::new();
        for (index, [first, last, _]) in self.held.iter().enumerate() {
            let mut compare = |resource: &str, before: u64, after: u64, bound: u64| {
                if after > before + bound {
                    grown.push(format!("node0{}: {resource} grew from {before} to {after}", index + 1));
                }
            };
            compare("number of descriptors", first.descriptors as u64, last.descriptors as u64, 0);
            compare("number of open namespaces", first.namespaces as u64, last.namespaces as u64, 0);
            compare("number of maps, programs and links", first.objects as u64, last.objects as u64, 0);
            // Threads are not compared: the runtime starts them on demand and keeps them for a while.
            if index + 1 == STEADY {
                compare("resident memory (KiB)", first.resident, last.resident, GROWTH_KIB);
            }
        }
        grown
    }

    /// Objects that still exist after `overlay down` on all hosts.
    pub(super) fn after_down(&self, lab: &Lab) -> Result<Vec<String>> {
        let objects: Vec<Object> = self.objects.iter().copied().collect();
        let mut left: Vec<_> =
            remaining(&objects).iter().map(|object| format!("{object:?} exists after `overlay down`")).collect();
        for (host, before) in lab.hosts().iter().zip(&self.netns_ids) {
            let name = host.name();
            let containers = host.containers().iter().map(|container| (container.name(), interfaces(container)));
            let namespaces = containers.map(|(name, found)| (name, found, vec!["lo"]));
            for (name, found, expected) in namespaces.chain([(name, interfaces(host), vec!["lo", NIC])]) {
                if found != expected {
                    left.push(format!("{name}: interfaces are {found:?}, expected {expected:?}"));
                }
            }
            for line in ["ip neigh show nud permanent", "bridge fdb show dynamic", "tc filter show dev enp0s3 ingress"]
            {
                let found = host.try_run(&line.split(' ').collect::<Vec<_>>())?;
                if !found.trim().is_empty() {
                    left.push(format!("{name}: `{line}` is not empty: {}", found.trim()));
                }
            }
            // A namespace that is still referenced keeps its id.
            let start = Instant::now();
            while netns_ids(host)? > *before && start.elapsed() < TIMEOUT {
                std::thread::sleep(Duration::from_millis(50));
            }
            let now = netns_ids(host)?;
            if now > *before {
                left.push(format!("{name}: number of netns ids grew from {before} to {now}"));
            }
        }
        Ok(left)
    }
}

/// Objects that still exist after [`TIMEOUT`].
fn remaining(objects: &[Object]) -> Vec<Object> {
    let start = Instant::now();
    loop {
        let left: Vec<_> = objects.iter().copied().filter(|object| object.exists()).collect();
        if left.is_empty() || start.elapsed() > TIMEOUT {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn netns_ids(host: &Host) -> Result<usize> {
    Ok(host.try_run(&["ip", "netns", "list-id"])?.lines().count())
}

/// The smallest of three samples: a request to the daemon's socket holds a descriptor for a moment.
fn process(pid: u32) -> Result<Resources> {
    let mut least = sample_process(pid)?;
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(20));
        let held = sample_process(pid)?;
        if held.descriptors < least.descriptors {
            least = held;
        }
    }
    Ok(least)
}

fn sample_process(pid: u32) -> Result<Resources> {
    let process = Path::new("/proc").join(pid.to_string());
    let links: Vec<_> = fs::read_dir(process.join("fd"))?.flatten().map(|fd| fs::read_link(fd.path())).collect();
    let is_namespace = |link: &&std::path::PathBuf| link.to_string_lossy().starts_with("net:[");
    let status = fs::read_to_string(process.join("status"))?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    Ok(Resources {
        descriptors: links.len(),
        namespaces: links.iter().flatten().filter(is_namespace).count(),
        threads: number("Threads:"),
        resident: number("VmRSS:"),
        objects: 0,
    })
}

/// BPF objects held by a daemon's descriptors and pinned links.
fn objects(daemon: &Daemon) -> Result<BTreeSet<Object>> {
    let mut objects = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid()?))?.flatten() {
        // A descriptor that was closed in the meantime reads as empty.
        for line in fs::read_to_string(entry.path()).unwrap_or_default().lines() {
            let Some((name, Ok(id))) = line.split_once(':').map(|(name, id)| (name, id.trim().parse())) else {
                continue;
            };
            match name {
                "map_id" => objects.insert(Object::Map(id)),
                "prog_id" => objects.insert(Object::Program(id)),
                "link_id" => objects.insert(Object::Link(id)),
                _ => false,
            };
        }
    }
    for entry in fs::read_dir(daemon.pin_root().join("links"))?.flatten() {
        let link = FdLink::from(PinnedLink::from_pin(entry.path())?);
        let info = link.info().with_context(|| format!("cannot read the link {}", entry.path().display()))?;
        objects.extend([Object::Link(info.id()), Object::Program(info.program_id())]);
    }
    Ok(objects)
}
