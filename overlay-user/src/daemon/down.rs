//! Takes back everything that a daemon has made, and nothing else.

use std::{fmt, path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use overlay_common::maps::PortKey;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{DaemonError, PreflightError, Reach, privileges, sandbox};
use crate::{
    apply::{
        bpf,
        ledger::{Fact, Ledger, Owned, PinError, PinRoot},
        net::HostError,
        socket,
    },
    kernel::Host,
    plan::host::{DesiredHost, HostChanges, Phase},
};

/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(25);

/// Why `down` has not removed everything.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// Missing capabilities. Nothing was removed.
    #[error(transparent)]
    Privileges(#[from] PreflightError),
    /// The pin root cannot be used. Nothing was removed.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The daemon does not end. Nothing was removed.
    #[error("the daemon (pid {0}) does not end after SIGTERM; end it, then run `overlay down` again")]
    Daemon(i32),
    /// Some objects could not be removed. All others were.
    #[error(
        "{0}\neverything else is removed, and these objects stay recorded; fix the cause, then run `overlay down` again"
    )]
    Left(Left),
}

/// What could not be removed. Each line has the object, what is wrong, and the remedy.
#[derive(Debug, Default)]
pub struct Left(Vec<String>);

impl Left {
    fn add(&mut self, line: String) {
        // A pin is tried where its program is detached, and once more with the directory that it is in.
        if !self.0.contains(&line) {
            self.0.push(line);
        }
    }

    /// Takes a failure in.
    pub(super) fn failed(&mut self, error: impl Into<DaemonError>) {
        let error = error.into();
        let remedy = match &error {
            DaemonError::Pin(_) | DaemonError::Attach(_) | DaemonError::Host(HostError::Ledger(_)) => {
                "make the BPF filesystem writable, and unmount what is mounted over the pin"
            }
            _ => "see what the kernel lacks, or remove it by hand (`ip link delete`)",
        };
        error.to_string().lines().for_each(|line| self.add(format!("{line}; {remedy}")));
    }

    /// Takes a result's failure in; what there is without one.
    pub(super) fn take<T>(&mut self, result: Result<T, impl Into<DaemonError>>) -> Option<T> {
        result.map_err(|error| self.failed(error)).ok()
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Ends the daemon at this pin root, detaches the programs, removes what it made of links, FDB entries and neighbours,
/// and removes the pins. Packets take the kernel path from the first step on, for as long as there is one.
///
/// # Errors
/// [`DownError`]; what could not be removed stays recorded, so that a second try can.
pub async fn down(pin_root: &Path) -> Result<(), DownError> {
    let root = PinRoot::open(pin_root)?;
    privileges::check(Reach::Host)?;
    end_daemon(&root).await?;
    let ledger = root.lock()?;
    let mut left = Left::default();
    // The lock is this process's now, and the number that of nobody.
    for fact in [Fact::PID, Fact::STATE] {
        left.take(ledger.clear(fact));
    }
    empty_maps(&ledger);
    let sandboxes = left.take(sandbox::Sandboxes::read(ledger.root())).unwrap_or_default();
    for hook in left.take(ledger.root().hooks()).unwrap_or_default() {
        left.take(bpf::detach(&ledger, hook, sandboxes.open(hook.netns_id()).as_ref()));
    }
    let owned = left.take(ledger.root().owned()).unwrap_or_default();
    // A filter that stays needs its qdisc, and the record of where that is.
    let is_detached = !owned.iter().any(|owned| matches!(owned, Owned::Filter(_)));
    if let Some(host) = left.take(Host::open()) {
        for owned in &owned {
            match owned {
                Owned::Shim(vni) => _ = left.take(sandbox::remove_shim(&host, &ledger, *vni).await),
                Owned::Netns(number, netns) if is_detached => {
                    let failed = sandbox::remove_netns(&ledger, *number, netns).await;
                    failed.into_iter().for_each(|error| left.failed(error));
                }
                // A qdisc that holds filters of another program stays.
                Owned::Clsact(PortKey { netns_id: 0, ifindex }) if is_detached => {
                    let removed = host.delete_idle_clsact(*ifindex).await;
                    left.take(removed.map_err(DaemonError::from).and_then(|()| Ok(ledger.forget(owned)?)));
                }
                // Links and ports have an order among them, and filters were detached.
                _ => {}
            }
        }
        let seen = remove_links(&host, &ledger, &mut left).await;
        left.take(seen);
    }
    for owned in &owned {
        let Owned::Socket(path) = owned else { continue };
        match socket::remove_dead(path) {
            Ok(()) => _ = left.take(ledger.forget(owned)),
            Err(error) => left.add(error.to_string()),
        }
    }
    ledger.remove_pins().into_iter().for_each(|error| left.failed(error));
    let failed = if left.0.is_empty() { ledger.remove_record() } else { ledger.reduce_record() };
    failed.into_iter().for_each(|error| left.failed(error));
    if left.0.is_empty() { Ok(()) } else { Err(DownError::Left(left)) }
}

/// Removes the links and memberships in this namespace that are recorded, with the entries on them.
///
/// # Errors
/// When it cannot be seen whether they are there; other failures are in `left`.
async fn remove_links(host: &Host, ledger: &Ledger, left: &mut Left) -> Result<(), DaemonError> {
    let mut snapshot = host.snapshot();
    for error in host.remove_unfinished(ledger, &mut snapshot).await? {
        left.failed(error);
    }
    let nothing = DesiredHost::default();
    let found = snapshot.state(&nothing, &ledger.root().owned()?).await?;
    let plan = HostChanges::between(&found, &nothing);
    left.take(host.apply(&plan, Phase::Remove, ledger, &mut snapshot).await.map_err(DaemonError::from));
    // What is recorded and there is reported already, or has lost our mark.
    let links = snapshot.links().await?;
    for owned in ledger.root().owned()? {
        let Owned::Link(name) = &owned else { continue };
        match links.iter().find(|link| link.name == *name) {
            None => _ = left.take(ledger.forget(&owned)),
            Some(link) if link.alias.is_some() && !link.is_ours() => left.add(format!(
                "interface {name}: the record says that overlay made it, and its alias does not; remove it \
                 (`ip link delete {name}`), or rename it"
            )),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Sends all packets the kernel's way at once. The kernel releases a link some time after its last pin is gone, and until
/// then its program must not send packets where there is nothing any more.
fn empty_maps(ledger: &Ledger) {
    // What cannot be emptied goes with its programs.
    if let Err(error) = bpf::empty(ledger) {
        debug!("the maps are not emptied first: {error}");
    }
}

async fn end_daemon(root: &PinRoot) -> Result<(), DownError> {
    let Some(pid) = root.daemon_pid() else { return Ok(()) };
    if pid == std::process::id().cast_signed() {
        return Ok(());
    }
    // The user that can hold the lock can write any number there, and is the daemon's user or root. Where the process has
    // ended already, there is nothing to wait for.
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    let deadline = Instant::now() + PATIENCE;
    while root.daemon_pid().is_some() {
        if Instant::now() > deadline {
            return Err(DownError::Daemon(pid));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
