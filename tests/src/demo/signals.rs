//! SIGINT, SIGTERM and SIGHUP end the demo the way an error does, with all cleanup.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

static STOP: AtomicBool = AtomicBool::new(false);

/// A signal ended the demo.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

extern "C" fn set_stop_flag(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Installs handlers that only set a flag.
pub(crate) fn install() -> Result<()> {
    let handler: extern "C" fn(libc::c_int) = set_stop_flag;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler stores to an atomic and does nothing else.
        let previous = unsafe { libc::signal(signal, handler as libc::sighandler_t) };
        if previous == libc::SIG_ERR {
            return Err(io::Error::last_os_error()).context("cannot handle signals");
        }
    }
    Ok(())
}

/// Whether a signal has arrived.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Returns [`Interrupted`] if a signal has arrived.
pub(crate) fn check() -> Result<()> {
    if stopped() { Err(Interrupted.into()) } else { Ok(()) }
}

/// Sleeps for `time` or until a signal arrives.
pub(crate) fn sleep(time: Duration) {
    let start = Instant::now();
    while !stopped() && start.elapsed() < time {
        std::thread::sleep(Duration::from_millis(50).min(time));
    }
}
