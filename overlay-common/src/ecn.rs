//! Explicit congestion notification across the tunnel (RFC 6040), as the kernel's tunnels do it
//! (`include/net/inet_ecn.h`).

/// Not ECN-capable transport.
pub const NOT_ECT: u8 = 0;
/// ECN-capable transport, codepoint 1.
pub const ECT_1: u8 = 1;
/// ECN-capable transport, codepoint 0.
pub const ECT_0: u8 = 2;
/// Congestion experienced.
pub const CE: u8 = 3;
/// The two bits of the traffic class that hold the codepoint.
pub const MASK: u8 = 3;

/// The outer codepoint for an inner one.
///
/// Like `INET_ECN_encapsulate`: an inner CE becomes ECT(0) in the outer header, so a CE mark found at the other end
/// comes from the underlay. RFC 6040 normal mode copies CE; the decapsulated packet is the same in both modes.
#[inline(always)]
#[must_use]
pub const fn encapsulate(inner: u8) -> u8 {
    let inner = inner & MASK;
    if inner == CE { ECT_0 } else { inner }
}

/// The inner codepoint after decapsulation; `None` if the packet must be dropped (outer CE on a packet whose transport
/// is not ECN-capable).
///
/// Like `INET_ECN_decapsulate` and RFC 6040 figure 4.
#[inline(always)]
#[must_use]
pub const fn decapsulate(outer: u8, inner: u8) -> Option<u8> {
    let (outer, inner) = (outer & MASK, inner & MASK);
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        _ => Some(inner),
    }
}

/// The IPv4 header checksum after the first 16-bit word (version, IHL, DSCP, ECN) changed from `old` to `new`
/// (RFC 1624, equation 3). All values are in host order.
#[inline(always)]
#[must_use]
pub const fn update_checksum(checksum: u16, old: u16, new: u16) -> u16 {
    crate::outer::fold_checksum((!checksum) as u32 + (!old) as u32 + new as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040 figure 4, rows inner, columns outer: Not-ECT, ECT(1), ECT(0), CE.
    #[test]
    fn decapsulation_matches_rfc_6040_figure_4() {
        let figure = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (ECT_0, [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [NOT_ECT, ECT_1, ECT_0, CE].into_iter().zip(row) {
                assert_eq!(decapsulate(outer, inner), expected, "inner {inner} outer {outer}");
            }
        }
    }

    #[test]
    fn codepoints_survive_encapsulation_and_decapsulation() {
        for inner in [NOT_ECT, ECT_1, ECT_0, CE] {
            assert_eq!(decapsulate(encapsulate(inner), inner), Some(inner));
        }
    }

    #[test]
    fn dscp_bits_are_ignored() {
        assert_eq!(encapsulate(0xb8 | ECT_0), ECT_0);
        assert_eq!(decapsulate(0xff, 0xb8 | ECT_0), Some(CE));
    }

    #[test]
    fn updated_checksum_equals_recomputed_checksum() {
        let words = [0x4500u16, 0x0054, 0x1c46, 0x4000, 0x4006, 0xac10, 0x0a63, 0xac10, 0x0a0c];
        let sum = |first: u16| {
            crate::outer::fold_checksum(u32::from(first) + words[1..].iter().map(|w| u32::from(*w)).sum::<u32>())
        };
        for old in 0..=255u16 {
            for new in 0..4 {
                let (old, new) = (0x4500 | old, 0x4500 | (old & !3) | new);
                assert_eq!(update_checksum(sum(old), old, new), sum(new));
            }
        }
    }
}
