//! What the daemons hold, and what is left of what they held.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::programs::links::{FdLink, PinnedLink};

use super::world::{HOSTS, STEADY, World};
use crate::{
    check::interfaces,
    lab::{Daemon, Host, Lab, NIC, sys},
};

/// By how much a daemon may have grown, in KiB: what the allocator keeps, not what is held.
pub(super) const GROWTH_KIB: u64 = 8 << 10;
/// The kernel frees objects some time after their last user (RCU).
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) descriptors: usize,
    /// Of those, network namespaces.
    pub(super) namespaces: usize,
    pub(super) threads: u64,
    /// Resident, in KiB.
    pub(super) resident: u64,
    /// Maps, programs and links that it or its pin root holds.
    pub(super) objects: usize,
}

/// What is looked at, at the beginning, in between and at the end.
pub(super) struct Leaks {
    /// Of each host: at the first look, at the last, and the most of each.
    pub(super) held: Vec<[Held; 3]>,
    /// Maps, programs and links that a daemon or its pin root has ever held.
    ever: BTreeSet<Object>,
    /// Numbers that the hosts have for other network namespaces.
    known_namespaces: Vec<usize>,
}

/// An object of the kernel's BPF subsystem, by its number.
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
    /// At the beginning, with all tables true.
    pub(super) fn begin(world: &World) -> Result<Self> {
        let known_namespaces = world.lab.hosts().iter().map(known_namespaces).collect::<Result<_>>()?;
        let mut leaks = Self { held: vec![[Held::default(); 3]; HOSTS], ever: BTreeSet::new(), known_namespaces };
        leaks.look(world)?;
        for held in &mut leaks.held {
            held[0] = held[1];
        }
        Ok(leaks)
    }

    /// Looks at every daemon, and at what is left of those before them: says which objects nobody holds any more and are
    /// there nevertheless.
    pub(super) fn look(&mut self, world: &World) -> Result<Vec<String>> {
        let mut now = BTreeSet::new();
        for host in 1..=HOSTS {
            let daemon = world.daemon(host);
            let objects = objects(daemon)?;
            let held = Held { objects: objects.len(), ..process(daemon.pid()?)? };
            now.extend(objects);
            let [_, last, most] = &mut self.held[host - 1];
            *last = held;
            most.descriptors = most.descriptors.max(held.descriptors);
            most.namespaces = most.namespaces.max(held.namespaces);
            most.threads = most.threads.max(held.threads);
            most.resident = most.resident.max(held.resident);
            most.objects = most.objects.max(held.objects);
        }
        let given_up: Vec<Object> = self.ever.difference(&now).copied().collect();
        let left = left_of(&given_up);
        self.ever = now;
        Ok(left.iter().map(|object| format!("{object:?} is left of a daemon that has ended")).collect())
    }

    /// How many objects of the BPF subsystem there were at the last look.
    pub(super) fn objects(&self) -> usize {
        self.ever.len()
    }

    /// With everything as it was at the beginning: what has grown.
    pub(super) fn grown(&self) -> Vec<String> {
        let mut grown = Vec::new();
        for (index, [first, last, _]) in self.held.iter().enumerate() {
            let mut compare = |what: &str, before: u64, after: u64, bound: u64| {
                if after > before + bound {
                    grown.push(format!("node0{}: {what} went from {before} to {after}", index + 1));
                }
            };
            compare("descriptors", first.descriptors as u64, last.descriptors as u64, 0);
            compare("namespaces that the daemon holds", first.namespaces as u64, last.namespaces as u64, 0);
            compare("maps, programs and links", first.objects as u64, last.objects as u64, 0);
            // The runtime starts threads when it needs them, and keeps them a while.
            if index + 1 == STEADY {
                compare("resident memory in KiB", first.resident, last.resident, GROWTH_KIB);
            }
        }
        grown
    }

    /// After `overlay down` on all hosts: what is left.
    pub(super) fn after_down(&self, lab: &Lab) -> Result<Vec<String>> {
        let objects: Vec<Object> = self.ever.iter().copied().collect();
        let mut left: Vec<_> = left_of(&objects).iter().map(|object| format!("{object:?} is left")).collect();
        for (host, before) in lab.hosts().iter().zip(&self.known_namespaces) {
            let name = host.name();
            let containers = host.containers().iter().map(|container| (container.name(), interfaces(container)));
            let ours = containers.map(|(name, found)| (name, found, vec!["lo"]));
            for (name, found, expected) in ours.chain([(name, interfaces(host), vec!["lo", NIC])]) {
                if found != expected {
                    left.push(format!("{name} has the interfaces {found:?}"));
                }
            }
            for line in ["ip neigh show nud permanent", "bridge fdb show dynamic", "tc filter show dev enp0s3 ingress"]
            {
                let found = host.try_run(&line.split(' ').collect::<Vec<_>>())?;
                if !found.trim().is_empty() {
                    left.push(format!("{name}: {line}: {}", found.trim()));
                }
            }
            // A namespace that somebody still holds keeps its number.
            let start = Instant::now();
            while known_namespaces(host)? > *before && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(50));
            }
            let now = known_namespaces(host)?;
            if now > *before {
                left.push(format!("{name} knows {now} other network namespaces and knew {before}"));
            }
        }
        Ok(left)
    }
}

/// Those that exist and go on to.
fn left_of(objects: &[Object]) -> Vec<Object> {
    let start = Instant::now();
    loop {
        let left: Vec<_> = objects.iter().copied().filter(|object| object.exists()).collect();
        if left.is_empty() || start.elapsed() > PATIENCE {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn known_namespaces(host: &Host) -> Result<usize> {
    Ok(host.try_run(&["ip", "netns", "list-id"])?.lines().count())
}

/// The least of some looks: a request to the daemon's socket comes and goes.
fn process(pid: u32) -> Result<Held> {
    let mut least = look_at(pid)?;
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(20));
        let held = look_at(pid)?;
        if held.descriptors < least.descriptors {
            least = held;
        }
    }
    Ok(least)
}

fn look_at(pid: u32) -> Result<Held> {
    let process = Path::new("/proc").join(pid.to_string());
    let links: Vec<_> = fs::read_dir(process.join("fd"))?.flatten().map(|fd| fs::read_link(fd.path())).collect();
    let is_namespace = |link: &&std::path::PathBuf| link.to_string_lossy().starts_with("net:[");
    let status = fs::read_to_string(process.join("status"))?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    Ok(Held {
        descriptors: links.len(),
        namespaces: links.iter().flatten().filter(is_namespace).count(),
        threads: number("Threads:"),
        resident: number("VmRSS:"),
        objects: 0,
    })
}

/// What a daemon's descriptors and pins hold.
fn objects(daemon: &Daemon) -> Result<BTreeSet<Object>> {
    let mut objects = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid()?))?.flatten() {
        // A descriptor that is closed meanwhile holds nothing.
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
        let info = link.info().with_context(|| format!("cannot look at {}", entry.path().display()))?;
        objects.extend([Object::Link(info.id()), Object::Program(info.program_id())]);
    }
    Ok(objects)
}
