//! Events: a namespace's tables over netlink, the directory of namespaces over inotify.

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use overlay_common::MacAddr;
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkBuffer,
    sys::{AsyncSocket as _, TokioSocket},
};
use tokio::{runtime::Handle, sync::Notify, task::AbortHandle};

use crate::{
    kernel::{KernelError, Learned, NEIGHBOUR, Neighbours, ROUTING, learned, subscribe},
    sources::watcher,
    sys::{netlink::raw::drain, netns::Netns},
};

/// Reports changes of the tables of one namespace until dropped.
#[derive(Debug)]
pub(super) struct TableWatch {
    pending: Arc<Mutex<Pending>>,
    subscriptions: Subscriptions,
    task: AbortHandle,
}

/// Events since the last read of the tables, and the addresses that matter.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// Links, entries that are not learned, or routes were changed.
    pub(super) is_changed: bool,
    /// Learned entries that matter were changed.
    pub(super) is_learned: bool,
    /// Important addresses with learned entries at another place than before, or without one.
    pub(super) moved: HashSet<MacAddr>,
    /// Events were lost: any entry may be stale.
    pub(super) is_lost: bool,
    /// No events are received.
    pub(super) is_closed: bool,
    /// `None`: nothing has been read, and every learned entry matters.
    important: Option<Important>,
}

/// Learned entries that matter, of the last read. A container can cause any number of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Important {
    /// Addresses of containers and of entries that are not learned, and the device at which the bridge finds them;
    /// `None`: it is ambiguous.
    pub(super) macs: HashMap<MacAddr, Option<u32>>,
    /// Ports whose address is the only one that the bridge has learned.
    pub(super) ports: HashSet<u32>,
}

impl Important {
    /// Whether it has everything that `other` has.
    fn covers(&self, other: &Self) -> bool {
        other.macs.keys().all(|mac| self.macs.contains_key(mac)) && other.ports.is_subset(&self.ports)
    }
}

impl Pending {
    /// Whether the tables must be read again.
    pub(super) const fn is_dirty(&self) -> bool {
        self.is_changed || self.is_learned || self.is_lost
    }

    /// Sets the learned entries that matter, from a read that has just ended. Events of other entries were ignored, so
    /// if there are new ones another read is needed.
    pub(super) fn set_important(&mut self, important: Important) {
        self.is_changed |= self.important.as_ref().is_some_and(|known| !known.covers(&important));
        self.important = Some(important);
    }

    /// Takes a datagram. Returns whether it changes anything.
    pub(super) fn take(&mut self, mut datagram: &[u8]) -> bool {
        /// Length of a netlink header.
        const HEADER: usize = 16;
        let mut is_news = false;
        while !datagram.is_empty() {
            let message = NetlinkBuffer::new_checked(datagram).ok();
            let length = message.as_ref().map_or(datagram.len(), |message| message.length() as usize);
            let is_new = message.as_ref().is_some_and(|message| message.message_type() == NEIGHBOUR[0]);
            let is_neighbour = message.is_some_and(|message| NEIGHBOUR.contains(&message.message_type()));
            let body = datagram.get(HEADER..length).filter(|_| is_neighbour);
            is_news |= match body.and_then(learned) {
                Some(entry) => self.take_learned(entry, is_new),
                None => !std::mem::replace(&mut self.is_changed, true),
            };
            datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        is_news
    }

    fn take_learned(&mut self, entry: Learned, is_new: bool) -> bool {
        let Learned { ifindex, mac, own } = entry;
        let Some(important) = &self.important else { return !std::mem::replace(&mut self.is_learned, true) };
        let is_moved = match important.macs.get(&mac) {
            Some(place) => !(is_new && !own && *place == Some(ifindex)),
            None if is_new && !own && important.ports.contains(&ifindex) => false,
            None => return false,
        };
        let is_news = !std::mem::replace(&mut self.is_learned, true);
        is_news | (is_moved && self.moved.insert(mac))
    }
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
        let pending = Arc::new(Mutex::new(Pending { is_changed: true, ..Pending::default() }));
        let task = runtime.spawn(listen(socket, Arc::clone(&pending), wake)).abort_handle();
        Ok(Self { pending, subscriptions, task })
    }

    pub(super) fn subscriptions(&self) -> Subscriptions {
        self.subscriptions
    }

    /// The events since the last call of [`Self::begin_read`].
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }

    /// Forgets the events before a read of the tables.
    pub(super) fn begin_read(&self) {
        let mut pending = self.pending();
        *pending = Pending { important: pending.important.take(), is_closed: pending.is_closed, ..Pending::default() };
    }
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for TableWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn open(receive_buffer: usize, subscriptions: Subscriptions) -> io::Result<TokioSocket> {
    let mut groups = vec![MulticastGroup::Link, MulticastGroup::Neigh];
    if subscriptions.routes {
        groups.extend(ROUTING);
    }
    let mut socket = subscribe(&groups, Neighbours::Bridge, receive_buffer)?;
    if subscriptions.other_netns {
        // Without the capability, the periodic read finds such changes.
        let _ = socket.socket_mut().set_listen_all_namespaces(true);
    }
    Ok(socket)
}

async fn listen(socket: TokioSocket, pending: Arc<Mutex<Pending>>, wake: Arc<Notify>) {
    /// Buffer for one datagram, in bytes: the kernel sends at most 32 KiB.
    const DATAGRAM: usize = 64 << 10;
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        let received = poll_fn(|cx| socket.poll_recv_from(cx, &mut buffer)).await;
        let is_news = match received {
            Ok(_) => lock(&pending).take(&buffer),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                // The kernel reports the next loss only after the socket was empty.
                drain(socket.socket_ref());
                !std::mem::replace(&mut lock(&pending).is_lost, true)
            }
            Err(error) => {
                tracing::warn!("kernel events cannot be received: {error}");
                lock(&pending).is_closed = true;
                wake.notify_one();
                return;
            }
        };
        if is_news {
            wake.notify_one();
        }
    }
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
