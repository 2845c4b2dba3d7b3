//! Events of rules: changes of nftables and of XFRM policies.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rtnetlink::sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_XFRM},
};
use tokio::{runtime::Handle, sync::Notify, task::AbortHandle};

use crate::sys::{
    netlink::{connection::kinds, raw::drain},
    netns::{Netns, NetnsError},
};

/// A multicast group with changes of rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuleEvents {
    protocol: isize,
    group: u32,
    /// The message at the end of a transaction; `None`: each message is a change.
    end: Option<u16>,
}

/// `NFNLGRP_NFTABLES`; `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`.
pub(crate) const NFTABLES: RuleEvents = RuleEvents { protocol: NETLINK_NETFILTER, group: 7, end: Some(0x0a0f) };
/// `XFRMNLGRP_POLICY`, which also has changes of the default policy (`xfrm_notify_userpolicy` in net/xfrm/xfrm_user.c).
pub(crate) const XFRM_POLICIES: RuleEvents = RuleEvents { protocol: NETLINK_XFRM, group: 4, end: None };

/// Reports changes of the rules of one namespace until dropped.
#[derive(Debug)]
pub(crate) struct RuleWatch {
    changed: Arc<AtomicBool>,
    tasks: Vec<AbortHandle>,
}

impl RuleWatch {
    /// Opens a watch in a namespace, on the current tokio runtime. `wake` is notified of changes. What the kernel does not
    /// support, or the daemon may not receive, has no events.
    ///
    /// # Errors
    /// [`NetnsError`] if the namespace cannot be entered.
    pub(crate) fn open(of: &[RuleEvents], netns: &Netns, wake: &Arc<Notify>) -> Result<Self, NetnsError> {
        let runtime = Handle::current();
        let sockets = netns.within(|| {
            let _guard = runtime.enter();
            subscribe(of)
        })?;
        Ok(Self::spawn(sockets, wake))
    }

    /// [`Self::open`] in the calling thread's namespace, which needs no capability to enter it.
    pub(crate) fn here(of: &[RuleEvents], wake: &Arc<Notify>) -> Self {
        Self::spawn(subscribe(of), wake)
    }

    fn spawn(sockets: Vec<(TokioSocket, RuleEvents)>, wake: &Arc<Notify>) -> Self {
        let changed = Arc::new(AtomicBool::new(true));
        let listen = |(socket, of)| tokio::spawn(listen(socket, of, Arc::clone(&changed), Arc::clone(wake)));
        let tasks = sockets.into_iter().map(|socket| listen(socket).abort_handle()).collect();
        Self { changed, tasks }
    }

    /// Whether the rules changed since the last call. True at the first call.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }
}

impl Drop for RuleWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl RuleEvents {
    fn subscribe(self) -> io::Result<TokioSocket> {
        let mut socket = TokioSocket::new(self.protocol)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 1 << (self.group - 1)))?;
        Ok(socket)
    }
}

fn subscribe(of: &[RuleEvents]) -> Vec<(TokioSocket, RuleEvents)> {
    of.iter().filter_map(|of| Some((of.subscribe().ok()?, *of))).collect()
}

async fn listen(socket: TokioSocket, of: RuleEvents, changed: Arc<AtomicBool>, wake: Arc<Notify>) {
    loop {
        let is_change = match socket.recv_from_full().await {
            Ok((datagram, _)) => of.end.is_none_or(|end| kinds(&datagram).any(|kind| kind == end)),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                // The kernel reports the next loss only after the socket was empty.
                drain(socket.socket_ref());
                true
            }
            Err(error) => {
                tracing::warn!("events of rules cannot be received ({error}), changes are found by polling");
                return;
            }
        };
        if is_change {
            changed.store(true, Ordering::Release);
            wake.notify_one();
        }
    }
}

#[cfg(test)]
#[path = "rule_watch_tests.rs"]
mod tests;
