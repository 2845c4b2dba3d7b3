//! Features of the running kernel, found by trying: distributions backport them, so that a version shows nothing.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::syscall::{Command, bpf, bpf_fd};

/// An instruction: `code`, registers (destination in the lower half), offset, constant (`struct bpf_insn`).
#[repr(C)]
struct Instruction(u8, u8, i16, i32);

/// Instructions of `include/uapi/linux/bpf_common.h` and bpf.h.
const fn set(register: u8, value: i32) -> Instruction {
    Instruction(0xb7, register, 0, value)
}
const fn call(helper: i32) -> Instruction {
    Instruction(0x85, 0, 0, helper)
}
const EXIT: Instruction = Instruction(0x95, 0, 0, 0);

/// The first members for `BPF_PROG_LOAD` in `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The first members of `test` in `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

fn load(prog_type: u32, prog_flags: u32, program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut load = Load {
        prog_type,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        prog_flags,
        ..Load::default()
    };
    // SAFETY: the structure has the kernel's layout; the instructions and the terminated license outlive the call.
    let fd = unsafe { bpf_fd(Command::ProgLoad, &mut load) }?;
    // SAFETY: the kernel has just opened this file descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the kernel loads XDP programs for packets with fragments (`BPF_F_XDP_HAS_FRAGS`).
///
/// # Errors
/// The kernel's, for instance without a capability.
pub(crate) fn has_xdp_fragments() -> io::Result<bool> {
    const XDP: u32 = 6;
    const XDP_PASS: i32 = 2;
    const HAS_FRAGS: u32 = 1 << 5;
    match load(XDP, HAS_FRAGS, &[set(0, XDP_PASS), EXIT]) {
        // An unknown flag (`bpf_prog_load` in kernel/bpf/syscall.c).
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        loaded => loaded.map(|_| true),
    }
}

/// Whether `bpf_skb_adjust_room` knows these flags.
///
/// # Errors
/// As [`has_xdp_fragments`].
pub(crate) fn adjust_room_knows(flags: i32) -> io::Result<bool> {
    const SCHED_CLS: u32 = 3;
    const ADJUST_ROOM: i32 = 50;
    /// More than any packet has room for. `bpf_skb_adjust_room` in net/core/filter.c looks at the flags first (EINVAL),
    /// then at this (EFAULT).
    const TOO_MUCH: i32 = 0x1000;
    const BPF_ADJ_ROOM_MAC: i32 = 1;
    let program = [set(2, TOO_MUCH), set(3, BPF_ADJ_ROOM_MAC), set(4, flags), call(ADJUST_ROOM), EXIT];
    let program = load(SCHED_CLS, 0, &program)?;
    let frame = [0_u8; 64];
    let mut run = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the structure has the kernel's layout, and the frame with its length outlives the call.
    unsafe { bpf(Command::ProgTestRun, &mut run) }?;
    Ok(run.retval.cast_signed() == -libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As root. The kernel knows the flags of 5.18, and has none at bit 31.
    #[test]
    fn flags_of_the_kernel_are_told_from_others() {
        const FIXED_GSO: i32 = 1;
        assert!(adjust_room_knows(0).unwrap() && adjust_room_knows(FIXED_GSO).unwrap());
        assert!(!adjust_room_knows(i32::MIN).unwrap());
        assert!(has_xdp_fragments().unwrap());
    }
}
