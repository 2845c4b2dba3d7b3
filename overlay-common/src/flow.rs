//! The outer UDP source port of an inner flow.

/// Outer UDP source port for a flow's hash: the upper half of the port space (RFC 7348 §5 asks for a range of dynamic
/// ports). ECMP in the underlay and receive queues spread inner flows by it.
#[inline(always)]
#[must_use]
pub const fn source_port(hash: u32) -> u16 {
    0x8000 | (hash >> 17) as u16
}

/// Hash of an inner flow, for packets without a kernel hash: addresses (xor-folded to 64 bits for IPv6), then ports and
/// protocol. The byte order is arbitrary but fixed: the hash is not sent.
#[inline(always)]
#[must_use]
pub const fn hash(addresses: u64, ports_and_protocol: u64) -> u32 {
    // Multiplicative hashing with two odd constants (2⁶⁴ / φ, and the multiplier of MurmurHash's finalizer).
    let mixed =
        (addresses ^ ports_and_protocol.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn source_ports_are_in_upper_half_of_port_space() {
        assert_eq!(source_port(0), 0x8000);
        assert_eq!(source_port(u32::MAX), 0xffff);
    }

    #[test]
    fn flows_that_differ_in_one_port_get_many_source_ports() {
        let ports: HashSet<_> = (0..1000u64)
            .map(|port| source_port(hash(0x0a00_0102_0a00_0106, (0x50 << 48) | (port << 32) | 6)))
            .collect();
        assert!(ports.len() > 900, "{}", ports.len());
    }
}
