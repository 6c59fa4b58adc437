//! One blob, from the registry into the local store.
//!
//! ```text
//! body --pieces, about 256 KiB at a time, at most 4 on the way--> thread: write, hash --> commit
//! ```
//!
//! What has arrived survives a cut: the next attempt, or the next pull, asks for the rest with a single
//! `Range`. A registry that answers 200 instead of 206 starts the blob anew. No more is ever read than
//! the blob's descriptor allows, and nothing gets the blob's name that does not have its digest.
//!
//! Source: OCI distribution-spec 1.1, "Pulling blobs"; RFC 9110, sections 14.2 to 14.4.

use appliance::Blob;
use blob_store::{LocalStore, LocalStoreError, PartialBlob};
use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::on_thread::on_thread;
use crate::progress::Event;
use crate::pull::PullError;
use crate::session::{Call, Session};
use crate::{Progress, RequestError};

/// Pieces are handed to the writing thread in batches of about this size.
const BATCH_BYTES: usize = 256 << 10;
/// Batches that may wait for the writing thread.
const BATCHES_WAITING: usize = 4;

/// What fetching a blob needs besides the blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetcher<'a> {
    pub(crate) session: &'a Session<'a>,
    pub(crate) store: &'a LocalStore,
    /// Bounds the blobs that use the network. Flushing a blob to the disk needs none of it.
    pub(crate) network: &'a Semaphore,
    pub(crate) progress: &'a dyn Progress,
}

impl Fetcher<'_> {
    /// Fetches what is missing of `blob`, and returns how many bytes that were.
    pub(crate) async fn fetch(self, blob: Blob) -> Result<u64, PullError> {
        let (resumed, result) = self.fetch_rest(blob).await;
        match result {
            // What an earlier process left may have been damaged since, say by a power cut.
            Err(PullError::WrongDigest { .. }) if resumed => {
                self.progress.report(Event::Resumed { blob, at_bytes: 0 });
                self.fetch_rest(blob).await.1
            }
            result => result,
        }
    }

    /// As [`Fetcher::fetch`], without doubt about what is there already; says too if anything was.
    async fn fetch_rest(self, blob: Blob) -> (bool, Result<u64, PullError>) {
        let store = self.store.clone();
        let opened = on_thread(move || {
            let partial = store.partial(blob)?;
            // Whoever was filling it may have finished while we waited.
            Ok::<_, PullError>((!store.contains(&blob.digest)).then_some(partial))
        });
        let partial = match opened.await {
            Ok(partial) => partial,
            Err(error) => return (false, Err(error)),
        };
        let at_bytes = partial.as_ref().map_or(blob.size_bytes, PartialBlob::len);
        self.progress.report(Event::Started { blob, at_bytes });
        let Some(partial) = partial else {
            self.progress.report(Event::Finished { blob });
            return (false, Ok(0));
        };
        (at_bytes > 0, self.fill_and_commit(blob, partial).await)
    }

    async fn fill_and_commit(self, blob: Blob, partial: PartialBlob) -> Result<u64, PullError> {
        let permit = self.network.acquire().await.expect("the semaphore is never closed");
        let (partial, fetched) = self.fill(blob, partial).await?;
        drop(permit);
        on_thread(move || partial.commit()).await.map_err(wrong_digest)?;
        self.progress.report(Event::Finished { blob });
        Ok(fetched)
    }

    /// Makes `partial` whole, and says how many bytes were fetched for that.
    async fn fill(self, blob: Blob, mut partial: PartialBlob) -> Result<(PartialBlob, u64), PullError> {
        let (mut failures, mut fetched) = (self.session.failures(), 0);
        while partial.len() < blob.size_bytes {
            let attempt;
            (partial, attempt) = self.attempt(blob, partial, &mut fetched).await;
            match attempt {
                Ok(()) => {}
                Err(Trouble::Refused(error)) => return Err(error),
                Err(Trouble::Request(error)) => {
                    let have = partial.len();
                    let again = self.session.wait_or_give_up(&mut failures, error, have, self.progress).await;
                    again.map_err(|error| interrupted(blob, have, error))?;
                }
            }
        }
        Ok((partial, fetched))
    }

    /// One request for what `partial` lacks. What arrives is kept, however it ends.
    async fn attempt(
        self,
        blob: Blob,
        mut partial: PartialBlob,
        fetched: &mut u64,
    ) -> (PartialBlob, Result<(), Trouble>) {
        let response = match self.open(blob, &mut partial).await {
            Ok(response) => response,
            Err(trouble) => return (partial, Err(trouble)),
        };
        let start = partial.len();
        let mut sink = Sink::start(partial);
        let copied = self.copy(blob, start, response, &mut sink).await;
        let (partial, written) = sink.finish().await;
        *fetched += partial.len() - start;
        (partial, written.map_err(|error| Trouble::Refused(error.into())).and(copied))
    }

    /// Asks for what `partial` lacks. The answer's body starts where `partial` then ends.
    async fn open(self, blob: Blob, partial: &mut PartialBlob) -> Result<Response, Trouble> {
        let what = format!("blob {}", blob.digest);
        let start = partial.len();
        let url = self.session.blob_url(&blob.digest);
        let mut wanted = vec![StatusCode::OK];
        let mut call = Call::new(Method::GET, url, &what, &[]);
        if start > 0 {
            wanted.extend([StatusCode::PARTIAL_CONTENT, StatusCode::RANGE_NOT_SATISFIABLE]);
            call = call.header(RANGE, &format!("bytes={start}-{}", blob.size_bytes - 1));
        }
        call.wanted = &wanted;
        let response = self.session.send_once(&call).await.map_err(Trouble::Request)?;
        let size = match response.status() {
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some((first, total)) if first == start => {
                    check_size(blob, total)?;
                    return Ok(response);
                }
                // Another range than was asked for: this registry cannot go on in the middle.
                _ => None,
            },
            StatusCode::RANGE_NOT_SATISFIABLE => None,
            _ => Some(response.content_length()),
        };
        self.restart(blob, partial)?;
        match size {
            Some(size) => {
                check_size(blob, size)?;
                Ok(response)
            }
            None => Box::pin(self.open(blob, partial)).await,
        }
    }

    fn restart(self, blob: Blob, partial: &mut PartialBlob) -> Result<(), Trouble> {
        if partial.len() > 0 {
            partial.restart().map_err(|error| Trouble::Refused(error.into()))?;
            self.progress.report(Event::Resumed { blob, at_bytes: 0 });
        }
        Ok(())
    }

    /// Copies a body that starts at offset `start` of the blob.
    async fn copy(
        self,
        blob: Blob,
        start: u64,
        mut response: Response,
        sink: &mut Sink,
    ) -> Result<(), Trouble> {
        let mut at = start;
        while let Some(piece) = self.session.piece(&mut response).await.map_err(Trouble::Request)? {
            let bytes = piece.len() as u64;
            if bytes > blob.size_bytes - at {
                let error = PullError::TooLong { blob: blob.digest, wanted: blob.size_bytes };
                return Err(Trouble::Refused(error));
            }
            at += bytes;
            if sink.write(piece).await.is_err() {
                return Ok(()); // Its `finish` says why.
            }
            self.progress.report(Event::Moved { blob, bytes });
        }
        if at < blob.size_bytes {
            let what = format!("blob {}", blob.digest);
            return Err(Trouble::Request(RequestError::Short { what, found: at, wanted: blob.size_bytes }));
        }
        Ok(())
    }
}

/// Why a blob did not arrive.
enum Trouble {
    /// Perhaps another attempt helps.
    Request(RequestError),
    /// Nothing does.
    Refused(PullError),
}

/// Writes and hashes on a thread of its own, so that the network need not wait for either.
struct Sink {
    batches: mpsc::Sender<Vec<Bytes>>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    thread: JoinHandle<(PartialBlob, Result<(), LocalStoreError>)>,
}

/// The writing thread has ended early.
struct Ended;

impl Sink {
    fn start(mut partial: PartialBlob) -> Self {
        let (batches, mut incoming) = mpsc::channel::<Vec<Bytes>>(BATCHES_WAITING);
        let thread = tokio::task::spawn_blocking(move || {
            while let Some(batch) = incoming.blocking_recv() {
                for piece in batch {
                    if let Err(error) = partial.append(&piece) {
                        return (partial, Err(error));
                    }
                }
            }
            (partial, Ok(()))
        });
        Self { batches, batch: Vec::new(), batch_bytes: 0, thread }
    }

    async fn write(&mut self, piece: Bytes) -> Result<(), Ended> {
        self.batch_bytes += piece.len();
        self.batch.push(piece);
        if self.batch_bytes < BATCH_BYTES {
            return Ok(());
        }
        self.batch_bytes = 0;
        self.batches.send(std::mem::take(&mut self.batch)).await.map_err(|_| Ended)
    }

    /// Waits until everything is written, and returns the blob with all that has arrived.
    async fn finish(mut self) -> (PartialBlob, Result<(), LocalStoreError>) {
        // If the thread has ended early, it says why below.
        let _ = self.batches.send(std::mem::take(&mut self.batch)).await;
        drop(self.batches);
        match self.thread.await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// The store found that what the registry sent is not what was asked for.
fn wrong_digest(error: LocalStoreError) -> PullError {
    match error {
        LocalStoreError::WrongDigest { found, found_bytes, wanted } => {
            PullError::WrongDigest { what: format!("blob {wanted}"), found, found_bytes, wanted }
        }
        error => error.into(),
    }
}

fn interrupted(blob: Blob, have: u64, error: RequestError) -> PullError {
    if error.is_temporary() {
        PullError::Interrupted { blob: blob.digest, have, wanted: blob.size_bytes, source: error }
    } else {
        error.into()
    }
}

/// Refuses a blob whose announced size is not its descriptor's, before anything of it is read.
fn check_size(blob: Blob, announced: Option<u64>) -> Result<(), Trouble> {
    match announced {
        Some(found) if found != blob.size_bytes => {
            let wanted = blob.size_bytes;
            Err(Trouble::Refused(PullError::WrongSize { blob: blob.digest, found, wanted }))
        }
        _ => Ok(()),
    }
}

/// The first byte and, where it is told, the whole size from `Content-Range: bytes FIRST-LAST/SIZE`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, size) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, if size == "*" { None } else { Some(size.parse().ok()?) }))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn content_ranges_are_read_or_count_as_absent() {
        let rows = [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes */10", None),
            ("5-9/10", None),
            ("bytes 5-9", None),
            ("bytes -1-9/10", None),
            ("bytes 5-9/x", None),
        ];
        for (text, want) in rows {
            let headers = [(CONTENT_RANGE, HeaderValue::from_static(text))].into_iter().collect();
            assert_eq!(content_range(&headers), want, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_content_range_is_too_strange_to_be_read(text in "bytes [0-9*/ -]{0,50}") {
            let value = HeaderValue::from_str(&text).unwrap();
            let _ = content_range(&[(CONTENT_RANGE, value)].into_iter().collect());
        }
    }
}
