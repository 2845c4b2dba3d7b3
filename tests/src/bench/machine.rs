//! The machine of the measurement.

use std::{fmt, fs};

use anyhow::{Context, Result};
use serde::Serialize;

/// A machine with a load average up to this is idle.
const IDLE: f64 = 0.3;

/// The machine and its load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(super) cpu: String,
    pub(super) cpus: usize,
    pub(super) memory_mib: u64,
    pub(crate) kernel: String,
    /// Load average over one minute at the beginning of the run. It must be near 0 for valid figures.
    pub(crate) load_before: f64,
}

impl Machine {
    pub(crate) fn read() -> Result<Self> {
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

/// CPU time of the whole machine since boot, in clock ticks (`/proc/stat`, proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuTime {
    busy: u64,
    steal: u64,
    total: u64,
}

/// Use of the CPUs in a period, in percent of their time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct CpuUse {
    /// Used by processes and by the kernel of this machine.
    pub(crate) busy_percent: f64,
    /// Used by the hypervisor for other virtual machines.
    pub(crate) steal_percent: f64,
}

impl CpuTime {
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&text).context("/proc/stat has no CPU times")
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // Guest time, which follows, is part of user time.
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        let [_user, _nice, _system, idle, iowait, _irq, _softirq, steal] = ticks[..] else { return None };
        let total = ticks.iter().sum();
        Some(Self { busy: total - idle - iowait - steal, steal, total })
    }

    /// The use of the CPUs since `before`. A period without ticks has a use of 0.
    pub(crate) fn since(self, before: Self) -> CpuUse {
        // The kernel's sums of idle time can decrease.
        let period = self.total.saturating_sub(before.total).max(1) as f64;
        let percent = |now: u64, before: u64| (now.saturating_sub(before) as f64 / period * 100.0).min(100.0);
        CpuUse { busy_percent: percent(self.busy, before.busy), steal_percent: percent(self.steal, before.steal) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_of_the_cpus_is_the_share_of_the_ticks_in_the_period() {
        let before = CpuTime::parse("cpu  100 0 50 1000 10 0 5 7 0 0\ncpu0 1 2 3 4 5 6 7 8\n").unwrap();
        let after = CpuTime::parse("cpu  130 2 60 1040 10 1 12 17 9 9\n").unwrap();
        assert_eq!(after.since(before), CpuUse { busy_percent: 50.0, steal_percent: 10.0 });
        assert_eq!(after.since(after), CpuUse { busy_percent: 0.0, steal_percent: 0.0 });
    }

    #[test]
    fn file_without_cpu_times_is_refused() {
        assert_eq!(CpuTime::parse("cpu  1 2 3\n"), None);
        assert_eq!(CpuTime::parse("intr 1\n"), None);
    }
}
