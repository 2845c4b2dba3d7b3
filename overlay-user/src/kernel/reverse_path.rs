//! Whether the kernel delivers received packets: its input route, and the reverse-path filter (`rp_filter`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use overlay_common::VtepAddr;

use super::{Host, KernelError, Link, Obstacle, rule::Rule};

/// A remedy.
const REMEDY: &str = "keep the kernel path, change the route, or set net.ipv4.conf.*.rp_filter to 0";

/// `rp_filter` of a device: the larger one of its own and that of all (`IN_DEV_RPFILTER` in
/// include/linux/inetdevice.h). What cannot be read is strict.
fn mode(device: &str) -> u32 {
    let of = |name: &str| {
        let value = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok();
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(1)
    };
    of("all").max(of(device))
}

impl Host {
    /// The VTEPs whose packets to `local`, with this UDP port, the kernel does not deliver, or may drop by the filter, when
    /// they arrive on this device.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn undelivered(
        &self,
        device: &Link,
        local: VtepAddr,
        packets: BTreeSet<(VtepAddr, u16)>,
    ) -> Result<BTreeMap<(VtepAddr, u16), Obstacle>, KernelError> {
        const STRICT: u32 = 1;
        let (name, index, mode) = (device.name.clone(), device.index, mode(&device.name));
        if packets.is_empty() {
            return Ok(BTreeMap::new());
        }
        let drops = move |why: &str| {
            Obstacle::new(format!("the reverse-path filter of {name} drops packets from it: {why}"), REMEDY)
        };
        self.read(move |reader| {
            let rules = reader.rules()?;
            // The kernel then looks up with the ports of each packet.
            let by_ports = rules.iter().any(Rule::selects_transport);
            let mut undelivered = BTreeMap::new();
            for packet in packets {
                let back = if mode == 0 { Ok(None) } else { reader.reverse(local, packet.0)? };
                let obstacle = match back {
                    Err(obstacle) => Some(drops(&obstacle.problem)),
                    Ok(_) if mode != 0 && by_ports => Some(drops("routing rules select by protocol or port")),
                    Ok(device) if mode == STRICT && device != Some(index) => {
                        Some(drops("packets to it take another device"))
                    }
                    Ok(_) => reader.input(&rules, index, local, packet)?,
                };
                undelivered.extend(obstacle.map(|obstacle| (packet, obstacle)));
            }
            Ok(undelivered)
        })
        .await
    }
}
