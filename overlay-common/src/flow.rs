//! The outer UDP source port of an inner flow.

/// The UDP source port that the kernel's VXLAN device chooses for a flow's hash (`udp_flow_src_port` in
/// `include/net/udp.h`): `first` up to `first + span - 1`. ECMP in the underlay and receive queues spread inner flows by
/// it.
#[inline(always)]
#[must_use]
pub const fn source_port(hash: u32, first: u16, span: u16) -> u16 {
    let hash = hash ^ hash << 16;
    first.wrapping_add(((hash as u64 * span as u64) >> 32) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ports_are_in_their_range() {
        assert_eq!(source_port(0, 32_768, 28_231), 32_768);
        // The upper half is inverted by the lower half.
        assert_eq!(source_port(u32::MAX, 32_768, 28_231), 32_768);
        assert_eq!(source_port(0xffff_0000, 32_768, 28_231), 60_998);
        assert_eq!(source_port(0xffff_0000, 5000, 1), 5000);
    }

    #[test]
    fn only_the_upper_half_of_the_mixed_hash_counts() {
        // 0x1234 ^ 0x5678 = 0x444c.
        assert_eq!(source_port(0x1234_5678, 0, u16::MAX), ((0x444c_5678_u64 * 0xffff) >> 32) as u16);
    }
}
