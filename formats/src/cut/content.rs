//! The hash by which rule 2 chooses its cuts.
//!
//! Version 1. All arithmetic is modulo 2^64; words are little-endian. Four lanes take the words of the
//! block in turn; then they are folded into one another, and the result is mixed once more so that its
//! low bits depend on all of it.
//!
//! ```text
//! K = 0x9e3779b97f4a7c15
//! lane[i] = (i + 1) * K                                               i = 0..4
//! lane[w mod 4] = rotate_left(lane[w mod 4] xor word[w], 29) * K      w = 0..512
//! h = 0;   h = (rotate_left(h, 17) xor lane[i]) * K                   i = 0..4
//! h = (h xor (h >> 32)) * K;   hash = h xor (h >> 29)
//! ```
//!
//! It is no defence: whoever makes a disk can choose its cuts, and gains nothing by it.

const K: u64 = 0x9e37_79b9_7f4a_7c15;
const LANES: usize = 4;

/// The hash of a block (or of any whole number of 32 bytes), for choosing cuts and nothing else.
pub fn block_hash(block: &[u8]) -> u64 {
    let mut lanes: [u64; LANES] = std::array::from_fn(|lane| (lane as u64 + 1).wrapping_mul(K));
    for words in block.chunks_exact(LANES * 8) {
        for (lane, word) in lanes.iter_mut().zip(words.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("pieces of 8 bytes"));
            *lane = (*lane ^ word).rotate_left(29).wrapping_mul(K);
        }
    }
    let folded = lanes.iter().fold(0_u64, |hash, lane| (hash.rotate_left(17) ^ lane).wrapping_mul(K));
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(K);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden vectors: another value means another version of rule 2.
    #[test]
    fn the_hash_of_version_1_never_changes() {
        let counting: Vec<u8> = (0..4096_u32).map(|at| (at * 7 + at / 256) as u8).collect();
        for (block, want) in [
            (vec![0; 4096], 0x9a5b_8887_5b99_1347),
            (vec![0xff; 4096], 0xbd27_3341_6bde_90c3),
            (counting, 0x1d25_be04_5887_50b5),
        ] {
            assert_eq!(block_hash(&block), want, "{:#018x}", block_hash(&block));
        }
    }

    #[test]
    fn about_one_block_in_sixteen_is_a_boundary() {
        let boundaries = (0..16_000_u64)
            .filter(|number| {
                let mut block = vec![0x20; 4096];
                block[1000..1008].copy_from_slice(&number.to_le_bytes());
                block_hash(&block).is_multiple_of(16)
            })
            .count();
        assert!((850..1150).contains(&boundaries), "{boundaries}");
    }
}
