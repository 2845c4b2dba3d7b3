//! Payloads that the receiver recomputes.

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

/// Whether `bytes` are the pattern of a stream from byte `offset` on.
pub(super) fn matches(bytes: &[u8], offset: u64) -> bool {
    phases(offset, bytes.len()).all(|(chunk, phase)| bytes[chunk.clone()] == BLOCK[phase..phase + chunk.len()])
}

/// Ranges of a buffer within one repetition of the pattern, with their offset in it. Each repetition starts one byte
/// later in the pattern than the previous one, so that data shifted by a multiple of 256 is detected.
fn phases(offset: u64, length: usize) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        (at < length).then(|| {
            let position = offset + at as u64;
            let phase = ((position + position / 256) % 256) as usize;
            let end_of_repetition = at + (256 - (position % 256)) as usize;
            let end = length.min(at + 256 - phase).min(end_of_repetition);
            let chunk = at..end;
            at = end;
            (chunk, phase)
        })
    })
}

/// Fills a datagram: its sequence number, then a pattern that depends on it. A datagram shorter than the sequence
/// number has its first bytes.
pub(super) fn datagram(out: &mut [u8], sequence: u64) {
    let number = sequence.to_be_bytes();
    let head = SEQUENCE.min(out.len());
    out[..head].copy_from_slice(&number[..head]);
    fill(&mut out[head..], sequence);
}

/// Sequence number of a datagram; `None` if its content is invalid.
pub(super) fn sequence(datagram: &[u8]) -> Option<u64> {
    let (number, rest) = datagram.split_first_chunk::<SEQUENCE>()?;
    let sequence = u64::from_be_bytes(*number);
    matches(rest, sequence).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_does_not_depend_on_the_chunk_size() {
        let mut whole = vec![0; 5000];
        fill(&mut whole, 70);
        let mut parts = vec![0; 5000];
        for (index, part) in parts.chunks_mut(37).enumerate() {
            fill(part, 70 + 37 * index as u64);
        }
        assert_eq!(whole, parts);
        assert!(matches(&whole[999..], 1069));
    }

    #[test]
    fn shifted_or_changed_stream_does_not_match() {
        let mut stream = vec![0; 5000];
        fill(&mut stream, 0);
        for shift in [1, 2, 255, 256, 257, 512, 1024] {
            assert!(!matches(&stream, shift), "{shift}");
        }
        stream[4000] ^= 1;
        assert!(!matches(&stream, 0));
    }

    #[test]
    fn corrupt_datagram_has_no_sequence_number() {
        let mut bytes = [0; 64];
        datagram(&mut bytes, 0x0102_0304_0506);
        assert_eq!(sequence(&bytes), Some(0x0102_0304_0506));
        bytes[63] ^= 0x80;
        assert_eq!(sequence(&bytes), None);
        assert_eq!(sequence(&bytes[..7]), None);
    }
}
