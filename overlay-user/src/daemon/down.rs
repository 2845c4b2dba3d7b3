//! Removes everything that a daemon has created, and nothing else.

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

/// Timeout for the daemon to stop.
const TIMEOUT: Duration = Duration::from_secs(25);

/// `down` has not removed everything.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// Missing capabilities. Nothing was removed.
    #[error(transparent)]
    Privileges(#[from] PreflightError),
    /// The pin root cannot be used. Nothing was removed.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The daemon does not stop. Nothing was removed.
    #[error("the daemon (pid {0}) does not stop after SIGTERM; kill it, then run `overlay down` again")]
    Daemon(i32),
    /// Some objects could not be removed. All others were.
    #[error("{0}\nall other objects are removed; fix the cause, then run `overlay down` again")]
    Remaining(Remaining),
}

/// Objects that could not be removed. Each line has the object, the problem and the remedy.
#[derive(Debug, Default)]
pub struct Remaining(Vec<String>);

impl Remaining {
    fn add(&mut self, line: String) {
        // The removal of a pin is tried with its program and again with its directory.
        if !self.0.contains(&line) {
            self.0.push(line);
        }
    }

    /// Adds a failure.
    pub(super) fn add_error(&mut self, error: impl Into<DaemonError>) {
        let error = error.into();
        let remedy = match &error {
            DaemonError::Pin(_) | DaemonError::Attach(_) | DaemonError::Host(HostError::Ledger(_)) => {
                "make the BPF filesystem writable, and unmount file systems below the pin root"
            }
            _ => "see the kernel log, or remove the object by hand (`ip link delete`)",
        };
        error.to_string().lines().for_each(|line| self.add(format!("{line}; {remedy}")));
    }

    /// The value of a result; a failure is added.
    pub(super) fn take<T>(&mut self, result: Result<T, impl Into<DaemonError>>) -> Option<T> {
        result.map_err(|error| self.add_error(error)).ok()
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Stops the daemon at this pin root, detaches the programs, removes the links, FDB entries and neighbours that it
/// created, and removes the pins. Packets take the kernel path from the first step on, until its devices are removed.
///
/// # Errors
/// [`DownError`]; objects that could not be removed stay recorded for a second try.
pub async fn down(pin_root: &Path) -> Result<(), DownError> {
    let root = PinRoot::open(pin_root)?;
    privileges::check(Reach::Host)?;
    stop_daemon(&root).await?;
    let ledger = root.lock()?;
    let mut left = Remaining::default();
    // This process holds the lock now, and the recorded pid is stale.
    for fact in [Fact::PID, Fact::STATE] {
        left.take(ledger.clear(fact));
    }
    empty_maps(&ledger);
    let sandboxes = left.take(sandbox::Sandboxes::read(ledger.root())).unwrap_or_default();
    for hook in left.take(ledger.root().hooks()).unwrap_or_default() {
        left.take(bpf::detach(&ledger, hook, sandboxes.open(hook.netns_id()).as_ref()));
    }
    let owned = left.take(ledger.root().owned()).unwrap_or_default();
    // A filter that could not be removed needs its qdisc and the record of its netns.
    let is_detached = !owned.iter().any(|owned| matches!(owned, Owned::Filter(_)));
    if let Some(host) = left.take(Host::open()) {
        for owned in &owned {
            match owned {
                Owned::Shim(vni) => _ = left.take(sandbox::remove_shim(&host, &ledger, *vni).await),
                Owned::Netns(number, netns) if is_detached => {
                    let failed = sandbox::remove_netns(&ledger, *number, netns).await;
                    failed.into_iter().for_each(|error| left.add_error(error));
                }
                // A qdisc that holds filters of another program stays.
                Owned::Clsact(PortKey { netns_id: 0, ifindex }) if is_detached => {
                    let removed = host.delete_idle_clsact(*ifindex).await;
                    left.take(removed.map_err(DaemonError::from).and_then(|()| Ok(ledger.forget(owned)?)));
                }
                // Links and ports are removed in order below; filters are detached above.
                _ => {}
            }
        }
        let seen = remove_links(&host, &ledger, &mut left).await;
        left.take(seen);
    }
    for owned in &owned {
        let Owned::Socket(path) = owned else { continue };
        match socket::remove_stale(path) {
            Ok(()) => _ = left.take(ledger.forget(owned)),
            Err(error) => left.add(error.to_string()),
        }
    }
    ledger.remove_pins().into_iter().for_each(|error| left.add_error(error));
    let failed = if left.0.is_empty() { ledger.remove_record() } else { ledger.reduce_record() };
    failed.into_iter().for_each(|error| left.add_error(error));
    if left.0.is_empty() { Ok(()) } else { Err(DownError::Remaining(left)) }
}

/// Removes the recorded links and bridge memberships in this namespace, with their entries.
///
/// # Errors
/// When the links cannot be read; other failures are added to `left`.
async fn remove_links(host: &Host, ledger: &Ledger, left: &mut Remaining) -> Result<(), DaemonError> {
    let mut snapshot = host.snapshot();
    for error in host.remove_unfinished(ledger, &mut snapshot).await? {
        left.add_error(error);
    }
    let nothing = DesiredHost::default();
    let found = snapshot.state(&nothing, &ledger.root().owned()?).await?;
    let plan = HostChanges::between(&found, &nothing);
    left.take(host.apply(&plan, Phase::Remove, ledger, &mut snapshot).await.map_err(DaemonError::from));
    // A recorded link that still exists is reported already, or has lost the owner mark.
    let links = snapshot.links().await?;
    for owned in ledger.root().owned()? {
        let Owned::Link(name) = &owned else { continue };
        match links.iter().find(|link| link.name == *name) {
            None => _ = left.take(ledger.forget(&owned)),
            Some(link) if link.alias.is_some() && !link.is_owned() => left.add(format!(
                "interface {name}: it is in the ownership record, but its alias is not overlay's; remove it \
                 (`ip link delete {name}`), or rename it"
            )),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Makes all packets fall back to the kernel path at once. The kernel releases a link some time after its last pin is
/// removed, and until then its program must not send packets to removed interfaces.
fn empty_maps(ledger: &Ledger) {
    // A map that cannot be emptied is removed with its programs.
    if let Err(error) = bpf::empty(ledger) {
        debug!("cannot empty the maps: {error}");
    }
}

async fn stop_daemon(root: &PinRoot) -> Result<(), DownError> {
    let Some(pid) = root.daemon_pid() else { return Ok(()) };
    if pid == std::process::id().cast_signed() {
        return Ok(());
    }
    // The pid is trusted: only the daemon's user and root can hold the lock and write it. A failure means that the
    // process has exited.
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    let deadline = Instant::now() + TIMEOUT;
    while root.daemon_pid().is_some() {
        if Instant::now() > deadline {
            return Err(DownError::Daemon(pid));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
