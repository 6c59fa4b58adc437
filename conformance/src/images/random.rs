//! Numbers that look random and are always the same for one seed.
//!
//! Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (SplitMix64).

use std::ops::Range;

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers for image `number` of a run: the same whichever other images are made.
    pub(crate) fn of_image(seed: u64, number: u64) -> Self {
        Self::new(Self::new(seed ^ number.wrapping_add(1).wrapping_mul(STEP)).next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `end`, which it never is.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn choice<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// At least 1, and of each power of two up to `2^(bits.end - 1)` as often as of another.
    pub(crate) fn of_any_size(&mut self, bits: Range<u32>) -> u64 {
        let bits = bits.start + self.below(u64::from(bits.end - bits.start)) as u32;
        1 + self.below(1 << bits)
    }

    /// A range of at least one byte within `0..end`.
    pub(crate) fn range(&mut self, end: u64) -> Range<u64> {
        let start = self.below(end);
        start..start + self.of_any_size(0..21).min(end - start)
    }

    pub(crate) fn noise(&mut self, len: u64) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(len as usize).collect()
    }
}
