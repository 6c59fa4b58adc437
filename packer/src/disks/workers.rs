//! Threads that do one piece of work after another, and the buffers that they share.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use formats::packed::{FrameDecoder, FrameEncoder, MAX_FRAME_BLOCKS, max_frame_bytes};

type Job<'env> = Box<dyn FnOnce(&mut Codec) + Send + 'env>;

/// What each thread has of its own.
#[derive(Debug)]
pub(super) struct Codec {
    pub(super) encoder: FrameEncoder,
    pub(super) decoder: FrameDecoder,
}

/// A fixed number of threads with one queue.
#[derive(Debug)]
pub(super) struct Workers<'env> {
    queue: SyncSender<Job<'env>>,
}

/// What a piece of work will result in.
#[derive(Debug)]
pub(super) struct Promise<T>(Receiver<T>);

/// Buffers that are used again, so that the kernel need not give fresh pages for each.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl<'env> Workers<'env> {
    /// Starts `threads` threads that end when the result is dropped and its queue is empty.
    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, 'env>, threads: usize, level: i32) -> Self {
        // Whoever queues work also waits for it, so the queue is never longer than what they wait for.
        let (queue, jobs) = sync_channel::<Job<'env>>(8 * threads);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..threads {
            let jobs = Arc::clone(&jobs);
            scope.spawn(move || {
                let mut codec = Codec { encoder: FrameEncoder::new(level), decoder: FrameDecoder::default() };
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match job {
                        Ok(job) => job(&mut codec),
                        Err(_) => return,
                    }
                }
            });
        }
        Self { queue }
    }

    /// Queues `work`.
    pub(super) fn run<T: Send + 'env>(&self, work: impl FnOnce(&mut Codec) -> T + Send + 'env) -> Promise<T> {
        let (sender, receiver) = sync_channel(1);
        let job: Job<'env> = Box::new(move |codec| {
            // Nobody waits any more if the packing has failed elsewhere.
            let _ = sender.send(work(codec));
        });
        self.queue.send(job).expect("the workers run as long as their queue is there");
        Promise(receiver)
    }
}

impl<T> Promise<T> {
    /// Waits for the result.
    pub(super) fn wait(self) -> T {
        self.0.recv().expect("a worker does what was queued")
    }
}

impl Buffers {
    /// An empty buffer, large enough for a window, a frame's content or a frame.
    pub(super) fn take(&self) -> Vec<u8> {
        let mut buffer = self.pop();
        buffer.clear();
        buffer
    }

    /// A buffer of `len` bytes, with whatever was in it.
    pub(super) fn take_len(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.pop();
        buffer.resize(len, 0);
        buffer
    }

    /// Gives a buffer back.
    pub(super) fn give(&self, buffer: Vec<u8>) {
        self.lock().push(buffer);
    }

    fn pop(&self) -> Vec<u8> {
        let kept = self.lock().pop();
        kept.unwrap_or_else(|| Vec::with_capacity(max_frame_bytes(MAX_FRAME_BLOCKS) as usize))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
