//! The BPF filesystem: private to a test, or that of the machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::sys;

/// Default mount point of the BPF filesystem.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Gives the calling thread a private mount namespace with a new, empty BPF filesystem at `/sys/fs/bpf`, and returns
/// that path.
///
/// The kernel removes all pins with the last process in the mount namespace, even if the test is killed. The namespace
/// belongs to the *thread*. Processes and threads that it starts later inherit the namespace; existing threads do not
/// see the pins. So call this first in a test, and start the daemons and every command that needs their pins from the
/// same thread (or from [`NetNs::enter`](super::NetNs::enter) called on it).
///
/// # Errors
/// Without `CAP_SYS_ADMIN`, or if the kernel has no BPF filesystem.
pub fn private_bpffs() -> Result<PathBuf> {
    unshare_mounts()?;
    // Concurrent tests use the same pin roots, and so the same socket names.
    let sockets = Path::new(overlay_user::testing::apply::DIRECTORY);
    fs::create_dir_all(sockets).with_context(|| format!("cannot create {}", sockets.display()))?;
    sys::mount(Path::new("tmpfs"), sockets, "tmpfs", 0)
        .with_context(|| format!("cannot mount a tmpfs at {}", sockets.display()))?;
    let target = PathBuf::from(BPFFS);
    sys::mount(Path::new("bpf"), &target, "bpf", 0).with_context(|| format!("cannot mount bpffs at {BPFFS}"))?;
    Ok(target)
}

/// Like [`private_bpffs`] with an empty tmpfs at `/mnt`, which is removed with the mount namespace.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn private_directory() -> Result<PathBuf> {
    unshare_mounts()?;
    let target = PathBuf::from("/mnt");
    sys::mount(Path::new("tmpfs"), &target, "tmpfs", 0).context("cannot mount a tmpfs at /mnt")?;
    Ok(target)
}

/// Moves the calling thread into a new mount namespace.
fn unshare_mounts() -> Result<()> {
    sys::unshare(libc::CLONE_NEWNS).context("cannot create a mount namespace; run this as root")?;
    // Slave, not private: a mount that is removed outside must not stay alive in this namespace.
    sys::mount(Path::new(""), Path::new("/"), "", libc::MS_REC | libc::MS_SLAVE)
        .context("cannot set the mount propagation to slave")
}

/// Mounts a BPF filesystem at `/sys/fs/bpf` of the machine if it is missing.
///
/// # Errors
/// When the filesystem cannot be mounted.
pub fn ensure_bpffs() -> Result<()> {
    let target = Path::new(BPFFS);
    if sys::filesystem(target).with_context(|| format!("cannot stat {BPFFS}"))? == libc::BPF_FS_MAGIC {
        return Ok(());
    }
    sys::mount(Path::new("bpf"), target, "bpf", 0).with_context(|| format!("cannot mount bpffs at {BPFFS}"))
}
