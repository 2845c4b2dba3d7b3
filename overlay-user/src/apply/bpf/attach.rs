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
    apply::ledger::{AttachPoint, Ledger, Owned, PinError, Recorded, remove},
    sys::{
        fault::{self, Point},
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

/// Priority and handle of overlay's clsact filter: "OV".
pub(crate) const CLSACT_PRIORITY: u16 = 0x4f56;
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
            _ if self.flavour == TcFlavour::Tcx => self.attach_tcx(hook, &device, &pin),
            _ => self.attach_clsact(hook, &device),
        }
    }

    fn attach_tcx(&mut self, hook: AttachPoint, device: &str, pin: &Path) -> Result<(), AttachError> {
        let old = old_link(pin)?;
        let failed = |source| AttachError::Attach { program: hook.program(), device: device.into(), source };
        let program = tc_program(self.bpf, hook.program()).map_err(failed)?;
        let old = old.map(SchedClassifierLink::try_from).transpose().map_err(|error| pin_error(pin, &error))?;
        if let Some(old) = old {
            match program.attach_to_link(old) {
                // Only the pin may hold the link: a handle would keep it alive after the pin is removed.
                Ok(id) => return program.take_link(id).map(drop).map_err(failed),
                // The device was removed and another one has its index: the old link is defunct.
                Err(_) => fs::remove_file(pin).map_err(|error| pin_error(pin, &error))?,
            }
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(device, TcAttachType::Ingress, options).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        let link = FdLink::try_from(link).map_err(|error| pin_error(pin, &error))?;
        link.pin(pin).map_err(|error| pin_error(pin, &error))?;
        Ok(())
    }

    fn attach_clsact(&mut self, hook: AttachPoint, device: &str) -> Result<(), AttachError> {
        let failed = |source| AttachError::Attach { program: hook.program(), device: device.into(), source };
        let qdisc = Owned::Clsact(hook.key());
        let recorded = self.ledger.record(&qdisc)?;
        if let Err(error) = qdisc_add_clsact(device) {
            // An existing qdisc is owned only if it was recorded before.
            self.ledger.roll_back(&qdisc, recorded)?;
            if !is_exists(&error) {
                return Err(failed(ProgramError::TcError(error)));
            }
        }
        let filter = Owned::Filter(hook);
        let recorded = self.ledger.record(&filter)?;
        let attached = self.attach_filter(hook, device, recorded).map_err(failed);
        if attached.is_err() {
            self.ledger.roll_back(&filter, recorded)?;
        }
        attached
    }

    /// Attaches a filter; replaces the one of an earlier record.
    fn attach_filter(&mut self, hook: AttachPoint, device: &str, filter: Recorded) -> Result<(), ProgramError> {
        let program = tc_program(self.bpf, hook.program())?;
        let options = NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, ..NlOptions::default() };
        let replaced = if filter.is_new() {
            None
        } else {
            SchedClassifierLink::attached(device, TcAttachType::Ingress, CLSACT_PRIORITY, CLSACT_HANDLE, None)
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
    let filter = Owned::Filter(hook);
    if ledger.root().owns(&filter) {
        let removed = match (hook.netns_id(), netns) {
            (0, _) => remove_filter(hook.ifindex()),
            (_, Some(netns)) => netns.within(|| remove_filter(hook.ifindex()))?,
            // The device and its filters are gone with the namespace.
            (_, None) => Ok(()),
        };
        removed.map_err(|source| AttachError::Detach { program: hook.program(), ifindex: hook.ifindex(), source })?;
        ledger.forget(&filter)?;
    }
    Ok(())
}

/// Removes overlay's clsact filter from a device of the calling thread's network namespace, if both exist.
fn remove_filter(ifindex: u32) -> Result<(), ProgramError> {
    let Ok(device) = device_name(ifindex) else { return Ok(()) };
    let link = SchedClassifierLink::attached(&device, TcAttachType::Ingress, CLSACT_PRIORITY, CLSACT_HANDLE, None);
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
    let is_owned = |program: &ProgramInfo| program.name_as_str().is_some_and(|name| name.starts_with("ovl_"));
    let found = SchedClassifier::query_tcx(device, TcAttachType::Ingress);
    found.is_ok_and(|(_, programs)| !programs.iter().any(is_owned))
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
