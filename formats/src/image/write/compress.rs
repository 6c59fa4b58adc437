//! Compression of one unit at a time, a qcow2 cluster or a VMDK grain, on the thread that read it.

use flate2::{Compress, Compression, FlushCompress, Status};
use zstd::bulk::Compressor as ZstdEngine;

use super::Packing;

/// How units are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::image) enum Recipe {
    /// RFC 1951, bare. Readers with a window of `2^window_bits` bytes can follow.
    Deflate { level: u32, window_bits: u8 },
    /// RFC 1950: deflate with header and checksum, and the largest window.
    Zlib { level: u32 },
    /// RFC 8878: one frame that says how large its content is.
    Zstd { level: i32 },
}

/// Compresses one unit after the other, each on its own.
pub(in crate::image) struct Compressor(Engine);

enum Engine {
    Deflate(Compress),
    Zstd(ZstdEngine<'static>),
}

impl Compressor {
    pub(in crate::image) fn new(recipe: Recipe) -> Self {
        Compressor(match recipe {
            Recipe::Deflate { level, window_bits } => {
                Engine::Deflate(Compress::new_with_window_bits(Compression::new(level), false, window_bits))
            }
            Recipe::Zlib { level } => Engine::Deflate(Compress::new(Compression::new(level), true)),
            Recipe::Zstd { level } => Engine::Zstd(
                ZstdEngine::new(level).expect("zstd knows every level, and no dictionary is set"),
            ),
        })
    }

    /// Appends `unit`, compressed, to `packed`, unless that takes more than `most` bytes.
    pub(in crate::image) fn pack(&mut self, unit: &[u8], most: usize, packed: &mut Vec<u8>) -> Packing {
        let start = packed.len();
        packed.resize(start + most, 0);
        let len = self.run(unit, &mut packed[start..]);
        packed.truncate(start + len.unwrap_or(0));
        if len.is_some() { Packing::Packed } else { Packing::Stored }
    }

    /// The bytes written to `output`; `None` where it is too small.
    fn run(&mut self, unit: &[u8], output: &mut [u8]) -> Option<usize> {
        match &mut self.0 {
            Engine::Deflate(engine) => {
                engine.reset();
                let status = engine.compress(unit, output, FlushCompress::Finish).ok()?;
                (status == Status::StreamEnd).then(|| engine.total_out() as usize)
            }
            // What else could go wrong is excluded: the engine has been set up, and its input is in memory.
            Engine::Zstd(engine) => engine.compress_to_buffer(unit, output).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that cannot be compressed.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = |_| {
            // Knuth's MMIX generator; its high bits are good.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..len).map(next).collect()
    }

    #[test]
    fn deflate_looks_no_further_back_than_its_readers_can() {
        let unit = [noise(8192), noise(8192)].concat();
        for (window_bits, want) in [(12, Packing::Stored), (15, Packing::Packed)] {
            let mut compressor = Compressor::new(Recipe::Deflate { level: 6, window_bits });
            assert_eq!(compressor.pack(&unit, 9000, &mut Vec::new()), want, "{window_bits} bits");
        }
    }

    #[test]
    fn what_does_not_become_smaller_leaves_nothing_behind() {
        let mut packed = b"before".to_vec();
        for recipe in [
            Recipe::Deflate { level: 6, window_bits: 12 },
            Recipe::Zlib { level: 6 },
            Recipe::Zstd { level: 4 },
        ] {
            let mut compressor = Compressor::new(recipe);
            assert_eq!(compressor.pack(&noise(4096), 4095, &mut packed), Packing::Stored);
            assert_eq!(packed, b"before");
            // The next one is not disturbed by it.
            assert_eq!(compressor.pack(&[5; 4096], 100, &mut packed), Packing::Packed);
            packed.truncate(6);
        }
    }
}
