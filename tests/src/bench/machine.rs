//! The machine of the measurement.

use std::{fmt, fs};

use anyhow::{Context, Result};
use serde::Serialize;

/// A machine with a load average up to this is idle.
const IDLE: f64 = 0.3;

/// The machine and its load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cpus: usize,
    pub(super) memory_mib: u64,
    pub(super) kernel: String,
    /// Load average over one minute at the beginning of the run. It must be near 0 for valid figures.
    pub(super) load_before: f64,
}

impl Machine {
    pub(super) fn read() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let cpu = field(&read("/proc/cpuinfo")?, "model name").unwrap_or_else(|| "unknown CPU".to_owned());
        let memory = field(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
        let kib: u64 = memory.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default();
        Ok(Self {
            cpu,
            cpus: std::thread::available_parallelism()?.get(),
            memory_mib: kib >> 10,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_before: load()?,
        })
    }
}

impl Machine {
    /// Warning for the report if the machine was not idle.
    pub(super) fn warning(&self) -> Option<String> {
        let busy = self.load_before > IDLE;
        busy.then(|| {
            let load = self.load_before;
            format!(
                "**The machine was busy before the run (load average {load:.2}): do not use these figures; repeat the \
                 run on an idle machine.**"
            )
        })
    }
}

/// Load average over one minute.
pub(super) fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    text.split(' ').next().and_then(|number| number.parse().ok()).context("/proc/loadavg has no number")
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cpus, memory_mib, kernel, load_before } = self;
        let gib = memory_mib.div_ceil(1024);
        write!(f, "{cpu}, {cpus} CPUs, {gib} GiB, Linux {kernel}; load average before the run {load_before:.2}")
    }
}
