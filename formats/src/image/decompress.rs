//! Decompression of one unit at a time, a qcow2 cluster or a VMDK grain, into a buffer of its size.
//!
//! Output beyond the buffer is never produced and memory never depends on the compressed bytes. Engines
//! and input buffers are reused, also by other images: a thread takes one, works without any lock, and puts it back.

use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::bulk::Decompressor as ZstdEngine;
use zstd::zstd_safe;

/// How units are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// RFC 1951, bare: qcow2's `zlib`.
    Deflate,
    /// RFC 1950, deflate with header and checksum: VMDK.
    Zlib,
    /// RFC 8878, one frame or several.
    Zstd,
}

/// What a decompressed unit amounted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decompressed {
    /// Bytes written to the start of the output.
    pub(super) len: usize,
    /// The compressed data ended there, its checksum right where it has one.
    pub(super) ended: bool,
}

/// Compressed data that cannot be decompressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Undecodable;

/// Decompresses for any number of threads.
#[derive(Debug)]
pub(super) struct Decompressor {
    codec: Codec,
    workbenches: Arc<Workbenches>,
}

/// What is kept for the next ones to decompress.
#[derive(Debug, Default)]
pub(super) struct Workbenches {
    idle: Mutex<Vec<Workbench>>,
}

/// More threads than this at once still work, each with an engine of its own that is not kept.
const MOST_IDLE: usize = 16;
/// What the buffers of all idle ones may have together.
const MOST_IDLE_BYTES: usize = 4 << 20;

impl Decompressor {
    pub(super) fn new(codec: Codec, workbenches: Arc<Workbenches>) -> Self {
        Decompressor { codec, workbenches }
    }

    /// Decompresses `input_len` bytes, which `read` provides, into `output`.
    pub(super) fn decompress<E>(
        &self,
        input_len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<(), E>,
        output: &mut [u8],
    ) -> Result<Result<Decompressed, Undecodable>, E> {
        let mut bench = self.workbenches.take(self.codec).unwrap_or_else(|| Workbench::new(self.codec));
        bench.input.resize(input_len, 0);
        read(&mut bench.input)?;
        let done = bench.engine.run(&bench.input, output);
        self.workbenches.put_back(bench);
        Ok(done)
    }
}

impl Workbenches {
    fn take(&self, codec: Codec) -> Option<Workbench> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = idle.iter().rposition(|bench| bench.codec == codec)?;
        Some(idle.remove(fit))
    }

    /// What the buffers of all idle ones take.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        input_bytes(&self.idle.lock().unwrap())
    }

    fn put_back(&self, mut bench: Workbench) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == MOST_IDLE {
            // The one that was idle for longest: perhaps nobody uses its codec any more.
            idle.remove(0);
        }
        if input_bytes(&idle) + bench.input.capacity() > MOST_IDLE_BYTES {
            bench.input = Vec::new();
        }
        idle.push(bench);
    }
}

fn input_bytes(benches: &[Workbench]) -> usize {
    benches.iter().map(|bench| bench.input.capacity()).sum()
}

struct Workbench {
    codec: Codec,
    engine: Engine,
    input: Vec<u8>,
}

enum Engine {
    Inflate { engine: Decompress, zlib_header: bool },
    Zstd(ZstdEngine<'static>),
}

impl std::fmt::Debug for Workbench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workbench").finish_non_exhaustive()
    }
}

impl Workbench {
    fn new(codec: Codec) -> Self {
        let inflate = |zlib_header| Engine::Inflate { engine: Decompress::new(zlib_header), zlib_header };
        let engine = match codec {
            Codec::Deflate => inflate(false),
            Codec::Zlib => inflate(true),
            Codec::Zstd => Engine::Zstd(ZstdEngine::new().expect("without a dictionary nothing can fail")),
        };
        Workbench { codec, engine, input: Vec::new() }
    }
}

impl Engine {
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<Decompressed, Undecodable> {
        match self {
            Engine::Inflate { engine, zlib_header } => {
                engine.reset(*zlib_header);
                let status = engine.decompress(input, output, FlushDecompress::Finish);
                let ended = status.map_err(|_| Undecodable)? == Status::StreamEnd;
                Ok(Decompressed { len: engine.total_out() as usize, ended })
            }
            Engine::Zstd(engine) => run_zstd(engine, input, output),
        }
    }
}

/// Frames until the output is full; what follows them, up to the end of a sector, is none of theirs.
fn run_zstd(
    engine: &mut ZstdEngine<'_>,
    input: &[u8],
    output: &mut [u8],
) -> Result<Decompressed, Undecodable> {
    let mut consumed = 0;
    let mut len = 0;
    while len < output.len() && consumed < input.len() {
        let rest = &input[consumed..];
        let frame = zstd_safe::find_frame_compressed_size(rest).map_err(|_| Undecodable)?;
        len += engine.decompress_to_buffer(&rest[..frame], &mut output[len..]).map_err(|_| Undecodable)?;
        consumed += frame;
    }
    Ok(Decompressed { len, ended: true })
}
