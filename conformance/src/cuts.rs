//! Where chunks end by cut rule 2, version 1, held against the chunks of an index.
//!
//! Source: disk-index, "Where chunks are cut".

/// Bytes of a block.
const BLOCK: usize = 4096;
/// The most blocks of a chunk.
const MAX_CHUNK_BLOCKS: usize = 64;
/// The multiplier of the hash.
const K: u64 = 0x9e37_79b9_7f4a_7c15;

/// What comes after a chunk on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// More content in the same page: the chunk ended because the rule said so.
    Content,
    /// A zero block, the end of the page or the end of the disk: a chunk ends here by any rule.
    End,
}

/// Says where a chunk breaks rule 2. Its `content` is whole blocks.
pub(crate) fn check(content: &[u8], next: Next) -> Result<(), String> {
    let blocks = content.len() / BLOCK;
    let cut_after = |block: usize| block >= 1 && hash(&content[block * BLOCK..][..BLOCK]).is_multiple_of(16);
    if let Some(block) = (1..blocks.saturating_sub(1)).find(|block| cut_after(*block)) {
        return Err(format!("goes on after its block {block}, whose hash ends the chunk"));
    }
    if next == Next::Content && blocks < MAX_CHUNK_BLOCKS && !(blocks >= 2 && cut_after(blocks - 1)) {
        return Err(format!("ends after {blocks} blocks, where nothing ends it"));
    }
    Ok(())
}

/// The 64-bit hash of a block.
fn hash(block: &[u8]) -> u64 {
    let mut lanes = [1_u64, 2, 3, 4].map(|lane| lane.wrapping_mul(K));
    for (number, word) in block.as_chunks::<8>().0.iter().enumerate() {
        let lane = &mut lanes[number % 4];
        *lane = (*lane ^ u64::from_le_bytes(*word)).rotate_left(29).wrapping_mul(K);
    }
    let mut hash = lanes.iter().fold(0_u64, |hash, lane| (hash.rotate_left(17) ^ lane).wrapping_mul(K));
    hash = (hash ^ (hash >> 32)).wrapping_mul(K);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_documented_one() {
        assert_eq!(hash(&[0; BLOCK]), 0x9a5b_8887_5b99_1347);
        assert_eq!(hash(&[0xff; BLOCK]), 0xbd27_3341_6bde_90c3);
    }

    #[test]
    fn a_chunk_ends_where_the_hash_says_and_nowhere_else() {
        let block = |seed: u64| seed.to_le_bytes().repeat(BLOCK / 8);
        let ends = (1..).map(block).find(|block| hash(block).is_multiple_of(16)).unwrap();
        let goes_on = block(1);
        assert!(!hash(&goes_on).is_multiple_of(16));
        let chunk = |blocks: &[&Vec<u8>]| blocks.iter().flat_map(|block| block.to_vec()).collect::<Vec<u8>>();
        assert!(check(&chunk(&[&goes_on, &ends]), Next::Content).is_ok());
        assert!(check(&chunk(&[&ends, &goes_on]), Next::End).is_ok()); // one block is too few to end after
        assert!(check(&chunk(&[&goes_on, &goes_on]), Next::End).is_ok());
        assert!(check(&chunk(&[&goes_on, &goes_on]), Next::Content).is_err());
        assert!(check(&chunk(&[&goes_on, &ends, &goes_on]), Next::End).is_err());
        assert!(check(&chunk(&[&ends]), Next::Content).is_err());
        assert!(check(&goes_on.repeat(64), Next::Content).is_ok());
    }
}
