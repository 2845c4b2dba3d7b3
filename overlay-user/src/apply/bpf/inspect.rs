//! The programs that run at the hooks, read from the kernel.

use std::io;

use aya::programs::links::{LinkError, PinnedLink};
use overlay_common::Vni;

use super::{
    Datapath,
    program::{tc_program, xdp_program},
};
use crate::{
    apply::ledger::{AttachPoint, Owned, PinRoot},
    kernel::Ingress,
    sys::netns::Netns,
};

/// State of one hook. Programs are identified by their ids, as in `bpftool prog`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Running {
    /// The program of the pinned link, or `wanted` if a filter is recorded. `None`: neither exists.
    pub pinned: Option<u32>,
    /// The programs that the kernel runs there; `None`: the device is gone.
    pub attached: Option<Vec<u32>>,
    /// The program that this daemon has loaded for the hook.
    pub wanted: Option<u32>,
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
        let is_filter = root.owns(&Owned::Filter(hook));
        let attached = match (hook, netns) {
            (AttachPoint::Xdp(_), _) => Some(xdp.into_iter().collect()),
            (_, Some(netns)) => {
                netns.within(move || ingress(is_filter, hook.ifindex())).map_err(io::Error::other)??
            }
            (_, None) => ingress(is_filter, hook.ifindex())?,
        };
        let pinned = if is_filter {
            wanted
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

/// The programs at TC ingress of an interface of the calling thread's network namespace: TCX programs, or filters of
/// overlay.
fn ingress(is_filter: bool, ifindex: u32) -> io::Result<Option<Vec<u32>>> {
    let Some(ingress) = Ingress::read(ifindex)? else { return Ok(None) };
    if !is_filter {
        return Ok(Some(ingress.programs));
    }
    let owned = ingress.filters.iter().filter(|filter| filter.is_owned());
    Ok(Some(owned.filter_map(|filter| filter.program).collect()))
}
