//! Device features without an rtnetlink attribute.

use std::{io, os::fd::AsRawFd, sync::OnceLock};

use socket2::{Domain, Socket, Type};

use super::netlink::attribute::text;

/// `ETHTOOL_GTXCSUM` (`include/uapi/linux/ethtool.h`).
const ETHTOOL_GTXCSUM: u32 = 0x16;
/// `ETHTOOL_SGRO`.
const ETHTOOL_SGRO: u32 = 0x2c;
nix::ioctl_readwrite_bad! {
    /// `SIOCETHTOOL` (`include/uapi/linux/sockios.h`).
    siocethtool, 0x8946, libc::ifreq
}

/// `ETHTOOL_GSSET_INFO`, `ETHTOOL_GSTRINGS`, `ETHTOOL_GFEATURES`.
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GFEATURES: u32 = 0x3a;
/// `ETH_SS_FEATURES`.
const ETH_SS_FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN`.
const NAME_LEN: usize = 32;

/// Turns generic receive offload on, for a device of the calling thread's network namespace.
///
/// On a veth this enables NAPI, without which the kernel drops frames that XDP redirects to the peer (`veth_xdp_xmit`,
/// Linux 5.13 and later).
pub(crate) fn gro_on(device: &str) -> io::Result<()> {
    command(device, &mut [ETHTOOL_SGRO, 1])
}

/// Whether transmit checksum offload of a device in the calling thread's network namespace is on, so that it receives
/// packets without checksums.
///
/// # Errors
/// The kernel's, for instance for a device that does not exist.
pub(crate) fn tx_checksum(device: &str) -> io::Result<bool> {
    let mut value = [ETHTOOL_GTXCSUM, 0];
    command(device, &mut value)?;
    Ok(value[1] != 0)
}

/// Whether a device of the calling thread's network namespace removes VLAN tags from received frames, so that an XDP
/// program does not see them (`NETIF_F_HW_VLAN_CTAG_RX`, `NETIF_F_HW_VLAN_STAG_RX`).
///
/// # Errors
/// As [`Features::read`].
pub(crate) fn removes_vlan_tags(device: &str) -> io::Result<bool> {
    let is_removal = |name: &str| matches!(name, "rx-vlan-hw-parse" | "rx-vlan-stag-hw-parse");
    Ok(Features::read(device)?.iter().any(|(name, is_on)| is_on && is_removal(name)))
}

/// Whether a device of the calling thread's network namespace merges TCP segments (generic receive offload).
///
/// # Errors
/// As [`Features::read`].
pub(crate) fn merges_segments(device: &str) -> io::Result<bool> {
    Ok(Features::read(device)?.iter().any(|feature| feature == ("rx-gro", true)))
}

/// The features of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Features(Vec<(u32, u32)>);

impl Features {
    /// Reads the features of a device of the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's, for instance for a device that does not exist.
    pub(crate) fn read(device: &str) -> io::Result<Self> {
        let blocks = names()?.len().div_ceil(32);
        // `struct ethtool_gfeatures`: command, size, and for each 32 features the bits available, requested, active,
        // never changed.
        let mut request = vec![0_u32; 2 + 4 * blocks];
        request[..2].copy_from_slice(&[ETHTOOL_GFEATURES, u32::try_from(blocks).map_err(io::Error::other)?]);
        command(device, &mut request)?;
        Ok(Self(request[2..].chunks_exact(4).map(|block| (block[0], block[2])).collect()))
    }

    /// The names of the kernel's features, by bit.
    #[cfg(test)]
    pub(crate) fn names() -> io::Result<&'static Vec<String>> {
        names()
    }

    /// Name of each feature that is on, or that can be turned on; and whether it is on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, bool)> {
        // Read before, in `read`.
        let names = names().map(Vec::as_slice).unwrap_or_default();
        names.iter().enumerate().filter_map(|(bit, name)| {
            let (available, active) = self.0.get(bit / 32)?;
            let has = |bits: u32| bits >> (bit % 32) & 1 != 0;
            (!name.is_empty() && (has(*available) || has(*active))).then_some((name.as_str(), has(*active)))
        })
    }
}

/// The names of the kernel's features, by bit; empty for bits without a name.
fn names() -> io::Result<&'static Vec<String>> {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    if let Some(names) = NAMES.get() {
        return Ok(names);
    }
    // The same for every device. `struct ethtool_sset_info`: command, reserved, mask of sets (64 bits), length.
    let mut request = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
    request[if cfg!(target_endian = "little") { 2 } else { 3 }] = 1 << ETH_SS_FEATURES;
    command("lo", &mut request)?;
    let count = request[4];
    // `struct ethtool_gstrings`: command, set, length, names.
    let mut request = vec![0_u32; 3 + count as usize * NAME_LEN / 4];
    request[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count]);
    command("lo", &mut request)?;
    let bytes: Vec<u8> = request[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(NAMES.get_or_init(|| bytes.chunks_exact(NAME_LEN).map(text).collect()))
}

/// Runs one command (`struct ethtool_value` or another), whose structure begins with its number and has room for the answer.
fn command(device: &str, words: &mut [u32]) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: ifreq is plain C data, for which all zeros are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: the request has a zero-terminated device name and points to the command's structure, whose length fields
    // the callers have set to its size (`net/ethtool/ioctl.c` writes no more); both outlive the call.
    unsafe { siocethtool(socket.as_raw_fd(), &raw mut request) }?;
    Ok(())
}
