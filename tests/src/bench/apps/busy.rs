//! Busy time of CPUs, from `/proc/stat`.

use std::fs;

use anyhow::{Context, Result};

/// Units of `/proc/stat` per second (`USER_HZ`, `include/asm-generic/param.h`).
const USER_HZ: f64 = 100.0;

/// The busy time of some CPUs since a point in time.
#[derive(Debug)]
pub(super) struct Busy {
    /// Empty: all CPUs.
    cpus: Vec<usize>,
    before: f64,
}

impl Busy {
    /// Starts now. Without a CPU, all CPUs count.
    pub(super) fn start(cpus: [Option<usize>; 2]) -> Result<Self> {
        let cpus: Vec<usize> = cpus.into_iter().flatten().collect();
        Ok(Self { before: read(&cpus)?, cpus })
    }

    /// Busy time in µs until now.
    pub(super) fn microseconds(&self) -> Result<f64> {
        Ok((read(&self.cpus)? - self.before) * 1e6)
    }
}

fn read(cpus: &[usize]) -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_seconds(&text, cpus)
}

/// Sum of user, nice, system, irq and softirq: without idle, iowait and steal.
fn busy_seconds(stat: &str, cpus: &[usize]) -> Result<f64> {
    let names = cpus.iter().map(|cpu| format!("cpu{cpu}"));
    // The line `cpu` is the sum of all.
    let names: Vec<String> = if cpus.is_empty() { vec!["cpu".to_owned()] } else { names.collect() };
    let mut ticks = 0.0;
    for name in names {
        let line = stat.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
        let fields: Vec<f64> =
            line.unwrap_or_default().split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
            anyhow::bail!("/proc/stat has no line {name}");
        };
        ticks += user + nice + system + irq + softirq;
    }
    Ok(ticks / USER_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  1300 12 900 50000 40 7 123 456 0 0\n\
                        cpu0 300 2 400 25000 10 3 100 200 0 0\n\
                        cpu1 1000 10 500 25000 30 4 23 256 0 0\n\
                        intr 123456 0 9\n";

    #[test]
    fn busy_time_is_without_idle_iowait_and_steal() {
        assert_eq!(busy_seconds(STAT, &[0]).unwrap(), 8.05);
        assert_eq!(busy_seconds(STAT, &[0, 1]).unwrap(), 8.05 + 15.37);
        assert_eq!(busy_seconds(STAT, &[]).unwrap(), 23.42);
        assert!(busy_seconds(STAT, &[2]).is_err());
    }
}
