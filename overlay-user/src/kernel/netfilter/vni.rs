//! The VNI that a rule matches. Two matches are recognised, those that Docker writes for the VXLAN packets of an
//! encrypted network (libnetwork, `drivers/overlay/encryption*.go`). Any other rule counts as not limited to one VNI.

use crate::sys::netlink::attribute::{ne16, ne32};

/// The VNI that a match of xtables compares with.
pub(crate) fn of_match(name: &str, info: &[u8]) -> Option<u32> {
    match name {
        "u32" => of_u32(info),
        "bpf" => of_bpf(info),
        _ => None,
    }
}

/// `0>>22&0x3C@12&0xFFFFFF00=VNI<<8` as `struct xt_u32` (`include/uapi/linux/netfilter/xt_u32.h`).
fn of_u32(info: &[u8]) -> Option<u32> {
    /// Locations: number and the operator before it (AND 0, LEFTSH 1, RIGHTSH 2, AT 3).
    const LOCATIONS: [(u32, u8); 5] = [(0, 0), (22, 2), (0x3c, 0), (12, 3), (0xffff_ff00, 0)];
    const ELEMENT: usize = 8;
    /// 11 locations and 11 ranges of values, two counts, padding.
    const VALUES: usize = 11 * ELEMENT;
    const COUNTS: usize = 2 * VALUES;
    const TEST: usize = COUNTS + 4;
    const TESTS: usize = 11 * TEST;
    let (tests, invert) = (info.get(TESTS)?, info.get(TESTS + 1)?);
    let (numbers, values) = (info.get(COUNTS)?, info.get(COUNTS + 1)?);
    if [*tests, *invert, *numbers, *values] != [1, 0, 5, 1] {
        return None;
    }
    for (index, (number, operator)) in LOCATIONS.into_iter().enumerate() {
        // The first number has no operator.
        let same_operator = index == 0 || *info.get(index * ELEMENT + 4)? == operator;
        if ne32(info, index * ELEMENT)? != number || !same_operator {
            return None;
        }
    }
    let (least, most) = (ne32(info, VALUES)?, ne32(info, VALUES + 4)?);
    (least == most && least & 0xff == 0).then_some(least >> 8)
}

/// The same as a classic BPF program in `struct xt_bpf_info` or `struct xt_bpf_info_v1`.
fn of_bpf(info: &[u8]) -> Option<u32> {
    /// `BPF_LDX|BPF_B|BPF_MSH`.
    const LDX: u16 = 0xb1;
    /// `BPF_LD|BPF_W|BPF_IND`.
    const LD: u16 = 0x40;
    /// `BPF_ALU|BPF_AND|BPF_K`.
    const AND: u16 = 0x54;
    /// `BPF_ALU|BPF_RSH|BPF_K`.
    const RSH: u16 = 0x74;
    /// `BPF_JMP|BPF_JEQ|BPF_K`.
    const JEQ: u16 = 0x15;
    /// `BPF_RET|BPF_K`.
    const RET: u16 = 0x06;
    let program = |count: usize, base: usize| -> Option<Vec<(u16, u8, u8, u32)>> {
        let count = usize::from(ne16(info, count)?);
        (0..count.min(64))
            .map(|index| {
                let at = base + index * 8;
                Some((ne16(info, at)?, *info.get(at + 2)?, *info.get(at + 3)?, ne32(info, at + 4)?))
            })
            .collect()
    };
    // Version 0: count, instructions. Version 1: mode (0: byte code), count, file descriptor, instructions.
    [program(0, 4), (ne16(info, 0)? == 0).then(|| program(2, 8)).flatten()].into_iter().flatten().find_map(|program| {
        let [(LDX, _, _, 0), (LD, _, _, 12), narrow, (JEQ, true_skip, false_skip, vni), first, second] = program[..]
        else {
            return None;
        };
        let vni = match narrow {
            (AND, _, _, 0xffff_ff00) => vni >> 8,
            (RSH, _, _, 8) => vni,
            _ => return None,
        };
        let ends = [(first.0, first.3), (second.0, second.3)];
        // The program accepts if the VNIs are equal.
        let matches = match (true_skip, false_skip) {
            (1, 0) => ends == [(RET, 0), (RET, u32::MAX)],
            (0, 1) => ends == [(RET, u32::MAX), (RET, 0)],
            _ => false,
        };
        matches.then_some(vni)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_info(value: u32, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut info = vec![0; 1984];
        for (index, (number, operator)) in
            [(0u32, 0u8), (22, 2), (0x3c, 0), (12, 3), (0xffff_ff00, 0)].into_iter().enumerate()
        {
            info[index * 8..index * 8 + 4].copy_from_slice(&number.to_ne_bytes());
            info[index * 8 + 4] = operator;
        }
        info[88..92].copy_from_slice(&value.to_ne_bytes());
        info[92..96].copy_from_slice(&value.to_ne_bytes());
        (info[176], info[177], info[1980]) = (5, 1, 1);
        edit(&mut info);
        info
    }

    fn bpf_info(program: &[(u16, u8, u8, u32)], version: usize) -> Vec<u8> {
        let mut info = vec![0; 2 * version];
        info.extend(u16::try_from(program.len()).unwrap().to_ne_bytes());
        info.resize(4 + 4 * version, 0);
        for (code, jt, jf, k) in program {
            info.extend(code.to_ne_bytes());
            info.extend([*jt, *jf]);
            info.extend(k.to_ne_bytes());
        }
        info.resize(528, 0);
        info
    }

    #[test]
    fn docker_matches_contain_their_vni() {
        assert_eq!(of_match("u32", &u32_info(4097 << 8, |_| {})), Some(4097));
        let shifted =
            [(0xb1, 0, 0, 0), (0x40, 0, 0, 12), (0x74, 0, 0, 8), (0x15, 1, 0, 4097), (6, 0, 0, 0), (6, 0, 0, u32::MAX)];
        let masked = [
            (0xb1, 0, 0, 0),
            (0x40, 0, 0, 12),
            (0x54, 0, 0, 0xffff_ff00),
            (0x15, 1, 0, 4097 << 8),
            (6, 0, 0, 0),
            (6, 0, 0, u32::MAX),
        ];
        for version in [0, 1] {
            assert_eq!(of_match("bpf", &bpf_info(&shifted, version)), Some(4097), "revision {version}");
            assert_eq!(of_match("bpf", &bpf_info(&masked, version)), Some(4097), "revision {version}");
        }
    }

    #[test]
    fn other_matches_contain_no_vni() {
        let changes: [fn(&mut Vec<u8>); 6] = [
            |info| info[1981] = 1,
            |info| info[1980] = 2,
            |info| info[24] = 13,
            |info| info[28] = 0,
            |info| info[92] = 1,
            |info| info.truncate(100),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert_eq!(of_match("u32", &u32_info(4097 << 8, change)), None, "change {index}");
        }
        let inverted =
            [(0xb1, 0, 0, 0), (0x40, 0, 0, 12), (0x74, 0, 0, 8), (0x15, 1, 0, 4097), (6, 0, 0, u32::MAX), (6, 0, 0, 0)];
        assert_eq!(of_match("bpf", &bpf_info(&inverted, 0)), None);
        assert_eq!(of_match("bpf", &bpf_info(&inverted[..3], 0)), None);
        assert_eq!(of_match("udp", &[0; 12]), None);
    }
}
