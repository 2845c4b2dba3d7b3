//! Sampled events: dropped packets, and packets passed to the kernel because of a spoofed or unknown source, as the
//! programs write them to `OVL_EVENTS`.

use bytemuck::{Pod, Zeroable};

/// Maximum bytes of a packet in a sample: outer headers with some options, inner Ethernet and inner IPv6. A power of
/// two, so that a mask proves the limit to older verifiers.
pub const SAMPLE_LEN: usize = 128;

/// Milliseconds between two samples of one reason on one CPU.
pub const INTERVAL_MS: u64 = 100;

/// The hook that sampled a packet.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `ovl_port_in`.
    Port = 1,
    /// `ovl_nic_in`.
    Nic = 2,
    /// `ovl_nic_xdp`.
    Xdp = 3,
    /// `ovl_shim_out`.
    ShimOut = 4,
    /// `ovl_shim_in`.
    ShimIn = 5,
}

impl Hook {
    /// The hook with this number in an [`Event`]; `None` if there is none.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        [Self::Port, Self::Nic, Self::Xdp, Self::ShimOut, Self::ShimIn].into_iter().find(|hook| *hook as u16 == number)
    }

    /// The printed name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Nic => "nic",
            Self::Xdp => "xdp",
            Self::ShimOut => "shim_out",
            Self::ShimIn => "shim_in",
        }
    }
}

/// One sample. All numbers are in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// Time of the sample, in ns of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Packets of the same reason on the same CPU that were not sampled since the previous sample.
    pub skipped: u64,
    /// Number of the [`crate::Reason`].
    pub reason: u32,
    /// Number of the [`Hook`].
    pub hook: u16,
    /// The network namespace, as [`crate::maps::FdbEntry::netns_id`].
    pub netns_id: u16,
    /// The ingress interface in that namespace.
    pub ifindex: u32,
    /// The network of the port or shim; 0 on the NIC, where the packet contains it.
    pub vni: u32,
    /// Packet length in bytes, from the Ethernet header on.
    pub len: u32,
    /// Number of valid bytes in `sample`.
    pub sample_len: u32,
    /// The first bytes of the packet.
    pub sample: [u8; SAMPLE_LEN],
}

impl Event {
    /// The valid bytes of `sample`.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.sample.get(..self.sample_len as usize).unwrap_or(&self.sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_have_numbers_and_names() {
        for hook in [Hook::Port, Hook::Nic, Hook::Xdp, Hook::ShimOut, Hook::ShimIn] {
            assert_eq!(Hook::from_number(hook as u16), Some(hook));
            assert!(!hook.name().is_empty());
        }
        assert_eq!((Hook::from_number(0), Hook::from_number(6)), (None, None));
    }

    #[test]
    fn sample_length_is_capped_at_array_length() {
        let mut event = Event { sample_len: 3, ..Event::zeroed() };
        assert_eq!(event.bytes().len(), 3);
        event.sample_len = 4000;
        assert_eq!(event.bytes().len(), SAMPLE_LEN);
        assert_eq!(size_of::<Event>() % 8, 0);
    }
}
