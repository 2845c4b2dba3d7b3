//! Refusals of the kernel on demand, for tests: memory that runs out, a table of the kernel that cannot be changed.
//!
//! Nothing outside a daemon can make the kernel refuse one kind of request, for a while, and no other. So a build with debug
//! assertions asks here first: the file that `OVERLAY_FAULTS` names has a line `<place> <errno>` for each place where the
//! kernel refuses, for as long as the line is there. In a release build nothing of this exists.

use std::io;

/// Where the kernel can be made to refuse.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(debug_assertions), expect(dead_code, reason = "nothing is injected in a release build"))]
pub(crate) enum Place {
    /// `map:<name>`: an entry of this map is written or removed.
    Map(&'static str),
    /// `load`: a program is loaded.
    Load,
    /// `attach:<program>`: a program is attached.
    Attach(&'static str),
    /// `netlink`: a link, an entry of an FDB or a neighbour is changed.
    Netlink,
}

/// An error where a refusal is asked for.
#[cfg(debug_assertions)]
pub(crate) fn at(place: Place) -> io::Result<()> {
    use std::{env, fs, path::PathBuf, sync::OnceLock};
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(file) = FILE.get_or_init(|| env::var_os("OVERLAY_FAULTS").map(PathBuf::from)) else { return Ok(()) };
    let place = match place {
        Place::Map(name) => format!("map:{name}"),
        Place::Load => "load".to_owned(),
        Place::Attach(program) => format!("attach:{program}"),
        Place::Netlink => "netlink".to_owned(),
    };
    let asked = fs::read_to_string(file).unwrap_or_default();
    let errno = asked.lines().find_map(|line| line.strip_prefix(&place)?.trim().parse().ok());
    errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

/// Never an error.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) const fn at(_: Place) -> io::Result<()> {
    Ok(())
}
