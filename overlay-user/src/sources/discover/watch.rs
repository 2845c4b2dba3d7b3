//! Events: a namespace's tables over netlink, the directory of namespaces over inotify.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkBuffer,
    sys::{AsyncSocket, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::{runtime::Handle, sync::Notify, task::AbortHandle};

use crate::{
    kernel::{KernelError, ROUTING, mask},
    sources::watcher,
    sys::netns::Netns,
};

/// Reports changes of the tables of one namespace until dropped.
#[derive(Debug)]
pub(super) struct TableWatch {
    dirty: Arc<AtomicBool>,
    subscriptions: Subscriptions,
    task: AbortHandle,
}

/// Subscriptions in addition to links and FDB entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subscriptions {
    /// Addresses, routes, rules and nexthop objects.
    pub(super) routes: bool,
    /// Events of the other namespaces that have a netns id in this one: a container's end of a veth is in one of them.
    pub(super) other_netns: bool,
}

impl TableWatch {
    /// Opens a watch in a namespace. `wake` is notified of changes. `receive_buffer` is the socket's buffer, in bytes.
    pub(super) fn open(
        netns: &Netns,
        wake: Arc<Notify>,
        receive_buffer: usize,
        subscriptions: Subscriptions,
    ) -> Result<Self, KernelError> {
        let runtime = Handle::current();
        let socket = netns
            .within(|| {
                let _guard = runtime.enter();
                open(receive_buffer, subscriptions)
            })?
            .map_err(KernelError::Socket)?;
        let dirty = Arc::new(AtomicBool::new(true));
        let task = runtime.spawn(listen(socket, Arc::clone(&dirty), wake)).abort_handle();
        Ok(Self { dirty, subscriptions, task })
    }

    pub(super) fn subscriptions(&self) -> Subscriptions {
        self.subscriptions
    }

    /// Whether the tables changed since the last call. True at the first call.
    pub(super) fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::AcqRel)
    }

    /// Makes the next [`Self::take_dirty`] true.
    pub(super) fn set_dirty(&self) {
        self.dirty.store(true, Ordering::Release);
    }
}

impl Drop for TableWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn open(receive_buffer: usize, subscriptions: Subscriptions) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let mut groups = vec![MulticastGroup::Link, MulticastGroup::Neigh];
    if subscriptions.routes {
        groups.extend(ROUTING);
    }
    socket.socket_mut().bind(&SocketAddr::new(0, mask(groups)))?;
    // The kernel limits the size to `net.core.rmem_max`.
    socket.socket_mut().set_rx_buf_sz(libc::c_int::try_from(receive_buffer).unwrap_or(libc::c_int::MAX))?;
    if subscriptions.other_netns {
        // Without the capability, the periodic read finds such changes.
        let _ = socket.socket_mut().set_listen_all_namespaces(true);
    }
    Ok(socket)
}

async fn listen(socket: TokioSocket, dirty: Arc<AtomicBool>, wake: Arc<Notify>) {
    loop {
        let is_relevant = match socket.recv_from_full().await {
            Ok((datagram, _)) => is_relevant(&datagram),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                drain(&socket);
                true
            }
            // The periodic read still finds changes.
            Err(error) => {
                tracing::warn!("kernel events cannot be received ({error}), changes are found by polling");
                return;
            }
        };
        if is_relevant {
            dirty.store(true, Ordering::Release);
            wake.notify_one();
        }
    }
}

/// Empties the socket after an overrun: the kernel reports the next loss only after the socket was empty.
fn drain(socket: &TokioSocket) {
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        buffer.clear();
        match socket.socket_ref().recv_from(&mut buffer, libc::MSG_DONTWAIT) {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return,
            _ => {}
        }
    }
}

/// Whether a datagram has more than IP neighbours, which change often and are not used.
fn is_relevant(mut datagram: &[u8]) -> bool {
    /// `RTM_NEWNEIGH`, `RTM_DELNEIGH`.
    const NEIGHBOUR: [u16; 2] = [28, 29];
    /// Offset of `ndm_family`, after the netlink header.
    const FAMILY: usize = 16;
    while !datagram.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(datagram) else { return true };
        let is_ip = datagram.get(FAMILY).is_some_and(|family| i32::from(*family) != libc::AF_BRIDGE);
        if !(NEIGHBOUR.contains(&message.message_type()) && is_ip) {
            return true;
        }
        datagram = datagram.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// Reports created and deleted files of a directory.
pub(super) struct DirectoryWatch {
    path: PathBuf,
    /// `None`: no inotify instance; the directory is polled.
    watcher: Option<RecommendedWatcher>,
    /// The directory that is watched: device and inode.
    watched: Option<(u64, u64)>,
}

impl DirectoryWatch {
    pub(super) fn new(path: &Path, wake: Arc<Notify>) -> Self {
        // Reads of the directory cause access events.
        Self { path: path.into(), watcher: watcher(path, wake, |_| true), watched: None }
    }

    /// Watches the directory at the path. Called before every read: a directory that is deleted and recreated has a new
    /// inode.
    pub(super) fn renew(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let now = std::fs::metadata(&self.path).ok().map(|meta| (meta.dev(), meta.ino()));
        if now != self.watched {
            // The kernel removes the watch of a deleted directory.
            let _ = watcher.unwatch(&self.path);
            self.watched = now.filter(|_| watcher.watch(&self.path, RecursiveMode::NonRecursive).is_ok());
        }
    }
}
