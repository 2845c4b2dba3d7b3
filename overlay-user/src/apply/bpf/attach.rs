//! Attaches the programs. Attachments outlive the daemon.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        Link, LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, TcError, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        tc::{NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle, qdisc_add_clsact},
        xdp::XdpLink,
    },
};
use overlay_common::{Vni, names};

use super::{
    Datapath, TcFlavour,
    program::{tc_program, xdp_program},
};
use crate::{
    apply::ledger::{AttachPoint, Ledger, Owned, PinError, PinRoot, Recorded, remove},
    kernel::{Filter, Ingress},
    plan::hooks::{End, Place, place},
    sys::{
        bpf::link,
        fault::{self, Point},
        netlink::raw::Raw,
        netns::{Netns, NetnsError},
    },
};

/// A program cannot be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The device has another XDP program.
    #[error(
        "another XDP program is attached to {device}; detach it (`ip link set dev {device} xdp off`), or set rx = \"tc\""
    )]
    XdpBusy {
        /// The NIC.
        device: String,
    },
    /// The device cannot run XDP natively.
    #[error("{device} cannot run XDP: {source}; set rx = \"tc\"")]
    XdpUnsupported {
        /// The NIC.
        device: String,
        /// The kernel's answer.
        source: ProgramError,
    },
    /// A filter of another owner runs after the program, or may.
    #[error(
        "{program} is not attached to {device}, so that packets reach {filter} (tc filter show dev {device} ingress); \
         give that filter a priority from 2 to 65534, and a block of its own"
    )]
    InTheWay {
        /// The program.
        program: &'static str,
        /// The device.
        device: String,
        /// The filter.
        filter: String,
    },
    /// XDP would bypass filters or programs at TC ingress of the NIC.
    #[error(
        "packets are received by TC: {device} has {what} at TC ingress, which XDP would bypass; \
         remove it (tc filter show dev {device} ingress, bpftool net), or set rx = \"tc\""
    )]
    XdpBypass {
        /// The NIC.
        device: String,
        /// The filter or program.
        what: String,
    },
    /// The NIC removes VLAN tags before XDP.
    #[error(
        "packets are received by TC: {device} removes VLAN tags, which XDP would not see; turn this off (ethtool -K \
         {device} rx-vlan-hw-parse off rx-vlan-stag-hw-parse off), or set rx = \"tc\""
    )]
    XdpVlan {
        /// The NIC.
        device: String,
    },
    /// Any other error.
    #[error("cannot attach {program} to {device}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The device.
        device: String,
        /// The kernel's answer.
        source: ProgramError,
    },
    /// A filter cannot be removed.
    #[error("cannot detach {program} from interface {ifindex}: {source}")]
    Detach {
        /// The program.
        program: &'static str,
        /// The device.
        ifindex: u32,
        /// The kernel's answer.
        source: ProgramError,
    },
    /// The device is gone.
    #[error("interface {0} no longer exists")]
    Gone(u32),
    /// A link cannot be pinned or unpinned.
    #[error("cannot pin the link {path}: {reason}")]
    PinLink {
        /// The pin.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The device's network namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The pin root.
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl AttachError {
    /// Whether the device or its namespace is gone.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Netns(NetnsError::Gone { .. }))
    }
}

/// Handle of overlay's filters.
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

impl Datapath {
    /// Attaches a program, or replaces the attached one atomically.
    ///
    /// # Errors
    /// [`AttachError`].
    pub(crate) fn attach(&mut self, ledger: &Ledger, hook: AttachPoint) -> Result<(), AttachError> {
        Attacher { bpf: &mut self.bpf, ledger, flavour: self.flavour }.attach(hook)
    }

    /// [`Self::attach`] for a program of a network's instance in another namespace.
    ///
    /// # Errors
    /// [`AttachError`].
    pub(crate) fn attach_in(
        &mut self,
        ledger: &Ledger,
        netns: &Netns,
        vni: Vni,
        hook: AttachPoint,
    ) -> Result<(), AttachError> {
        let Some(bpf) = self.instances.get_mut(&vni) else {
            let (program, device) = (hook.program(), format!("interface {} of VNI {vni}", hook.ifindex()));
            return Err(AttachError::Attach { program, device, source: ProgramError::NotLoaded });
        };
        let mut attacher = Attacher { bpf, ledger, flavour: self.flavour };
        netns.within(move || attacher.attach(hook))?
    }
}

/// Attaches programs of one object to devices of the calling thread's network namespace.
struct Attacher<'a> {
    bpf: &'a mut Ebpf,
    ledger: &'a Ledger,
    flavour: TcFlavour,
}

impl Attacher<'_> {
    fn attach(&mut self, hook: AttachPoint) -> Result<(), AttachError> {
        let device = device_name(hook.ifindex())?;
        let program = hook.program();
        fault::at(Point::Attach(program)).map_err(|error| AttachError::Attach {
            program,
            device: device.clone(),
            source: ProgramError::IOError(error),
        })?;
        let pin = self.ledger.root().links().join(hook.name());
        match hook {
            AttachPoint::Xdp(_) => self.attach_xdp(&device, &pin),
            _ => self.attach_tc(hook, &device, &pin),
        }
    }

    /// Attaches a program at its place, and then detaches it from the other one, so that no packet misses it.
    fn attach_tc(&mut self, hook: AttachPoint, device: &str, pin: &Path) -> Result<(), AttachError> {
        let failed = |source| AttachError::Attach { program: hook.program(), device: device.into(), source };
        let ingress = Ingress::read(hook.ifindex()).map_err(|error| failed(ProgramError::IOError(error)))?;
        let ingress = ingress.ok_or(AttachError::Gone(hook.ifindex()))?;
        let program = tc_program(self.bpf, hook.program()).map_err(failed)?;
        if hook.end() == End::First && program.fd().is_err() {
            // Few hosts have strict networks.
            program.load().map_err(failed)?;
        }
        match place(hook.end(), &ingress, self.flavour == TcFlavour::Tcx) {
            Ok(Place::Tcx) => {
                self.attach_tcx(hook, device, pin, &ingress)?;
                detach_filter(self.ledger, hook)
            }
            Ok(Place::Filter) => {
                let attached = self.attach_clsact(hook, device, &ingress);
                // Also after a failure: the link would bypass the filters.
                detach_link(pin)?;
                attached
            }
            Err(filter) => {
                let (program, device, filter) = (hook.program(), device.to_owned(), filter.to_string());
                detach_link(pin)?;
                detach_filter(self.ledger, hook)?;
                Err(AttachError::InTheWay { program, device, filter })
            }
        }
    }

    fn attach_tcx(
        &mut self,
        hook: AttachPoint,
        device: &str,
        pin: &Path,
        ingress: &Ingress,
    ) -> Result<(), AttachError> {
        let old = old_link(pin)?;
        let failed = |source| AttachError::Attach { program: hook.program(), device: device.into(), source };
        let program = tc_program(self.bpf, hook.program()).map_err(failed)?;
        if let Some(old) = old {
            let own = old.info().map_err(|error| pin_error(pin, &error))?.program_id();
            if is_at_end(device, hook.end(), &ingress.programs, own) {
                let old = SchedClassifierLink::try_from(old).map_err(|error| pin_error(pin, &error))?;
                let id = program.attach_to_link(old).map_err(failed)?;
                // Only the pin may hold the link: a handle would keep it alive after the pin is removed.
                return program.take_link(id).map(drop).map_err(failed);
            }
            // The program must move: a link keeps its position, and one program cannot be attached twice
            // (`bpf_mprog_attach` in kernel/bpf/mprog.c). Until it is attached again, packets take the kernel path. Or
            // the device was removed and another one has its index: the old link is defunct.
            drop(old);
            detach_link(pin)?;
        }
        let order = match hook.end() {
            End::First => LinkOrder::first(),
            End::Last => LinkOrder::last(),
        };
        let options = TcAttachOptions::TcxOrder(order);
        let id = program.attach_with_options(device, TcAttachType::Ingress, options).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        let link = FdLink::try_from(link).map_err(|error| pin_error(pin, &error))?;
        link.pin(pin).map_err(|error| pin_error(pin, &error))?;
        Ok(())
    }

    fn attach_clsact(&mut self, hook: AttachPoint, device: &str, ingress: &Ingress) -> Result<(), AttachError> {
        let failed = |source| AttachError::Attach { program: hook.program(), device: device.into(), source };
        // Filters of other owners have a qdisc.
        if ingress.others().next().is_none() {
            let qdisc = Owned::Clsact(hook.key());
            let recorded = self.ledger.record(&qdisc)?;
            if let Err(error) = qdisc_add_clsact(device) {
                // An existing qdisc is owned only if it was recorded before.
                self.ledger.roll_back(&qdisc, recorded)?;
                if !is_exists(&error) {
                    return Err(failed(ProgramError::TcError(error)));
                }
            }
        }
        let filter = Owned::Filter(hook);
        let recorded = self.ledger.record(&filter)?;
        let attached = self.attach_filter(hook, device, recorded).map_err(failed);
        if attached.is_err() {
            self.ledger.roll_back(&filter, recorded)?;
        }
        attached?;
        // Earlier versions had another priority.
        let others = own_filters(ingress, hook).filter(|filter| filter.priority != hook.end().priority());
        others.into_iter().try_for_each(|filter| remove_filter(device, filter.priority)).map_err(failed)
    }

    /// Attaches a filter; replaces the one of an earlier record.
    fn attach_filter(&mut self, hook: AttachPoint, device: &str, filter: Recorded) -> Result<(), ProgramError> {
        let program = tc_program(self.bpf, hook.program())?;
        let priority = hook.end().priority();
        let options = NlOptions { priority, handle: CLSACT_HANDLE, ..NlOptions::default() };
        let replaced = if filter.is_new() {
            None
        } else {
            SchedClassifierLink::attached(device, TcAttachType::Ingress, priority, CLSACT_HANDLE, None)
                .ok()
                .and_then(|link| program.attach_to_link(link).ok())
        };
        let id = match replaced {
            Some(id) => id,
            None => program.attach_with_options(device, TcAttachType::Ingress, TcAttachOptions::Netlink(options))?,
        };
        forget_tc(program, id)
    }

    fn attach_xdp(&mut self, device: &str, pin: &Path) -> Result<(), AttachError> {
        let old = old_link(pin)?;
        let failed = |source| AttachError::Attach { program: names::NIC_XDP, device: device.into(), source };
        let program = xdp_program(self.bpf).map_err(failed)?;
        let old = old.map(XdpLink::try_from).transpose().map_err(|error| pin_error(pin, &error))?;
        if let Some(old) = old {
            match program.attach_to_link(old) {
                Ok(id) => return program.take_link(id).map(drop).map_err(failed),
                Err(_) => fs::remove_file(pin).map_err(|error| pin_error(pin, &error))?,
            }
        }
        let id = program.attach(device, XdpMode::Driver).map_err(|source| match os_error(&source) {
            Some(libc::EBUSY | libc::EEXIST) => AttachError::XdpBusy { device: device.into() },
            Some(libc::EOPNOTSUPP) => AttachError::XdpUnsupported { device: device.into(), source },
            _ => failed(source),
        })?;
        let link = program.take_link(id).map_err(failed)?;
        let link = FdLink::try_from(link).map_err(|error| pin_error(pin, &error))?;
        link.pin(pin).map_err(|error| pin_error(pin, &error))?;
        Ok(())
    }
}

/// Drops the handle of an attachment without detaching.
fn forget_tc(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<(), ProgramError> {
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Detaches the recorded program of `hook`; `netns`: the namespace of its device, if not the daemon's own and still
/// existing.
///
/// # Errors
/// [`AttachError`]. A missing attachment or device is not an error.
pub(crate) fn detach(ledger: &Ledger, hook: AttachPoint, netns: Option<&Netns>) -> Result<(), AttachError> {
    remove(&ledger.root().links().join(hook.name()))?;
    if hook.netns_id() == 0 && device_name(hook.ifindex()).is_err() || hook.netns_id() != 0 && netns.is_none() {
        // The qdisc is gone with the device, whose index the kernel may reuse.
        ledger.forget(&Owned::Clsact(hook.key()))?;
    }
    match (hook.netns_id(), netns) {
        (0, _) => detach_filter(ledger, hook),
        (_, Some(netns)) if ledger.root().owns(&Owned::Filter(hook)) => netns.within(|| detach_filter(ledger, hook))?,
        // The device and its filters are gone with the namespace.
        _ => Ok(ledger.forget(&Owned::Filter(hook))?),
    }
}

/// Detaches the program of a pinned link, if there is one, and removes the pin.
fn detach_link(pin: &Path) -> Result<(), AttachError> {
    match link::detach(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A link without a device cannot be detached.
        _ => Ok(remove(pin)?),
    }
}

/// Removes the recorded filter of `hook` from its device in the calling thread's network namespace, if it exists.
fn detach_filter(ledger: &Ledger, hook: AttachPoint) -> Result<(), AttachError> {
    let filter = Owned::Filter(hook);
    if !ledger.root().owns(&filter) {
        return Ok(());
    }
    let failed = |source| AttachError::Detach { program: hook.program(), ifindex: hook.ifindex(), source };
    if let Ok(device) = device_name(hook.ifindex()) {
        let ingress = Ingress::read(hook.ifindex()).map_err(|error| failed(ProgramError::IOError(error)))?;
        for filter in own_filters(&ingress.unwrap_or_default(), hook) {
            remove_filter(&device, filter.priority).map_err(failed)?;
        }
    }
    Ok(ledger.forget(&filter)?)
}

/// The filters that run the program of a hook.
fn own_filters(ingress: &Ingress, hook: AttachPoint) -> impl Iterator<Item = &Filter> {
    ingress.filters.iter().filter(move |filter| filter.is_owned() && filter.name == hook.program())
}

/// Removes overlay's filter with this priority from a device of the calling thread's network namespace, if it exists.
fn remove_filter(device: &str, priority: u16) -> Result<(), ProgramError> {
    let link = SchedClassifierLink::attached(device, TcAttachType::Ingress, priority, CLSACT_HANDLE, None);
    match link.map_err(ProgramError::from).and_then(Link::detach) {
        // ENOENT, or EINVAL without a qdisc (`tc_del_tfilter` in net/sched/cls_api.c).
        Err(ProgramError::NetlinkError(error))
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Whether TC ingress of a device of the calling thread's network namespace has no program of overlay. `false` without
/// TCX.
pub(crate) fn is_free(device: &str) -> bool {
    let filters = || {
        let ifindex = nix::net::if_::if_nametoindex(device).map_err(io::Error::from)?;
        Ingress::read(ifindex)
    };
    let found = SchedClassifier::query_tcx(device, TcAttachType::Ingress);
    found.is_ok_and(|(_, programs)| !programs.iter().any(is_owned))
        && filters().is_ok_and(|found| found.is_some_and(|ingress| !ingress.filters.iter().any(Filter::is_owned)))
}

/// Whether a program is overlay's, of any daemon.
fn is_owned(program: &ProgramInfo) -> bool {
    program.name_as_str().is_some_and(|name| name.starts_with("ovl_"))
}

/// Whether the program `own` is at its end of the TCX programs of a device in the calling thread's network namespace.
/// Programs of other overlay daemons, which pass what they do not forward, may be beyond it.
fn is_at_end(device: &str, end: End, programs: &[u32], own: u32) -> bool {
    let Some(at) = programs.iter().position(|id| *id == own) else { return false };
    let (before, after) = programs.split_at(at);
    let beyond = match end {
        End::First => before,
        End::Last => after.get(1..).unwrap_or_default(),
    };
    if beyond.is_empty() {
        return true;
    }
    // The names need more privileges than the ids.
    let named = SchedClassifier::query_tcx(device, TcAttachType::Ingress).map(|(_, named)| named).unwrap_or_default();
    beyond.iter().all(|id| named.iter().any(|program| program.id() == *id && is_owned(program)))
}

/// Why an attached program must be attached again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Displaced {
    /// Filters of other owners were added or removed.
    Place,
    /// A TCX program of another owner is beyond it.
    Order,
    /// Another program has detached it.
    Detached,
}

/// The hooks, whose devices are in the calling thread's network namespace, with attached programs that are not at their
/// places. Filters are read if `filters`.
///
/// # Errors
/// The kernel's.
pub(crate) fn displaced(
    root: &PinRoot,
    hooks: &[AttachPoint],
    flavour: TcFlavour,
    filters: bool,
) -> io::Result<Vec<(AttachPoint, Displaced)>> {
    let socket = if filters { Some(Raw::route()?) } else { None };
    let displaced = |hook: &AttachPoint| {
        let why = displaced_one(root, *hook, flavour, socket.as_ref());
        why.map(|why| Some((*hook, why?))).transpose()
    };
    hooks.iter().filter_map(displaced).collect()
}

fn displaced_one(
    root: &PinRoot,
    hook: AttachPoint,
    flavour: TcFlavour,
    filters: Option<&Raw>,
) -> io::Result<Option<Displaced>> {
    let is_filter = root.owns(&Owned::Filter(hook));
    let pin = root.links().join(hook.name());
    if !is_filter && !link::is_attached(&pin)? {
        // Or the device is gone.
        return Ok(device_name(hook.ifindex()).is_ok().then_some(Displaced::Detached));
    }
    if let AttachPoint::Xdp(_) = hook {
        return Ok(None);
    }
    let programs = if let Some(socket) = filters {
        let Some(ingress) = Ingress::read_over(socket, hook.ifindex())? else { return Ok(None) };
        let place = place(hook.end(), &ingress, flavour == TcFlavour::Tcx);
        if place != Ok(if is_filter { Place::Filter } else { Place::Tcx }) {
            return Ok(Some(Displaced::Place));
        }
        // `tc filter del dev DEVICE ingress` removes all filters of chain 0.
        if is_filter && own_filters(&ingress, hook).next().is_none() {
            return Ok(Some(Displaced::Detached));
        }
        ingress.programs
    } else {
        Ingress::programs(hook.ifindex())?.unwrap_or_default()
    };
    if is_filter || programs.len() < 2 {
        return Ok(None);
    }
    let (Ok(Some(link)), Ok(device)) = (old_link(&pin), device_name(hook.ifindex())) else {
        return Ok(None);
    };
    let own = link.info().map_err(io::Error::other)?.program_id();
    let is_displaced = programs.contains(&own) && !is_at_end(&device, hook.end(), &programs, own);
    Ok(is_displaced.then_some(Displaced::Order))
}

/// A filter or program of another owner at TC ingress of the NIC `ifindex`.
///
/// # Errors
/// The kernel's.
pub(crate) fn other_at_ingress(root: &PinRoot, ifindex: u32) -> io::Result<Option<String>> {
    let Some(ingress) = Ingress::read(ifindex)? else { return Ok(None) };
    if let Some(filter) = ingress.others().next() {
        return Ok(Some(filter.to_string()));
    }
    let own = [AttachPoint::Nic(ifindex), AttachPoint::NicCheck(ifindex)].into_iter().filter_map(|hook| {
        let link = old_link(&root.links().join(hook.name())).ok()??;
        Some(link.info().ok()?.program_id())
    });
    let own: Vec<u32> = own.collect();
    let mut others = ingress.programs.iter().filter(|id| !own.contains(id)).peekable();
    let Ok(device) = device_name(ifindex) else { return Ok(None) };
    if others.peek().is_none() {
        return Ok(None);
    }
    // Programs of another overlay daemon, or of an earlier version.
    let named = SchedClassifier::query_tcx(&device, TcAttachType::Ingress).map(|(_, named)| named).unwrap_or_default();
    let is_other = |id: &&u32| !named.iter().any(|program| program.id() == **id && is_owned(program));
    Ok(others.find(is_other).map(|id| format!("the TCX program {id}")))
}

fn old_link(pin: &Path) -> Result<Option<FdLink>, AttachError> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => Ok(Some(link.into())),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(pin_error(pin, &error)),
    }
}

fn pin_error(path: &Path, reason: &impl ToString) -> AttachError {
    AttachError::PinLink { path: path.into(), reason: reason.to_string() }
}

fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

fn is_exists(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}

/// The name of an interface of the calling thread's network namespace.
fn device_name(ifindex: u32) -> Result<String, AttachError> {
    let name = nix::net::if_::if_indextoname(ifindex).map_err(|_| AttachError::Gone(ifindex))?;
    Ok(name.to_string_lossy().into_owned())
}
