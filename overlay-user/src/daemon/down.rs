//! Takes back everything that a daemon has made, and nothing else.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{DaemonError, PreflightError, privileges, reconcile, sandbox};
use crate::{
    api,
    datapath::{self, AttachError, PinError, PinRoot},
    host::{self, DesiredHost, Host, HostError},
};

/// Kind of the mark that names the daemon's socket.
pub(super) const SOCKET: &str = "socket";
/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(25);

/// What could not be taken back. Everything else was.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// Missing capabilities.
    #[error(transparent)]
    Privileges(#[from] PreflightError),
    /// The pin root.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The daemon does not end.
    #[error("the daemon (pid {0}) does not end after SIGTERM; end it, then run `overlay down` again")]
    Daemon(i32),
    /// A hook.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The kernel's objects.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Reading the record.
    #[error(transparent)]
    Record(#[from] Box<DaemonError>),
}

/// Ends the daemon at this pin root, detaches the programs, removes what it made of links, FDB entries and neighbours,
/// and removes the pins. Packets go the kernel's way from the first step on, for as long as there is one.
///
/// # Errors
/// [`DownError`]; what could not be removed stays recorded, so that a second try can.
pub async fn down(pin_root: &Path) -> Result<(), DownError> {
    let root = PinRoot::open(pin_root)?;
    privileges::check(false)?;
    end_daemon(&root).await?;
    let _lock = root.lock()?;
    // The lock is this process's now, and the number that of nobody.
    for pid in root.marks("pid")? {
        root.unmark("pid", &pid)?;
    }
    empty_maps(&root);
    let sandboxes = sandbox::Sandboxes::read(&root)?;
    for hook in datapath::attached(&root)? {
        datapath::detach(&root, hook, sandboxes.open(hook.site()).as_ref())?;
    }
    let host = Host::open()?;
    sandbox::remove_all(&host, &root).await.map_err(Box::new)?;
    for ifindex in root.marks("clsact")? {
        if let Ok(number) = ifindex.parse() {
            // A qdisc that holds somebody else's filters by now stays.
            if let Err(error) = host.delete_idle_clsact(number).await {
                warn!("{error}");
            }
        }
        root.unmark("clsact", &ifindex)?;
    }
    let nothing = DesiredHost::default();
    let made = reconcile::made(&root).map_err(Box::new)?;
    host.remove_unfinished(&made).await?;
    let state = host.state(&nothing, &made).await?;
    let plan = host::plan(&nothing, &state);
    for changes in [&plan.before, &plan.after] {
        reconcile::apply(&host, &root, changes).await.map_err(Box::new)?;
    }
    for path in root.marks(SOCKET)? {
        // A name that is taken keeps no daemon from starting.
        if let Err(error) = api::remove_dead(Path::new(&path)) {
            warn!("{error}");
        }
    }
    Ok(root.remove()?)
}

/// Sends all packets the kernel's way at once. The kernel releases a link some time after its last pin is gone, and until
/// then its program must not send packets where there is nothing any more.
fn empty_maps(root: &PinRoot) {
    // What cannot be emptied goes with its programs.
    if let Err(error) = datapath::empty(root) {
        debug!("the maps are not emptied first: {error}");
    }
}

async fn end_daemon(root: &PinRoot) -> Result<(), DownError> {
    let Some(pid) = root.daemon_pid() else { return Ok(()) };
    if pid == std::process::id().cast_signed() {
        return Ok(());
    }
    // SAFETY: plain numbers. Somebody holds the pin root's lock: who may, may also write there who it is, and ends with it no
    // other than its own user's processes, unless it deceives root.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    let deadline = Instant::now() + PATIENCE;
    while root.daemon_pid().is_some() {
        if Instant::now() > deadline {
            return Err(DownError::Daemon(pid));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
