//! Files that are mostly holes, as inputs of a few KiB.
//!
//! ```text
//! folded   length: u32, in blocks    then, for each block that is not all zeros:   number: u16 | 512 bytes
//! ```
//!
//! All numbers are little-endian. Any bytes can be unfolded: numbers are taken modulo the length, which is taken
//! modulo [`MAX_BLOCKS`], and what is left over at the end is the start of a block.

const BLOCK: usize = 512;
/// 16 MiB.
const MAX_BLOCKS: u32 = 1 << 15;

/// The content that `folded` stands for: its length in bytes, and its blocks by their offsets.
pub(crate) fn unfold(folded: &[u8]) -> (u64, Vec<(u64, [u8; BLOCK])>) {
    let (head, rest) = folded.split_at(folded.len().min(4));
    let mut length = [0; 4];
    length[..head.len()].copy_from_slice(head);
    let blocks = u32::from_le_bytes(length) % (MAX_BLOCKS + 1);
    let mut pieces = Vec::new();
    for record in rest.chunks(2 + BLOCK).filter(|record| record.len() > 2 && blocks > 0) {
        let number = u32::from(u16::from_le_bytes([record[0], record[1]])) % blocks;
        let mut block = [0; BLOCK];
        block[..record.len() - 2].copy_from_slice(&record[2..]);
        pieces.push((u64::from(number) * BLOCK as u64, block));
    }
    (u64::from(blocks) * BLOCK as u64, pieces)
}

/// Folds a file of whole blocks, at most 16 MiB; to make an input for the corpus.
pub fn fold(file: &[u8]) -> Vec<u8> {
    let blocks = file.as_chunks::<BLOCK>().0;
    let mut folded = (blocks.len() as u32).to_le_bytes().to_vec();
    for (number, block) in blocks.iter().enumerate().filter(|(_, block)| **block != [0; BLOCK]) {
        folded.extend((number as u16).to_le_bytes());
        folded.extend(block);
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_folded_is_unfolded() {
        let mut file = vec![0; 100 * BLOCK];
        file[7 * BLOCK..8 * BLOCK].fill(1);
        file[99 * BLOCK] = 2;
        let (len, pieces) = unfold(&fold(&file));
        let mut found = vec![0; len as usize];
        for (at, block) in pieces {
            found[at as usize..][..BLOCK].copy_from_slice(&block);
        }
        assert!(found == file);
    }

    #[test]
    fn any_bytes_can_be_unfolded() {
        for len in [0, 1, 4, 5, 6, 7, 600] {
            let (len, pieces) = unfold(&vec![0xff; len]);
            assert!(pieces.iter().all(|(at, _)| at + BLOCK as u64 <= len));
        }
    }
}
