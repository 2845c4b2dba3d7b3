//! Places at which a test can have the daemon die. Release builds have none.

/// Ends this process as `kill -9` would, when the environment variable `OVERLAY_DIE_AT` names this place: `renamed`, or
/// `renamed:3` for the third time that it is passed.
#[cfg(debug_assertions)]
pub(crate) fn point(place: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};

    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Ok(wanted) = std::env::var("OVERLAY_DIE_AT") else { return };
    let (name, times) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if name == place && times.parse() == Ok(PASSED.fetch_add(1, Ordering::Relaxed) + 1) {
        // SAFETY: plain numbers; the process is this one.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) const fn point(_place: &str) {}
