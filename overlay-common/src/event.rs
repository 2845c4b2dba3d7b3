//! Samples of refused packets, as the programs put them into `OVL_EVENTS`.

use bytemuck::{Pod, Zeroable};

/// Bytes of a packet that a sample holds at most: outer headers with some options, inner Ethernet and inner IPv6. A power of
/// two: a mask shows older verifiers the limit.
pub const SAMPLE_LEN: usize = 128;

/// Milliseconds between two samples of one reason on one CPU.
pub const INTERVAL_MS: u64 = 100;

/// Where a packet was refused.
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
    /// The hook of an [`Event`]; `None` for a number that is none.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        [Self::Port, Self::Nic, Self::Xdp, Self::ShimOut, Self::ShimIn].into_iter().find(|hook| *hook as u16 == number)
    }

    /// As printed.
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

/// One sample. All numbers in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// When, in ns of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Packets of the same reason on the same CPU that came too early for a sample, since the one before.
    pub skipped: u64,
    /// The [`crate::Reason`]'s number.
    pub reason: u32,
    /// The [`Hook`]'s number.
    pub hook: u16,
    /// The network namespace, as [`crate::maps::FdbEntry::netns_id`].
    pub netns_id: u16,
    /// The interface that the packet came in by, in that namespace.
    pub ifindex: u32,
    /// The network of the port or shim; 0 on the NIC, where the packet says it.
    pub vni: u32,
    /// The packet's length in bytes, from the Ethernet header on.
    pub len: u32,
    /// How many bytes of `sample` are the packet's.
    pub sample_len: u32,
    /// How the packet begins.
    pub sample: [u8; SAMPLE_LEN],
}

impl Event {
    /// How the packet begins.
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
    fn a_sample_is_no_longer_than_the_array() {
        let mut event = Event { sample_len: 3, ..Event::zeroed() };
        assert_eq!(event.bytes().len(), 3);
        event.sample_len = 4000;
        assert_eq!(event.bytes().len(), SAMPLE_LEN);
        assert_eq!(size_of::<Event>() % 8, 0);
    }
}
