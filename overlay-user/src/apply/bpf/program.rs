//! The programs of a loaded object.

use aya::{
    Ebpf,
    programs::{ProgramError, SchedClassifier, Xdp},
};
use overlay_common::names;

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcFlavour {
    /// A pinned TCX link (Linux 6.6): replaced atomically, and independent of other programs.
    Tcx,
    /// A filter of the clsact qdisc, attached over netlink.
    Clsact,
}

pub(crate) fn tc_program<'a>(bpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, ProgramError> {
    let program = bpf.program_mut(name).ok_or(ProgramError::NotLoaded)?;
    program.try_into()
}

pub(crate) fn xdp_program(bpf: &mut Ebpf) -> Result<&mut Xdp, ProgramError> {
    let program = bpf.program_mut(names::NIC_XDP).ok_or(ProgramError::NotLoaded)?;
    program.try_into()
}
