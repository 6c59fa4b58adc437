//! Decompression of one unit at a time, a qcow2 cluster or a VMDK grain, into a buffer of its size.
//!
//! Output beyond the buffer is never produced and memory never depends on the compressed bytes. Engines
//! and input buffers are reused: a thread takes one, works without any lock, and puts it back.

use std::sync::{Mutex, PoisonError};

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
    idle: Mutex<Vec<Workbench>>,
}

/// More threads than this at once still work, each with an engine of its own that is not kept.
const MOST_IDLE: usize = 16;

impl Decompressor {
    pub(super) fn new(codec: Codec) -> Self {
        Decompressor { codec, idle: Mutex::new(Vec::new()) }
    }

    /// Decompresses `input_len` bytes, which `read` provides, into `output`.
    pub(super) fn decompress<E>(
        &self,
        input_len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<(), E>,
        output: &mut [u8],
    ) -> Result<Result<Decompressed, Undecodable>, E> {
        let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut bench = taken.unwrap_or_else(|| Workbench::new(self.codec));
        bench.input.resize(input_len, 0);
        read(&mut bench.input)?;
        let done = bench.engine.run(&bench.input, output);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(bench);
        }
        Ok(done)
    }
}

struct Workbench {
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
        Workbench { engine, input: Vec::new() }
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
