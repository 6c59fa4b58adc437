//! Frames: content compressed on its own, and content got back into exactly the space it promised.
//!
//! Source: RFC 8878, "Zstandard Frames". A frame carries its content size and no checksum: the index
//! has digests.

use zstd::zstd_safe::{self, CParameter, get_error_name};

/// Compresses frames, one after the other. Each thread has its own.
pub struct FrameEncoder {
    context: zstd_safe::CCtx<'static>,
}

/// Decompresses frames, one after the other. Each thread has its own.
pub struct FrameDecoder {
    context: zstd_safe::DCtx<'static>,
}

/// Why bytes are not the frame that an index promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It promises more or less content than the index does, or does not say.
    #[error("the frame says it holds {found} bytes; the index promises {wanted}", found = match found {
        Some(bytes) => bytes.to_string(),
        None => "an unknown number of".to_owned(),
    })]
    ContentSize {
        /// What the frame says.
        found: Option<u64>,
        /// What the index says.
        wanted: u64,
    },
    /// The bytes are no frame, or a frame and more, or a part of one.
    #[error("{len} bytes do not hold exactly one zstd frame: {reason}")]
    Malformed {
        /// How many bytes there are.
        len: usize,
        /// What the decompressor says.
        reason: &'static str,
    },
}

impl std::fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameEncoder").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameDecoder").finish_non_exhaustive()
    }
}

impl FrameEncoder {
    /// An encoder for zstd's `level`, from 1 to 19.
    pub fn new(level: i32) -> Self {
        let mut context = zstd_safe::CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
        ] {
            context.set_parameter(parameter).expect("zstd knows its own parameters");
        }
        Self { context }
    }

    /// Replaces what `frame` holds with `content`, compressed. The same content and level give the same
    /// bytes.
    pub fn encode(&mut self, content: &[u8], frame: &mut Vec<u8>) {
        frame.clear();
        frame.reserve(zstd_safe::compress_bound(content.len()));
        self.context.compress2(frame, content).expect("the frame's buffer is as large as zstd asks");
    }
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self { context: zstd_safe::DCtx::create() }
    }
}

impl FrameDecoder {
    /// Replaces what `content` holds with the content of `frame`, which must be exactly
    /// `content_bytes`; no more memory than that is taken.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; `content` is then empty.
    pub fn decode(
        &mut self,
        frame: &[u8],
        content_bytes: usize,
        content: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        content.clear();
        let malformed = |reason| FrameError::Malformed { len: frame.len(), reason };
        let found =
            zstd_safe::get_frame_content_size(frame).map_err(|_| malformed("no frame starts here"))?;
        let wanted = content_bytes as u64;
        if found != Some(wanted) {
            return Err(FrameError::ContentSize { found, wanted });
        }
        match zstd_safe::find_frame_compressed_size(frame) {
            Ok(len) if len == frame.len() => (),
            Ok(_) => return Err(malformed("something follows the frame")),
            Err(code) => return Err(malformed(get_error_name(code))),
        }
        content.reserve_exact(content_bytes);
        let decoded = self.context.decompress(content, frame);
        match decoded {
            Ok(len) if len == content_bytes => Ok(()),
            Ok(_) => {
                content.clear();
                Err(malformed("it holds less than it says"))
            }
            Err(code) => {
                content.clear();
                Err(malformed(get_error_name(code)))
            }
        }
    }
}
