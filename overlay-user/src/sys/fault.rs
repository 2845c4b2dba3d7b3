//! Fault injection for tests: requests that the kernel refuses, and a daemon that is killed during a takeover.
//!
//! No external tool can make the kernel refuse a single kind of request for some time. So a build with the feature
//! `testing` reads the file that `OVERLAY_FAULTS` names: a line `<point> <errno>` makes the requests at that point fail
//! while the line exists. Without the feature both functions are empty.

use std::io;

/// A fault point.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "only the feature `testing` injects faults"))]
pub(crate) enum Point {
    /// `map:<name>`: an entry of this map is written or removed.
    Map(&'static str),
    /// `load`: a program is loaded.
    Load,
    /// `attach:<program>`: a program is attached.
    Attach(&'static str),
    /// `dump`: links, addresses, entries of an FDB or neighbours are listed.
    Dump,
    /// `netlink`: a link, an entry of an FDB or a neighbour is changed.
    Netlink,
    /// `watch`: the store reports a change.
    Watch,
}

/// Returns the error that is injected at a fault point, if there is one.
#[cfg(feature = "testing")]
pub(crate) fn at(point: Point) -> io::Result<()> {
    use std::{env, fs, path::PathBuf, sync::OnceLock};
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(file) = FILE.get_or_init(|| env::var_os("OVERLAY_FAULTS").map(PathBuf::from)) else { return Ok(()) };
    let name = match point {
        Point::Map(name) => format!("map:{name}"),
        Point::Load => "load".to_owned(),
        Point::Attach(program) => format!("attach:{program}"),
        Point::Dump => "dump".to_owned(),
        Point::Netlink => "netlink".to_owned(),
        Point::Watch => "watch".to_owned(),
    };
    let faults = fs::read_to_string(file).unwrap_or_default();
    let errno = faults.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok());
    errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

/// Always succeeds.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) const fn at(_: Point) -> io::Result<()> {
    Ok(())
}

/// Kills this process with SIGKILL if the environment variable `OVERLAY_KILL_AT` names this point: `renamed`,
/// or `renamed:3` for the third call.
#[cfg(feature = "testing")]
pub(crate) fn kill_at(point: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};

    static CALLS: AtomicU32 = AtomicU32::new(0);
    let Ok(wanted) = std::env::var("OVERLAY_KILL_AT") else { return };
    let (name, times) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if name == point && times.parse() == Ok(CALLS.fetch_add(1, Ordering::Relaxed) + 1) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
    }
}

/// Does nothing.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) const fn kill_at(_point: &str) {}
