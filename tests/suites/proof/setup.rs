//! The two hosts of the running example with the programs under test on node01.

use std::{ffi::CString, path::Path, time::Duration};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, qdisc_add_clsact},
    },
};
use overlay_common::{
    Reason,
    maps::{self, Count},
    names,
    proof::{self, Asked, Outcome},
};
use overlay_tests::{
    lab::{
        Container, Host, Lab, NIC,
        traffic::{Cpus, Ping, ping},
    },
    testbed::Testbed,
};
use overlay_user::testing::{apply::object, sys::ticks};
use serde_json::Value;

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/overlay-ebpf"));

/// The VXLAN device of the running example.
pub(super) const VXLAN: &str = "ovlvx4097";
/// Its bridge.
pub(super) const BRIDGE: &str = "ovlbr4097";
/// Validity of the proofs.
pub(super) const VALIDITY: Duration = Duration::from_secs(1);

pub(super) struct World {
    pub(super) testbed: Testbed,
    ebpf: Ebpf,
    ordinary: Ebpf,
    is_clsact: bool,
    vxlan: Option<SchedClassifierLinkId>,
    window: Option<SchedClassifierLinkId>,
}

/// Counters since the world was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Packets that the programs encapsulated.
    pub(super) encap: u64,
    /// Packets passed to the kernel because their claim was not proven, or to ask.
    pub(super) unproven: u64,
    pub(super) asked: u64,
    pub(super) proven: u64,
    pub(super) unanswered: u64,
    pub(super) several: u64,
    pub(super) differs: u64,
    pub(super) forged: u64,
}

impl Counts {
    pub(super) fn read(ebpf: &Ebpf) -> Self {
        let outcomes = PerCpuArray::<_, u64>::try_from(ebpf.map(proof::OUTCOMES.name).unwrap()).unwrap();
        let outcome = |outcome: Outcome| outcomes.get(&(outcome as u32), 0).unwrap().iter().sum();
        let reasons = PerCpuArray::<_, Count>::try_from(ebpf.map(maps::REASONS.name).unwrap()).unwrap();
        let reason = |reason: Reason| reasons.get(&(reason as u32), 0).unwrap().iter().map(|count| count.packets).sum();
        Self {
            encap: reason(Reason::Encap),
            unproven: reason(Reason::Unproven),
            asked: outcome(Outcome::Asked),
            proven: outcome(Outcome::Proven),
            unanswered: outcome(Outcome::Unanswered),
            several: outcome(Outcome::Several),
            differs: outcome(Outcome::Differs),
            forged: outcome(Outcome::Forged),
        }
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            encap: self.encap - before.encap,
            unproven: self.unproven - before.unproven,
            asked: self.asked - before.asked,
            proven: self.proven - before.proven,
            unanswered: self.unanswered - before.unanswered,
            several: self.several - before.several,
            differs: self.differs - before.differs,
            forged: self.forged - before.forged,
        }
    }

    /// Questions whose answer was not the expected one.
    pub(super) const fn refuted(self) -> u64 {
        self.unanswered + self.several + self.differs
    }
}

impl World {
    /// gindemo1 and gindemo3 on node01, gindemo2 on node02; the window is open.
    pub(super) fn new() -> Self {
        let mut world = Self::ordinary();
        world.install();
        world
    }

    /// The same with the exits of the feature, but the ordinary programs at the ports.
    pub(super) fn ordinary() -> Self {
        Self::with_validity(VALIDITY)
    }

    /// [`Self::ordinary`] with another validity.
    pub(super) fn with_validity(validity: Duration) -> Self {
        let lab = Lab::builder(2).container(1, "gindemo3", [10, 0, 1, 3].into()).build().unwrap();
        let mut testbed = Testbed::new(lab);
        // The programs trust the maps without a daemon.
        testbed.deadline = Some(0);
        let mut testbed = testbed.run();
        testbed.daemon_mut(1).kill9().unwrap();
        let ebpf = load(&testbed.pin_root(1), OBJECT, &[("OVL_VALIDITY", ticks(validity) as u32)], &PROGRAMS);
        let ordinary = load(&testbed.pin_root(1), object(), &[], &PROGRAMS[..2]);
        let mut world = Self { testbed, ebpf, ordinary, is_clsact: false, vxlan: None, window: None };
        world.attach_vxlan();
        world.open_window();
        world
    }

    /// Replaces the programs at the ports of node01.
    pub(super) fn install(&mut self) {
        self.replace_by(|world| &mut world.ebpf);
    }

    /// Replaces them by ordinary ones.
    pub(super) fn uninstall(&mut self) {
        self.replace_by(|world| &mut world.ordinary);
    }

    fn replace_by(&mut self, of: impl Fn(&mut Self) -> &mut Ebpf) {
        let containers = self.testbed.lab.host(1).containers().to_vec();
        for container in containers {
            let pin = self.testbed.pin_root(1).join(format!("links/port-{}", index_of_port(&container)));
            replace_port_in(of(self), &pin);
        }
    }

    /// A loaded program: under test, or ordinary.
    pub(super) fn program(&mut self, name: &str, is_ordinary: bool) -> &SchedClassifier {
        program(if is_ordinary { &mut self.ordinary } else { &mut self.ebpf }, name)
    }

    /// [`Self::new`] with filters of the clsact qdisc instead of TCX links, at the ports and at both exits.
    pub(super) fn clsact() -> Self {
        let mut world = Self::ordinary();
        world.close_window();
        world.detach_vxlan();
        world.is_clsact = true;
        let names: Vec<_> = world.host().containers().iter().map(|container| container.name().to_owned()).collect();
        for name in names {
            let pin = world.testbed.pin_root(1).join(format!("links/port-{}", index_of_port(world.container(&name))));
            PinnedLink::from_pin(&pin).unwrap().unpin().unwrap();
            let port = world.port(&name);
            world.attach_at(names::PORT_IN, &port, TcAttachType::Ingress);
        }
        world.attach_vxlan();
        world.open_window();
        world
    }

    fn attach(&mut self, name: &str, device: &str) -> SchedClassifierLinkId {
        self.attach_at(name, device, TcAttachType::Egress)
    }

    fn attach_at(&mut self, name: &str, device: &str, end: TcAttachType) -> SchedClassifierLinkId {
        let program = program(&mut self.ebpf, name);
        let options = if self.is_clsact {
            TcAttachOptions::Netlink(NlOptions { priority: u16::MAX, ..NlOptions::default() })
        } else {
            TcAttachOptions::TcxOrder(LinkOrder::last())
        };
        let (host, is_clsact) = (self.testbed.lab.host(1), self.is_clsact);
        host.enter(|| {
            if is_clsact {
                // An error if it exists.
                _ = qdisc_add_clsact(device);
            }
            program.attach_with_options(device, end, options)
        })
        .unwrap()
    }

    fn detach(&mut self, name: &str, link: SchedClassifierLinkId) {
        let program = program(&mut self.ebpf, name);
        self.testbed.lab.host(1).enter(|| program.detach(link)).unwrap();
    }

    /// Attaches the exit at the VXLAN device.
    pub(super) fn attach_vxlan(&mut self) {
        if self.vxlan.is_none() {
            self.vxlan = Some(self.attach("ovl_vxlan_out", VXLAN));
        }
    }

    /// Detaches the exit at the VXLAN device.
    pub(super) fn detach_vxlan(&mut self) {
        if let Some(link) = self.vxlan.take() {
            self.detach("ovl_vxlan_out", link);
        }
    }

    /// Attaches the exit at the NIC, then lets the programs ask.
    pub(super) fn open_window(&mut self) {
        if self.window.is_none() {
            self.window = Some(self.attach("ovl_nic_out", NIC));
        }
        self.set_window(1);
    }

    /// The reverse. A question is answered within one packet's call, which a grace period outlasts.
    pub(super) fn close_window(&mut self) {
        self.set_window(0);
        // SAFETY: no memory is involved. MEMBARRIER_CMD_GLOBAL waits for a grace period (`kernel/sched/membarrier.c`).
        assert_eq!(unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) }, 0);
        if let Some(link) = self.window.take() {
            self.detach("ovl_nic_out", link);
        }
    }

    fn set_window(&mut self, value: u64) {
        set_window(&mut self.ebpf, value);
    }

    pub(super) fn host(&self) -> &Host {
        self.testbed.lab.host(1)
    }

    pub(super) fn container(&self, name: &str) -> &Container {
        self.host().container(name)
    }

    /// Name of a container's port on node01.
    pub(super) fn port(&self, name: &str) -> String {
        let index = index_of_port(self.container(name));
        let links: Value = serde_json::from_str(&self.host().run(&["ip", "-j", "link"])).unwrap();
        let link = links.as_array().unwrap().iter().find(|link| link["ifindex"] == index).unwrap();
        link["ifname"].as_str().unwrap().to_owned()
    }

    pub(super) fn counts(&self) -> Counts {
        Counts::read(&self.ebpf)
    }

    fn slots(&self) -> Vec<Asked> {
        let map = Array::<_, Asked>::try_from(self.ebpf.map(proof::ASKED.name).unwrap()).unwrap();
        map.iter().map(Result::unwrap).collect()
    }

    /// Slots with a difference.
    pub(super) fn differences(&self) -> Vec<Asked> {
        self.slots().into_iter().filter(|slot| slot.difference != 0).collect()
    }

    /// Cookies of the open questions.
    pub(super) fn open_cookies(&self) -> Vec<u32> {
        self.slots().into_iter().map(|slot| slot.cookie).filter(|cookie| *cookie != 0).collect()
    }

    /// Sends echo requests from a container of node01 to gindemo2: how many were answered.
    pub(super) fn pings(&self, from: &str, count: u16) -> u64 {
        // Each CPU asks for itself.
        let plan = Ping { count, timeout: Duration::from_millis(300), cpu: Cpus::two().client, ..Ping::default() };
        ping(self.container(from), self.testbed.first(2).ip().into(), plan).unwrap().received
    }

    /// As [`Self::pings`] from gindemo1, with the counters of the programs.
    pub(super) fn counted_pings(&self, count: u16) -> (u64, Counts) {
        let before = self.counts();
        let received = self.pings("gindemo1", count);
        (received, self.counts().since(before))
    }

    /// Pings until all packets of gindemo1 take the fast path.
    #[track_caller]
    pub(super) fn wait_until_proven(&self) {
        overlay_tests::check::until("the claim is proven", || {
            let (received, counts) = self.counted_pings(10);
            received == 10 && counts.encap >= 9
        });
    }

    /// Waits, with traffic, until every proof from before has ended.
    pub(super) fn outlive_proofs(&self) {
        let start = std::time::Instant::now();
        while start.elapsed() < VALIDITY + VALIDITY / 4 {
            self.pings("gindemo1", 1);
        }
    }

    /// Runs commands on node01.
    pub(super) fn run(&self, lines: &str) {
        self.host().try_script(lines).unwrap();
    }
}

fn index_of_port(container: &Container) -> u32 {
    let links: Value = serde_json::from_str(&container.run(&["ip", "-j", "link", "show", "dev", "eth0"])).unwrap();
    u32::try_from(links[0]["link_index"].as_u64().unwrap()).unwrap()
}

/// Interface index of a device of the calling thread's namespace.
pub(super) fn interface(device: &str) -> u32 {
    let name = CString::new(device).unwrap();
    // SAFETY: the name is a C string.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// Replaces the program of a pinned link at a port.
pub(super) fn replace_port_in(ebpf: &mut Ebpf, pin: &Path) {
    let link = SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(pin).unwrap())).unwrap();
    let program = program(ebpf, names::PORT_IN);
    let id = program.attach_to_link(link).unwrap();
    // The pin holds the link.
    drop(program.take_link(id).unwrap());
}

/// Whether the programs may ask.
pub(super) fn set_window(ebpf: &mut Ebpf, value: u64) {
    let map = ebpf.map_mut(proof::WINDOW.name).unwrap();
    Array::<_, u64>::try_from(map).unwrap().set(0, value, 0).unwrap();
}

pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// Those of the ordinary object come first.
pub(super) const PROGRAMS: [&str; 4] = [names::PORT_IN, names::NIC_IN, "ovl_vxlan_out", "ovl_nic_out"];

/// Programs over the maps of a daemon.
pub(super) fn load(pin_root: &Path, object: &[u8], constants: &[(&str, u32)], programs: &[&str]) -> Ebpf {
    let mut loader = EbpfLoader::new();
    for (name, value) in constants {
        loader.override_global(name, value, true);
    }
    for map in maps::MAPS {
        loader.map_pin_path(map.name, pin_root.join(map.name));
    }
    let mut ebpf = loader.load(object).unwrap();
    for name in programs {
        program(&mut ebpf, name).load().unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    ebpf
}
