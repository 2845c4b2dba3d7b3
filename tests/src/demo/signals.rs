//! Ctrl-C, SIGTERM and a closed terminal end the demo the way an error does: everything is cleaned up.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

static STOP: AtomicBool = AtomicBool::new(false);

/// Somebody asked the demo to end.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

extern "C" fn note(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// From now on the signals only set a flag.
pub(crate) fn install() -> Result<()> {
    let handler: extern "C" fn(libc::c_int) = note;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler stores to an atomic and does nothing else.
        let previous = unsafe { libc::signal(signal, handler as libc::sighandler_t) };
        if previous == libc::SIG_ERR {
            return Err(io::Error::last_os_error()).context("cannot handle signals");
        }
    }
    Ok(())
}

/// Whether one has come.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Ends the work here if one has come.
pub(crate) fn check() -> Result<()> {
    if stopped() { Err(Interrupted.into()) } else { Ok(()) }
}

/// Waits, but not longer than until one comes.
pub(crate) fn sleep(time: Duration) {
    let start = Instant::now();
    while !stopped() && start.elapsed() < time {
        std::thread::sleep(Duration::from_millis(50).min(time));
    }
}
