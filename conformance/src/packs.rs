//! Packs: zstd frames end to end and nothing else; and one frame of a pack, as a reader fetches it.
//!
//! The two are checked apart and by different ways through zstd: a pack is streamed as `zstd -d` does it, a
//! frame is decompressed at once into a buffer of the promised size.
//!
//! Source: disk-index, "Words" and "Reading", step 3; RFC 8878.

use zstd::bulk::Decompressor;
use zstd::stream::raw::{Decoder, InBuffer, Operation as _, OutBuffer};
use zstd::zstd_safe;

use crate::disk_index::{BLOCK_BYTES, Frame, MAX_FRAME_BLOCKS, MAX_PACK_BYTES};
use crate::oci_layout::Blob;
use crate::report::Report;
use crate::rules::Rule;

/// What a zstd frame starts with; skippable frames start with something else.
const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// What a decompressor that streams writes at once.
const WINDOW_BYTES: usize = 128 << 10;

/// Walks a pack from its first frame to its last.
pub(crate) fn check_pack(blob: &Blob, what: &str, report: &mut Report) {
    let size = blob.size_bytes;
    if !report
        .check(Rule::PackSize, (1..=MAX_PACK_BYTES).contains(&size), || format!("{what} has {size} bytes"))
    {
        return;
    }
    let (pack, mut decoder) = match (blob.read(0, size as usize), Decoder::new()) {
        (Ok(pack), Ok(decoder)) => (pack, decoder),
        (Err(error), _) | (_, Err(error)) => {
            return report.fail(Rule::PackContent, || format!("{what} cannot be read: {error}"));
        }
    };
    let mut rest = &pack[..];
    while !rest.is_empty() {
        let at = pack.len() - rest.len();
        let length = frame_length(rest).map_err(|problem| format!("{what}, byte {at}: {problem}"));
        let Some(length) = report.accept(Rule::PackFrames, length) else { return };
        let (frame, after) = rest.split_at(length);
        rest = after;
        let blocks =
            content_blocks(frame).map_err(|problem| format!("{what}, frame at byte {at}: {problem}"));
        let Some(blocks) = report.accept(Rule::PackFrameSizes, blocks) else { continue };
        let read = stream(&mut decoder, frame, blocks)
            .map_err(|problem| format!("{what}, frame at byte {at}: {problem}"));
        report.accept(Rule::PackContent, read);
    }
}

/// Fetches one frame from its pack and decompresses it.
pub(crate) fn read_frame(
    pack: &Blob,
    frame: &Frame,
    decompressor: &mut Decompressor<'_>,
) -> Result<Vec<u8>, String> {
    let length = frame.length as usize; // bounded by the page's rules
    let bytes = pack.read(frame.offset, length).map_err(|error| format!("cannot be read: {error}"))?;
    let found = frame_length(&bytes)?;
    if found != length {
        return Err(format!("the zstd frame has {found} bytes; the index says {length}"));
    }
    let blocks = content_blocks(&bytes)?;
    if blocks != frame.blocks {
        return Err(format!("states {blocks} blocks; the index says {}", frame.blocks));
    }
    let promised = usize::from(blocks) * BLOCK_BYTES;
    let content = decompressor.decompress(&bytes, promised).map_err(|error| format!("zstd: {error}"))?;
    if content.len() != promised {
        return Err(format!("has {} bytes of content; it states {promised}", content.len()));
    }
    Ok(content)
}

/// The length of the zstd frame that `bytes` start with.
fn frame_length(bytes: &[u8]) -> Result<usize, String> {
    if !bytes.starts_with(&MAGIC) {
        return Err("here is no zstd frame".to_owned());
    }
    zstd_safe::find_frame_compressed_size(bytes)
        .map_err(|code| format!("no whole zstd frame: {}", zstd_safe::get_error_name(code)))
}

/// The blocks of content that a frame states.
fn content_blocks(frame: &[u8]) -> Result<u16, String> {
    let stated = zstd_safe::get_frame_content_size(frame).map_err(|_| "no whole frame header".to_owned())?;
    let bytes = stated.ok_or("does not state its content size")?;
    let blocks = bytes / BLOCK_BYTES as u64;
    if bytes % BLOCK_BYTES as u64 != 0 || !(1..=u64::from(MAX_FRAME_BLOCKS)).contains(&blocks) {
        return Err(format!("states {bytes} bytes of content; 1 to 256 blocks of 4096 may be"));
    }
    Ok(blocks as u16)
}

/// Decompresses `frame` piece by piece.
fn stream(decoder: &mut Decoder<'_>, frame: &[u8], blocks: u16) -> Result<(), String> {
    decoder.reinit().map_err(|error| format!("zstd: {error}"))?;
    let mut window = vec![0; WINDOW_BYTES];
    let mut input = InBuffer::around(frame);
    let mut content_bytes = 0;
    loop {
        let mut output = OutBuffer::around(&mut window[..]);
        let before = input.pos();
        let wanted = decoder.run(&mut input, &mut output).map_err(|error| format!("zstd: {error}"))?;
        content_bytes += output.pos();
        if wanted == 0 {
            break;
        }
        if input.pos() == before && output.pos() == 0 {
            return Err("ends before its content does".to_owned());
        }
    }
    let promised = usize::from(blocks) * BLOCK_BYTES;
    if content_bytes == promised {
        Ok(())
    } else {
        Err(format!("has {content_bytes} bytes of content; it states {promised}"))
    }
}
