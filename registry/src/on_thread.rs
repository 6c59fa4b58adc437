//! Work that keeps a processor busy, where it keeps nobody else waiting.

/// What so many bytes take is not worth another thread.
const LITTLE: usize = 64 << 10;

/// Does `work` on `bytes` bytes: at once if they are few, else on a thread that may block. A panic is the
/// caller's.
pub(crate) async fn on_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= LITTLE {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
