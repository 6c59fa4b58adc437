//! A packed disk, read from wherever its blobs are.
//!
//! ```text
//! read_at --> page (checked against the root) --> frame (decompressed) --> chunk (checked) --> bytes
//!              bounded cache                       bounded cache
//! ```
//!
//! Reads of different frames run in parallel on as many threads as call; threads that want the same
//! frame wait for the one that fetches it. A chunk is checked when it is first used, not before: the
//! first sector of a disk costs one frame and one chunk.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use appliance::Digest;
use appliance::manifest::DiskLayer;

use super::root::{PageEntry, Root};
use super::write::sha256;
use super::{BLOCK_BYTES, Chunk, Frame, FrameDecoder, MAX_ROOT_BYTES, PAGE_BLOCKS, Page, PageRun};
use crate::cache::Cache;
use crate::disk::{Disk, ReadError, Run, RunKind, check_range};

/// How much decompressed content a disk keeps, unless told otherwise.
pub const DEFAULT_CACHE_BYTES: usize = 64 << 20;

/// How much of parsed pages a disk keeps.
const PAGE_CACHE_BYTES: usize = 16 << 20;

/// So many threads find what they look for without waiting for each other.
const CACHE_SHARDS: usize = 8;

/// Anything that can fetch a range of a blob: a local store, a registry, a test.
///
/// What it returns is not trusted. It is called from several threads at once.
pub trait RangeSource: Send + Sync {
    /// Fills `buf` with the bytes of `blob` from `offset` on.
    ///
    /// # Errors
    ///
    /// Whatever went wrong; the read that needed the range then fails with it.
    fn read_range(&self, blob: &Digest, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl<F> RangeSource for F
where
    F: Fn(&Digest, u64, &mut [u8]) -> io::Result<()> + Send + Sync,
{
    fn read_range(&self, blob: &Digest, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self(blob, offset, buf)
    }
}

/// A disk whose content is in packs.
pub struct PackedDisk<S> {
    layer: DiskLayer,
    root: Root,
    source: S,
    pages: Cache<u64, Page>,
    frames: Cache<Frame, Content>,
    workspaces: Mutex<Vec<Workspace>>,
    spare: Arc<Spare>,
}

/// A frame's content, and which of its chunks were found to be what their digests promise.
#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    checked: Mutex<HashMap<u16, (u8, [u8; 32])>>,
    /// How many bytes have been handed out.
    used_bytes: AtomicUsize,
    spare: Arc<Spare>,
}

/// Buffers of content that is no longer kept: memory that a processor still has in its cache.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

/// How many buffers are kept.
const MAX_SPARE: usize = 4;

/// What a thread needs to decompress a frame. Kept from one frame to the next.
#[derive(Debug, Default)]
struct Workspace {
    decoder: FrameDecoder,
    compressed: Vec<u8>,
}

impl<S> fmt::Debug for PackedDisk<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedDisk")
            .field("name", &self.layer.name)
            .field("size_bytes", &self.root.size_bytes)
            .finish_non_exhaustive()
    }
}

impl<S: RangeSource> PackedDisk<S> {
    /// Opens the disk that `layer` of an appliance's manifest names. Fetches and checks the root, and
    /// nothing else. `cache_bytes` bounds the content kept; [`DEFAULT_CACHE_BYTES`] is a good bound.
    ///
    /// # Errors
    ///
    /// [`ReadError`]: the root cannot be fetched, is not what the manifest promises, or no root.
    pub fn open(layer: &DiskLayer, source: S, cache_bytes: usize) -> Result<Self, ReadError> {
        let root = read_root(layer, &source)?;
        Ok(Self {
            layer: layer.clone(),
            root,
            source,
            pages: Cache::new(PAGE_CACHE_BYTES, CACHE_SHARDS),
            frames: Cache::new(cache_bytes, CACHE_SHARDS),
            workspaces: Mutex::default(),
            spare: Arc::default(),
        })
    }

    /// The root of the disk's index.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// A page of the disk's index, checked.
    ///
    /// # Errors
    ///
    /// [`ReadError`]: it cannot be fetched, is not what the root promises, or no page.
    pub fn page(&self, entry: &PageEntry) -> Result<Arc<Page>, ReadError> {
        // Parsed, a page takes up to three times its bytes: zero runs grow.
        let weight = entry.len as usize * 3;
        self.pages.get(entry.first_block, weight, || {
            let what = || format!("the page at block {} of disk {}", entry.first_block, self.layer.name);
            let mut bytes = vec![0; entry.len as usize];
            self.source
                .read_range(&self.layer.index.digest, entry.offset, &mut bytes)
                .map_err(|source| ReadError::Io { what: what(), source })?;
            check_digest(&entry.sha256, &sha256(&bytes), what)?;
            Page::parse(&bytes, self.root.page_blocks(entry), &self.root.packs)
                .map_err(|error| error.in_index(entry.offset))
        })
    }

    /// The page that holds `block`, or the first one after it.
    fn page_from(&self, block: u64) -> Option<&PageEntry> {
        let skip = self.root.pages.partition_point(|page| page.first_block + PAGE_BLOCKS <= block);
        self.root.pages.get(skip)
    }

    /// Fills `buf` from `offset` on, which lie in one page.
    fn read_in_page(&self, entry: &PageEntry, offset: u64, mut buf: &mut [u8]) -> Result<(), ReadError> {
        let page = self.page(entry)?;
        let mut at = offset - entry.first_block * BLOCK_BYTES;
        for (first, run) in page.runs_from((at / BLOCK_BYTES) as u32) {
            if buf.is_empty() {
                break;
            }
            let start = u64::from(first) * BLOCK_BYTES;
            let skip = (at - start) as usize;
            let run_bytes = run.blocks() as usize * BLOCK_BYTES as usize;
            let (here, rest) = buf.split_at_mut(buf.len().min(run_bytes - skip));
            match run {
                PageRun::Zero { .. } => here.fill(0),
                PageRun::Chunk(chunk) => {
                    let block = entry.first_block + u64::from(first);
                    let frame = &page.frames()[chunk.frame as usize];
                    let content = self.chunk(frame, chunk, block)?;
                    let from = usize::from(chunk.first) * BLOCK_BYTES as usize + skip;
                    here.copy_from_slice(&content.bytes[from..from + here.len()]);
                    if content.is_used_up(here.len()) {
                        self.frames.forget(frame);
                    }
                }
            }
            at += here.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    /// The content of `frame`, in which `chunk` is what it should be. `block` is for messages.
    fn chunk(&self, frame: &Frame, chunk: &Chunk, block: u64) -> Result<Arc<Content>, ReadError> {
        let content = self.frames.get(*frame, frame.content_bytes(), || self.fetch(frame))?;
        let found = match content.is_checked(chunk) {
            true => return Ok(content),
            false => sha256(content.of(chunk)),
        };
        check_digest(&chunk.sha256, &found, || {
            format!("the chunk at block {block} of disk {}", self.layer.name)
        })?;
        content.mark_checked(chunk);
        Ok(content)
    }

    /// Fetches and decompresses a frame.
    fn fetch(&self, frame: &Frame) -> Result<Content, ReadError> {
        let pack = &self.root.packs[usize::from(frame.pack)];
        let mut workspace = self.lock_workspaces().pop().unwrap_or_default();
        workspace.compressed.resize(frame.len as usize, 0);
        let fetched = self.source.read_range(&pack.digest, frame.offset, &mut workspace.compressed);
        let mut content = Content::empty(&self.spare, frame.content_bytes());
        let decoded = match fetched {
            Err(source) => {
                let what = format!("bytes {} on of pack {}", frame.offset, pack.digest);
                Err(ReadError::Io { what, source })
            }
            Ok(()) => workspace
                .decoder
                .decode(&workspace.compressed, frame.content_bytes(), &mut content.bytes)
                .map_err(|error| ReadError::Corrupt {
                    format: "pack",
                    offset: frame.offset,
                    field: "frame",
                    found: error.to_string(),
                    wanted: "the index promises one zstd frame here",
                }),
        };
        self.lock_workspaces().push(workspace);
        decoded.map(|()| content)
    }

    fn lock_workspaces(&self) -> MutexGuard<'_, Vec<Workspace>> {
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: RangeSource> Disk for PackedDisk<S> {
    fn size_bytes(&self) -> u64 {
        self.root.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        check_range(offset, buf.len() as u64, self.root.size_bytes)?;
        let (mut offset, mut buf) = (offset, buf);
        while !buf.is_empty() {
            let block = offset / BLOCK_BYTES;
            let entry = self.page_from(block);
            let (end_block, entry) = match entry {
                Some(entry) if entry.first_block <= block => (entry.first_block + PAGE_BLOCKS, Some(entry)),
                Some(entry) => (entry.first_block, None),
                None => (self.root.blocks(), None),
            };
            let here = (end_block * BLOCK_BYTES - offset).min(buf.len() as u64);
            let (now, rest) = buf.split_at_mut(here as usize);
            match entry {
                Some(entry) => self.read_in_page(entry, offset, now)?,
                None => now.fill(0),
            }
            offset += here;
            buf = rest;
        }
        Ok(())
    }

    /// Loads at most one page, and answers to its end at most.
    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        check_range(offset, len, self.root.size_bytes)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let end = offset + len;
        let mut runs = RunList::default();
        let Some(entry) = self.page_from(offset / BLOCK_BYTES) else {
            return Ok(vec![Run { len, kind: RunKind::Zero }]);
        };
        let page_start = entry.first_block * BLOCK_BYTES;
        let mut at = offset;
        if at < page_start {
            let here = page_start.min(end) - at;
            runs.push(here, RunKind::Zero);
            at += here;
        }
        if at == end {
            return Ok(runs.0);
        }
        let page = self.page(entry)?;
        for (first, run) in page.runs_from(((at - page_start) / BLOCK_BYTES) as u32) {
            let run_end = page_start + (u64::from(first) + u64::from(run.blocks())) * BLOCK_BYTES;
            let here = run_end.min(end) - at;
            let kind = match run {
                PageRun::Zero { .. } => RunKind::Zero,
                PageRun::Chunk(_) => RunKind::Data,
            };
            runs.push(here, kind);
            at += here;
            if at == end {
                break;
            }
        }
        Ok(runs.0)
    }
}

impl Content {
    /// With room for `content_bytes`.
    fn empty(spare: &Arc<Spare>, content_bytes: usize) -> Self {
        Self {
            bytes: spare.take(content_bytes),
            checked: Mutex::default(),
            used_bytes: AtomicUsize::new(0),
            spare: Arc::clone(spare),
        }
    }

    /// Counts `bytes` more that were handed out. True if that makes as many as there are: whoever reads a
    /// disk, a guest or a copy, keeps what it has read, and will hardly ask for it again. Whoever does
    /// makes us fetch the frame once more, no worse.
    fn is_used_up(&self, bytes: usize) -> bool {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= self.bytes.len()
    }

    fn of(&self, chunk: &Chunk) -> &[u8] {
        let start = usize::from(chunk.first) * BLOCK_BYTES as usize;
        &self.bytes[start..start + usize::from(chunk.blocks) * BLOCK_BYTES as usize]
    }

    fn is_checked(&self, chunk: &Chunk) -> bool {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.get(&chunk.first) == Some(&(chunk.blocks, chunk.sha256))
    }

    fn mark_checked(&self, chunk: &Chunk) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.insert(chunk.first, (chunk.blocks, chunk.sha256));
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.spare.give(std::mem::take(&mut self.bytes));
    }
}

impl Spare {
    /// An empty buffer with room for `len` bytes, and not for many more: the cache counts content only.
    fn take(&self, len: usize) -> Vec<u8> {
        let kept = self.lock().pop_if(|buffer| (len..=2 * len).contains(&buffer.capacity()));
        kept.unwrap_or_else(|| Vec::with_capacity(len))
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut kept = self.lock();
        if kept.len() == MAX_SPARE {
            kept.remove(0);
        }
        kept.push(buffer);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs in order, adjacent ones of a kind joined.
#[derive(Debug, Default)]
struct RunList(Vec<Run>);

impl RunList {
    fn push(&mut self, len: u64, kind: RunKind) {
        match self.0.last_mut() {
            Some(last) if last.kind == kind => last.len += len,
            _ => self.0.push(Run { len, kind }),
        }
    }
}

fn read_root(layer: &DiskLayer, source: &impl RangeSource) -> Result<Root, ReadError> {
    let what = || format!("the root of the index of disk {}", layer.name);
    if layer.root.size_bytes > MAX_ROOT_BYTES {
        return Err(ReadError::Corrupt {
            format: "disk index",
            offset: 0,
            field: "root length",
            found: layer.root.size_bytes.to_string(),
            wanted: "no disk needs more than 14286880 bytes",
        });
    }
    let mut bytes = vec![0; layer.root.size_bytes as usize];
    source
        .read_range(&layer.index.digest, 0, &mut bytes)
        .map_err(|source| ReadError::Io { what: what(), source })?;
    let mut hasher = appliance::Hasher::new(layer.root.digest.algorithm());
    hasher.update(&bytes);
    let found = hasher.finish();
    if found != layer.root.digest {
        return Err(ReadError::WrongDigest {
            what: what(),
            found: found.to_string(),
            wanted: layer.root.digest.to_string(),
        });
    }
    let root = Root::parse(&bytes).map_err(|error| error.in_index(0))?;
    if root.index_bytes() != layer.index.size_bytes {
        return Err(ReadError::Corrupt {
            format: "disk index",
            offset: 0,
            field: "length",
            found: layer.index.size_bytes.to_string(),
            wanted: "its root's pages end where the index ends",
        });
    }
    Ok(root)
}

fn check_digest(wanted: &[u8; 32], found: &[u8; 32], what: impl Fn() -> String) -> Result<(), ReadError> {
    if wanted == found {
        return Ok(());
    }
    Err(ReadError::WrongDigest {
        what: what(),
        found: Digest::Sha256(*found).to_string(),
        wanted: Digest::Sha256(*wanted).to_string(),
    })
}
