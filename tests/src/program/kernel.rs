//! System calls of the program tests: a network namespace for the test, and `BPF_PROG_TEST_RUN`.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    process::Command,
    time::Duration,
};

use aya::programs::ProgramFd;

use super::{Skb, example::NODE1_MAC};

/// Moves this thread to a new network namespace with a NIC and veths of containers. The namespace is removed with the
/// thread.
pub(super) fn enter_namespace() {
    // SAFETY: no memory is involved.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    let error = io::Error::last_os_error();
    assert_eq!(result, 0, "program tests need root, to load programs and to create interfaces: {error}");
    // Samples are limited per CPU.
    let cpus = cpus();
    pin(cpus[std::process::id() as usize % cpus.len()]);
    let nic = NODE1_MAC.to_string();
    for arguments in [
        ["nic", "address", &nic, "type", "veth", "peer", "name", "wire"].as_slice(),
        &["port", "type", "veth", "peer", "name", "eth0"],
        &["port2", "type", "veth", "peer", "name", "eth1"],
        &["other", "type", "veth", "peer", "name", "eth2"],
    ] {
        let output = Command::new("ip").args(["link", "add"]).args(arguments).output().expect("`ip` runs");
        assert!(output.status.success(), "ip link add {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Sets addresses of the NIC in this thread's namespace, and enables forwarding of packets for other addresses.
pub(super) fn enable_forwarding(addresses: [[u8; 4]; 2]) {
    let addresses = addresses.map(|[a, b, c, d]| format!("{a}.{b}.{c}.{d}/32"));
    for arguments in [
        ["link", "set", "nic", "up"].as_slice(),
        &["address", "add", &addresses[0], "dev", "nic"],
        &["address", "add", &addresses[1], "dev", "nic"],
        &["route", "add", "default", "dev", "nic"],
    ] {
        let output = Command::new("ip").args(arguments).output().expect("`ip` runs");
        assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::write("/proc/sys/net/ipv4/conf/nic/forwarding", "1").expect("the NIC exists");
}

/// The CPUs that this process may use. The threads of its tests are pinned, its main thread is not.
pub(super) fn cpus() -> Vec<usize> {
    // SAFETY: a set of CPUs is plain data, and the call gets its size.
    let (result, allowed) = unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        (libc::sched_getaffinity(libc::getpid(), size_of_val(&allowed), &raw mut allowed), allowed)
    };
    assert_eq!(result, 0, "sched_getaffinity: {}", io::Error::last_os_error());
    // SAFETY: the index is less than the size of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &allowed) }).collect()
}

/// Pins this thread to a CPU.
pub(super) fn pin(cpu: usize) {
    // SAFETY: a set of CPUs is plain data, and the call gets its size.
    let result = unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut one);
        libc::sched_setaffinity(0, size_of_val(&one), &raw const one)
    };
    assert_eq!(result, 0, "cannot pin the thread to CPU {cpu}: {}", io::Error::last_os_error());
}

pub(super) fn interface(name: &std::ffi::CStr) -> u32 {
    // SAFETY: the name is a C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "{name:?}: {}", io::Error::last_os_error());
    index
}

/// `struct __sk_buff` (`include/uapi/linux/bpf.h`, 192 bytes), with the fields that a test run accepts.
#[must_use]
pub fn sk_buff(ifindex: u32, skb: Skb) -> Vec<u32> {
    let mut context = vec![0; 48];
    context[8 / 4] = skb.mark;
    context[40 / 4] = ifindex;
    context[164 / 4] = skb.gso_segs;
    context[176 / 4] = skb.gso_size;
    context
}

/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`.
pub(super) const TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// The part of `union bpf_attr` for `BPF_PROG_TEST_RUN`. aya's API cannot set the flags.
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
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

impl TestRun {
    /// The attributes point to `packet` and `context`, which must outlive the call.
    fn new(program: &ProgramFd, packet: &[u8], context: &[u32]) -> Self {
        Self {
            prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
            data_size_in: u32::try_from(packet.len()).expect("a short packet"),
            data_in: packet.as_ptr() as u64,
            repeat: 1,
            ctx_size_in: size_of_val(context) as u32,
            ctx_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
            ..Self::default()
        }
    }

    /// # Safety
    /// The attributes point to valid buffers of the given sizes.
    unsafe fn call(&mut self) -> io::Result<()> {
        const BPF_PROG_TEST_RUN: libc::c_int = 10;
        // SAFETY: the attributes are of the size given; the caller guarantees valid buffers.
        let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut *self, size_of::<Self>()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

pub(super) fn test_run(program: &ProgramFd, packet: &[u8], context: &[u32], flags: u32) -> io::Result<(u32, Vec<u8>)> {
    let mut out = vec![0u8; packet.len() + 256];
    let mut attr = TestRun {
        data_size_out: u32::try_from(out.len()).expect("a short packet"),
        data_out: out.as_mut_ptr() as u64,
        flags,
        ..TestRun::new(program, packet, context)
    };
    // SAFETY: all three buffers live until after the call, with the sizes given.
    unsafe { attr.call()? };
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out))
}

/// Runs a program `repeat` times over one packet; returns the last verdict and the mean run time in whole nanoseconds.
///
/// Changes to the packet are visible in the next run.
///
/// # Errors
/// Those of `BPF_PROG_TEST_RUN`.
pub fn timed_run(program: &ProgramFd, packet: &[u8], context: &[u32], repeat: u32) -> io::Result<(u32, Duration)> {
    let mut attr = TestRun { repeat, ..TestRun::new(program, packet, context) };
    // SAFETY: both buffers live until after the call, with the sizes given; nothing is written back.
    unsafe { attr.call()? };
    Ok((attr.retval, Duration::from_nanos(attr.duration.into())))
}

/// Runs an XDP program over `count` live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`): its verdicts are executed on this CPU,
/// as if the interface of this namespace had received the frames.
pub(crate) fn live_frames(program: &ProgramFd, ifindex: u32, frame: &[u8], count: u32) -> io::Result<()> {
    const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, u32::try_from(frame.len()).expect("a short packet"), 0, ifindex, 0, 0];
    let mut attr =
        TestRun { repeat: count, flags: BPF_F_TEST_XDP_LIVE_FRAMES, ..TestRun::new(program, frame, &context) };
    // SAFETY: both buffers live until after the call, with the sizes given; nothing is written back.
    unsafe { attr.call() }
}
