//! The BPF filesystem, private to a test or as the machine has it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::sys;

/// Where the BPF filesystem is by custom.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Gives the calling thread a mount namespace of its own with a new, empty BPF filesystem at `/sys/fs/bpf`, and
/// returns that path.
///
/// Whatever is pinned there goes with the last process that has this mount namespace: nothing is left behind, even
/// when the test is killed. The namespace belongs to the *thread*. Processes and threads that it starts from now on
/// inherit it; threads that existed before do not see the pins. So call this first in a test, and start the daemons and
/// every command that needs their pins from the same thread (or from [`NetNs::enter`](super::NetNs::enter) called on
/// it).
///
/// # Errors
/// Without `CAP_SYS_ADMIN`, or where the kernel has no BPF filesystem.
pub fn private_bpffs() -> Result<PathBuf> {
    own_mounts()?;
    // Tests that run at one time use the same pin roots, and so the same names of sockets.
    let sockets = Path::new(overlay_user::testing::apply::DIRECTORY);
    fs::create_dir_all(sockets).with_context(|| format!("cannot make {}", sockets.display()))?;
    sys::mount(Path::new("tmpfs"), sockets, "tmpfs", 0).context("cannot mount a tmpfs for the daemons' sockets")?;
    let target = PathBuf::from(BPFFS);
    sys::mount(Path::new("bpf"), &target, "bpf", 0).with_context(|| format!("cannot mount bpffs at {BPFFS}"))?;
    Ok(target)
}

/// The same with an empty directory for files, `/mnt`: it goes with the mount namespace, too.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn private_directory() -> Result<PathBuf> {
    own_mounts()?;
    let target = PathBuf::from("/mnt");
    sys::mount(Path::new("tmpfs"), &target, "tmpfs", 0).context("cannot mount a tmpfs at /mnt")?;
    Ok(target)
}

/// Moves the calling thread into a mount namespace of its own.
fn own_mounts() -> Result<()> {
    sys::unshare(libc::CLONE_NEWNS).context("cannot make a mount namespace; run this as root")?;
    // Slave, not private: a namespace or filesystem that is unmounted outside shall not be kept alive in here.
    sys::mount(Path::new(""), Path::new("/"), "", libc::MS_REC | libc::MS_SLAVE)
        .context("cannot detach the mount namespace from the machine's")
}

/// Makes sure that the machine has a BPF filesystem at `/sys/fs/bpf`, as `bpftool` and systemd do.
///
/// # Errors
/// Where it is missing and cannot be mounted.
pub fn ensure_bpffs() -> Result<()> {
    let target = Path::new(BPFFS);
    if sys::filesystem(target).with_context(|| format!("cannot look at {BPFFS}"))? == libc::BPF_FS_MAGIC {
        return Ok(());
    }
    sys::mount(Path::new("bpf"), target, "bpf", 0).with_context(|| format!("cannot mount bpffs at {BPFFS}"))
}
