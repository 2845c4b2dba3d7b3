//! The programs that run at the hooks, read from the kernel.

use std::io;

use aya::programs::links::{LinkError, PinnedLink};
use overlay_common::Vni;

use super::{
    Datapath, TcFlavour,
    attach::CLSACT_PRIORITY,
    program::{tc_program, xdp_program},
};
use crate::{
    apply::ledger::{AttachPoint, Owned, PinRoot},
    kernel,
    sys::{
        bpf::syscall::{Command, bpf},
        netns::Netns,
    },
};

/// `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;
/// Maximum number of programs at one hook (`BPF_MPROG_MAX`).
const PROGRAMS: usize = 64;

/// State of one hook. Programs are identified by their ids, as in `bpftool prog`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Running {
    /// The program of the pinned link or, without TCX, `wanted` if the filter is recorded. `None`: neither exists.
    pub pinned: Option<u32>,
    /// The programs that the kernel runs there; `None`: the device is gone.
    pub attached: Option<Vec<u32>>,
    /// The program that this daemon has loaded for the hook.
    pub wanted: Option<u32>,
}

/// Member `query` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

impl Datapath {
    /// Reads the state of a hook. `netns`: the namespace of its device, if not the daemon's own; `vni`: the network
    /// whose instance of the programs belongs there; `xdp`: the XDP program that the kernel reports for the device.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub(crate) fn running(
        &mut self,
        root: &PinRoot,
        hook: AttachPoint,
        netns: Option<&Netns>,
        vni: Option<Vni>,
        xdp: Option<u32>,
    ) -> io::Result<Running> {
        let wanted = self.program_id(hook, vni);
        let attached = match (hook, netns) {
            (AttachPoint::Xdp(_), _) => Some(xdp.into_iter().collect()),
            (_, Some(netns)) => {
                let flavour = self.flavour;
                netns.within(move || ingress(flavour, hook.ifindex())).map_err(io::Error::other)??
            }
            (_, None) => ingress(self.flavour, hook.ifindex())?,
        };
        let is_filter = self.flavour == TcFlavour::Clsact && !matches!(hook, AttachPoint::Xdp(_));
        let pinned = if is_filter {
            wanted.filter(|_| root.owns(&Owned::Filter(hook)))
        } else {
            match PinnedLink::from_pin(root.links().join(hook.name())) {
                Ok(link) => {
                    let link: aya::programs::links::FdLink = link.into();
                    Some(link.info().map_err(io::Error::other)?.program_id())
                }
                Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(io::Error::other(error)),
            }
        };
        Ok(Running { pinned, attached, wanted })
    }

    fn program_id(&mut self, hook: AttachPoint, vni: Option<Vni>) -> Option<u32> {
        let bpf = match (hook.netns_id(), vni) {
            (0, _) => &mut self.bpf,
            (_, Some(vni)) => self.instances.get_mut(&vni)?,
            (_, None) => return None,
        };
        let info = match hook {
            AttachPoint::Xdp(_) => xdp_program(bpf).ok()?.info(),
            _ => tc_program(bpf, hook.program()).ok()?.info(),
        };
        Some(info.ok()?.id())
    }
}

/// The programs at TC ingress of an interface of the calling thread's network namespace.
fn ingress(flavour: TcFlavour, ifindex: u32) -> io::Result<Option<Vec<u32>>> {
    match flavour {
        TcFlavour::Tcx => tcx(ifindex),
        TcFlavour::Clsact => {
            let filters = kernel::ingress_filters(ifindex)?;
            let owned = filters.into_iter().filter(|(priority, _)| *priority == CLSACT_PRIORITY);
            Ok(Some(owned.map(|(_, program)| program).collect()))
        }
    }
}

/// Reads ids only: opening the programs of other processes requires more privileges.
fn tcx(ifindex: u32) -> io::Result<Option<Vec<u32>>> {
    let mut programs = vec![0_u32; PROGRAMS];
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type: BPF_TCX_INGRESS,
        prog_ids: programs.as_mut_ptr() as u64,
        count: PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: the kernel writes at most `count` numbers to `prog_ids`, which has room for them, and into the
    // attributes; both outlive the call.
    if let Err(error) = unsafe { bpf(Command::ProgQuery, &mut query) } {
        return if error.raw_os_error() == Some(libc::ENODEV) { Ok(None) } else { Err(error) };
    }
    programs.truncate(query.count as usize);
    Ok(Some(programs))
}
