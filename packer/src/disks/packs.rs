//! Writing new packs: frames in order, end to end, on a thread of its own.

use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use appliance::Blob;
use blob_store::{BlobWriter, LocalStore, LocalStoreError};

use super::WriteError;
use super::workers::{Buffers, Promise};

/// A thread that writes frames into packs, and those into the store.
#[derive(Debug)]
pub(super) struct PackWriter<'scope> {
    frames: SyncSender<Next>,
    thread: ScopedJoinHandle<'scope, Result<WrittenPacks, WriteError>>,
}

/// What the thread is told.
enum Next {
    Frame(Promise<Vec<u8>>),
    /// All frames have been given. If this does not come, the packing has failed, and the last pack is
    /// not kept.
    End,
}

/// The new packs.
#[derive(Debug, Default)]
pub(super) struct WrittenPacks {
    pub(super) packs: Vec<Blob>,
    /// Where each frame lies, in the order in which they were given.
    pub(super) frames: Vec<WrittenFrame>,
}

/// Where a new frame lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct WrittenFrame {
    /// Which of the new packs.
    pub(super) pack: u32,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl<'scope> PackWriter<'scope> {
    /// Starts the thread. `waiting` frames may be on their way to it.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        store: &'env LocalStore,
        pack_bytes: u64,
        waiting: usize,
        buffers: Buffers,
    ) -> Self {
        let (frames, arriving) = sync_channel(waiting);
        let thread = scope.spawn(move || write(scope, store, pack_bytes, &arriving, &buffers));
        Self { frames, thread }
    }

    /// Gives it the next frame, which need not be compressed yet. False if it has failed;
    /// [`PackWriter::finish`] then says why.
    pub(super) fn frame(&self, frame: Promise<Vec<u8>>) -> bool {
        self.frames.send(Next::Frame(frame)).is_ok()
    }

    /// Waits until all packs are in the store.
    pub(super) fn finish(self) -> Result<WrittenPacks, WriteError> {
        // A thread that has failed listens no more.
        let _ = self.frames.send(Next::End);
        self.thread.join().expect("the thread that writes packs does not panic")
    }
}

type Commit<'scope> = ScopedJoinHandle<'scope, Result<Blob, LocalStoreError>>;

fn write<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    store: &'env LocalStore,
    pack_bytes: u64,
    arriving: &Receiver<Next>,
    buffers: &Buffers,
) -> Result<WrittenPacks, WriteError> {
    let mut written = WrittenPacks::default();
    let mut open: Option<(BlobWriter, u64)> = None;
    // Flushing a pack to the disk takes as long as filling the next one: it has a thread of its own.
    let mut flushing: Option<Commit<'scope>> = None;
    let mut packs = 0;
    loop {
        let frame = match arriving.recv() {
            Ok(Next::Frame(frame)) => frame.wait(),
            Ok(Next::End) => break,
            Err(_) => return Ok(WrittenPacks::default()),
        };
        let len = frame.len() as u64;
        if let Some((pack, _)) = open.take_if(|(_, size)| *size + len > pack_bytes) {
            settle(&mut written, flushing.replace(scope.spawn(move || pack.commit())))?;
        }
        let (pack, offset) = match &mut open {
            Some(open) => open,
            None => {
                packs += 1;
                open.insert((store.writer()?, 0))
            }
        };
        pack.write_all(&frame).map_err(WriteError::WritePack)?;
        written.frames.push(WrittenFrame { pack: packs - 1, offset: *offset, len: frame.len() as u32 });
        *offset += len;
        buffers.give(frame);
    }
    settle(&mut written, flushing)?;
    if let Some((pack, _)) = open {
        written.packs.push(pack.commit()?);
    }
    Ok(written)
}

fn settle(written: &mut WrittenPacks, flushing: Option<Commit<'_>>) -> Result<(), WriteError> {
    if let Some(commit) = flushing {
        written.packs.push(commit.join().expect("a commit does not panic")?);
    }
    Ok(())
}
