//! Payloads that the receiver can recompute.

/// Bytes before the pattern: the sequence number.
pub(super) const SEQUENCE: usize = 8;

const fn block() -> [u8; 256] {
    let mut block = [0; 256];
    let mut index = 0;
    while index < block.len() {
        // 167 is odd: every byte value once.
        block[index] = (index as u8).wrapping_mul(167) ^ 0x5a;
        index += 1;
    }
    block
}
static BLOCK: [u8; 256] = block();

/// The pattern of a stream from byte `offset` on.
pub(super) fn fill(out: &mut [u8], offset: u64) {
    for (chunk, phase) in phases(offset, out.len()) {
        out[chunk.clone()].copy_from_slice(&BLOCK[phase..phase + chunk.len()]);
    }
}

/// Whether `bytes` are the stream's from byte `offset` on.
pub(super) fn is_right(bytes: &[u8], offset: u64) -> bool {
    phases(offset, bytes.len()).all(|(chunk, phase)| bytes[chunk.clone()] == BLOCK[phase..phase + chunk.len()])
}

/// Runs of a buffer that lie in one repetition of the pattern, with their place in it. Each repetition starts one byte
/// later in the pattern than the one before, so that data shifted by a multiple of 256 is noticed.
fn phases(offset: u64, length: usize) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        (at < length).then(|| {
            let place = offset + at as u64;
            let phase = ((place + place / 256) % 256) as usize;
            let end_of_repetition = at + (256 - (place % 256)) as usize;
            let end = length.min(at + 256 - phase).min(end_of_repetition);
            let chunk = at..end;
            at = end;
            (chunk, phase)
        })
    })
}

/// A datagram of `size` bytes: its sequence number, then a pattern that depends on it. Too small a datagram has the
/// first bytes of that.
pub(super) fn datagram(out: &mut [u8], sequence: u64) {
    let number = sequence.to_be_bytes();
    let head = SEQUENCE.min(out.len());
    out[..head].copy_from_slice(&number[..head]);
    fill(&mut out[head..], sequence);
}

/// The sequence number of a datagram whose content is right.
pub(super) fn sequence(datagram: &[u8]) -> Option<u64> {
    let (number, rest) = datagram.split_first_chunk::<SEQUENCE>()?;
    let sequence = u64::from_be_bytes(*number);
    is_right(rest, sequence).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let mut whole = vec![0; 5000];
        fill(&mut whole, 70);
        let mut parts = vec![0; 5000];
        for (index, part) in parts.chunks_mut(37).enumerate() {
            fill(part, 70 + 37 * index as u64);
        }
        assert_eq!(whole, parts);
        assert!(is_right(&whole[999..], 1069));
    }

    #[test]
    fn a_shifted_or_changed_stream_is_not_right() {
        let mut stream = vec![0; 5000];
        fill(&mut stream, 0);
        for shift in [1, 2, 255, 256, 257, 512, 1024] {
            assert!(!is_right(&stream, shift), "{shift}");
        }
        stream[4000] ^= 1;
        assert!(!is_right(&stream, 0));
    }

    #[test]
    fn a_datagram_says_its_number_unless_it_is_damaged() {
        let mut bytes = [0; 64];
        datagram(&mut bytes, 0x0102_0304_0506);
        assert_eq!(sequence(&bytes), Some(0x0102_0304_0506));
        bytes[63] ^= 0x80;
        assert_eq!(sequence(&bytes), None);
        assert_eq!(sequence(&bytes[..7]), None);
    }
}
