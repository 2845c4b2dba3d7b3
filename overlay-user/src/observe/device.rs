//! The kernel's packet counters of an interface.

use std::{fs, path::Path};

use crate::{api::types::DeviceCount, sys::netns::Netns};

/// Packets of an interface in the namespace at `netns`, or in the calling thread's; `None`: there is no such interface.
#[must_use]
pub(crate) fn device_count(netns: Option<&Path>, device: &str) -> Option<DeviceCount> {
    let read = || fs::read_to_string("/proc/thread-self/net/dev");
    let text = match netns {
        None => read(),
        Some(path) => Netns::open(path).ok()?.within(read).ok()?,
    };
    count(&text.ok()?, device)
}

/// Reads `/proc/net/dev` (`dev_seq_printf_stats` in `net/core/net-procfs.c`).
fn count(text: &str, device: &str) -> Option<DeviceCount> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    let columns: Vec<u64> = line.split_whitespace().map_while(|column| column.parse().ok()).collect();
    Some(DeviceCount { rx: *columns.get(1)?, tx: *columns.get(9)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_by_name() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes \
                    packets errs drop fifo colls carrier compressed\n    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0\n\
                    vxlan0: 2240 30 0 0 0 0 0 0 1120 15 0 0 0 0 0 0\n";
        assert_eq!(count(text, "vxlan0"), Some(DeviceCount { rx: 30, tx: 15 }));
        assert_eq!(count(text, "vxlan"), None);
    }
}
