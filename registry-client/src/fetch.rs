//! One blob, from the registry into the local store.
//!
//! ```text
//! body --pieces, about 1 MiB at a time, at most 2 on the way--> thread: write, hash --> commit
//! ```
//!
//! What has arrived survives a cut: the next attempt, or the next pull, asks for the rest with a single
//! `Range`. A registry that answers 200 instead of 206 starts the blob anew. No more is ever read than
//! the blob's descriptor allows, and nothing gets the blob's name that does not have its digest.
//!
//! A pack with a [`Recipe`] is made of frames that are rebuilt from what is here and of single ranges, front
//! to back, so that it, too, can be cut and gone on with. If that does not give its digest, it is
//! fetched whole.
//!
//! Source: OCI distribution-spec 1.1, "Pulling blobs"; RFC 9110, sections 14.2 to 14.4.

use std::sync::Arc;

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
use crate::rebuild::{NotRebuilt, Rebuilder};
use crate::recipe::{Recipe, Recipes, Step};
use crate::session::{Call, Session};
use crate::{Progress, RequestError};

/// Pieces are handed to the writing thread in batches of about this size.
const BATCH_BYTES: usize = 1 << 20;
/// Batches that may wait for the writing thread.
const BATCHES_WAITING: usize = 2;

/// What fetching a blob needs besides the blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetcher<'a> {
    pub(crate) session: &'a Session<'a>,
    pub(crate) store: &'a LocalStore,
    /// Bounds the blobs that use the network. Flushing a blob to the disk needs none of it.
    pub(crate) network: &'a Semaphore,
    pub(crate) recipes: &'a Recipes,
    pub(crate) progress: &'a dyn Progress,
}

/// What it took to have a blob, or several.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moved {
    /// Bytes that were fetched, in all attempts.
    pub(crate) fetched: u64,
    /// Bytes of the blob that need not be fetched, because local chunks gave them.
    pub(crate) rebuilt: u64,
}

impl Moved {
    pub(crate) fn add(self, other: Self) -> Self {
        Self { fetched: self.fetched + other.fetched, rebuilt: self.rebuilt + other.rebuilt }
    }
}

/// How a blob is made whole.
#[derive(Debug, Clone, Copy)]
enum Way<'a> {
    /// From what an earlier attempt left, by the recipe if there is one.
    GoOn(Option<&'a Recipe>),
    /// From nothing, by one plain request.
    Anew,
}

impl Fetcher<'_> {
    /// Fetches, or rebuilds, what is missing of `blob`.
    pub(crate) async fn fetch(self, blob: Blob) -> Result<Moved, PullError> {
        let recipe = self.recipes.get(&blob.digest);
        let mut moved = Moved::default();
        let (resumed, result) = self.fetch_rest(blob, Way::GoOn(recipe), &mut moved).await;
        let anew = match &result {
            // What an earlier process left may have been damaged since, say by a power cut, and another
            // encoder may have made what was rebuilt.
            Err(PullError::WrongDigest { .. }) => resumed || recipe.is_some(),
            // A registry need not like ranges.
            Err(PullError::Request(RequestError::Refused { .. }) | PullError::TooLong { .. }) => {
                recipe.is_some()
            }
            _ => false,
        };
        if anew {
            self.progress.report(Event::Resumed { blob, at_bytes: 0 });
            moved.rebuilt = 0;
            self.fetch_rest(blob, Way::Anew, &mut moved).await.1?;
        } else {
            result?;
        }
        Ok(moved)
    }

    /// As [`Fetcher::fetch`], once; says too if anything was there already.
    async fn fetch_rest(self, blob: Blob, way: Way<'_>, moved: &mut Moved) -> (bool, Result<(), PullError>) {
        let (store, forget) = (self.store.clone(), matches!(way, Way::Anew));
        let opened = on_thread(move || {
            let mut partial = store.partial(blob)?;
            if forget {
                partial.restart()?;
            }
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
            return (false, Ok(()));
        };
        (at_bytes > 0, self.fill_and_commit(blob, partial, way, moved).await)
    }

    async fn fill_and_commit(
        self,
        blob: Blob,
        mut partial: PartialBlob,
        way: Way<'_>,
        moved: &mut Moved,
    ) -> Result<(), PullError> {
        let permit = self.network.acquire().await.expect("the semaphore is never closed");
        if let Way::GoOn(Some(recipe)) = way {
            partial = self.follow(blob, recipe, partial, moved).await?;
        }
        let partial = self.fill(blob, partial, blob.size_bytes, moved).await?;
        drop(permit);
        on_thread(move || partial.commit()).await.map_err(wrong_digest)?;
        self.progress.report(Event::Finished { blob });
        Ok(())
    }

    /// Makes what `partial` lacks by the recipe, as far as that goes.
    async fn follow(
        self,
        blob: Blob,
        recipe: &Recipe,
        mut partial: PartialBlob,
        moved: &mut Moved,
    ) -> Result<PartialBlob, PullError> {
        let mut rebuilder = Rebuilder::new(self.store.clone());
        for step in &recipe.steps {
            let frame = match step {
                Step::Fetch { end } => {
                    partial = self.fill(blob, partial, *end, moved).await?;
                    continue;
                }
                // It is there, or the registry has sent the whole blob.
                Step::Rebuild(frame) if frame.end() <= partial.len() => continue,
                Step::Rebuild(frame) => Arc::clone(frame),
            };
            let (before, end) = (partial.len(), frame.end());
            let rebuilt;
            (partial, rebuilder, rebuilt) = on_thread(move || {
                let rebuilt = rebuilder.append(&frame, &mut partial);
                (partial, rebuilder, rebuilt)
            })
            .await;
            match rebuilt {
                Ok(()) => {
                    let bytes = partial.len() - before;
                    moved.rebuilt += bytes;
                    self.progress.report(Event::Rebuilt { blob, bytes });
                }
                Err(NotRebuilt::Unreadable) => partial = self.fill(blob, partial, end, moved).await?,
                Err(NotRebuilt::OtherEncoder) => {
                    // What was rebuilt so far had the right length by chance only.
                    if moved.rebuilt > 0 {
                        self.restart(blob, &mut partial, moved)?;
                    }
                    break;
                }
                Err(NotRebuilt::Store(error)) => return Err(error.into()),
            }
        }
        Ok(partial)
    }

    /// Fetches what `partial` lacks up to `end`; more, if the registry sends the whole blob.
    async fn fill(
        self,
        blob: Blob,
        mut partial: PartialBlob,
        end: u64,
        moved: &mut Moved,
    ) -> Result<PartialBlob, PullError> {
        let mut failures = self.session.failures();
        while partial.len() < end {
            let attempt;
            (partial, attempt) = self.attempt(blob, partial, end, moved).await;
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
        Ok(partial)
    }

    /// One request for what `partial` lacks up to `end`. What arrives is kept, however it ends.
    async fn attempt(
        self,
        blob: Blob,
        mut partial: PartialBlob,
        end: u64,
        moved: &mut Moved,
    ) -> (PartialBlob, Result<(), Trouble>) {
        let (response, end) = match self.open(blob, &mut partial, end, moved).await {
            Ok(opened) => opened,
            Err(trouble) => return (partial, Err(trouble)),
        };
        let start = partial.len();
        let mut sink = Sink::start(partial);
        let copied = self.copy(blob, (start, end), response, &mut sink).await;
        let (partial, written) = sink.finish().await;
        moved.fetched += partial.len() - start;
        (partial, written.map_err(|error| Trouble::Refused(error.into())).and(copied))
    }

    /// Asks for what `partial` lacks up to `end`. The answer's body starts where `partial` then ends, and
    /// goes to the offset that comes with it: `end`, or the blob's own end.
    async fn open(
        self,
        blob: Blob,
        partial: &mut PartialBlob,
        end: u64,
        moved: &mut Moved,
    ) -> Result<(Response, u64), Trouble> {
        let what = format!("blob {}", blob.digest);
        let start = partial.len();
        let url = self.session.blob_url(&blob.digest);
        let mut wanted = vec![StatusCode::OK];
        let mut call = Call::new(Method::GET, url, &what, &[]);
        if start > 0 || end < blob.size_bytes {
            wanted.extend([StatusCode::PARTIAL_CONTENT, StatusCode::RANGE_NOT_SATISFIABLE]);
            call = call.header(RANGE, &format!("bytes={start}-{}", end - 1));
        }
        call.wanted = &wanted;
        let response = self.session.send_once(&call).await.map_err(Trouble::Request)?;
        let size = match response.status() {
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some(range) if range.first == start && range.last < end => {
                    check_size(blob, range.size)?;
                    return Ok((response, end));
                }
                // Another range than was asked for: this registry cannot go on in the middle.
                _ => None,
            },
            StatusCode::RANGE_NOT_SATISFIABLE => None,
            _ => Some(response.content_length()),
        };
        self.restart(blob, partial, moved).map_err(Trouble::Refused)?;
        match size {
            Some(size) => {
                check_size(blob, size)?;
                Ok((response, blob.size_bytes))
            }
            None => Box::pin(self.open(blob, partial, blob.size_bytes, moved)).await,
        }
    }

    fn restart(self, blob: Blob, partial: &mut PartialBlob, moved: &mut Moved) -> Result<(), PullError> {
        if partial.len() > 0 {
            partial.restart()?;
            moved.rebuilt = 0;
            self.progress.report(Event::Resumed { blob, at_bytes: 0 });
        }
        Ok(())
    }

    /// Copies a body that goes from `start` to `end` of the blob.
    async fn copy(
        self,
        blob: Blob,
        (start, end): (u64, u64),
        mut response: Response,
        sink: &mut Sink,
    ) -> Result<(), Trouble> {
        let mut at = start;
        while let Some(piece) = self.session.piece(&mut response).await.map_err(Trouble::Request)? {
            let bytes = piece.len() as u64;
            if bytes > end - at {
                let error = PullError::TooLong { blob: blob.digest, wanted: blob.size_bytes };
                return Err(Trouble::Refused(error));
            }
            at += bytes;
            if sink.write(piece).await.is_err() {
                return Ok(()); // Its `finish` says why.
            }
            self.progress.report(Event::Moved { blob, bytes });
        }
        if at < end {
            let what = format!("blob {}", blob.digest);
            return Err(Trouble::Request(RequestError::Short { what, found: at, wanted: end }));
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

/// What `Content-Range: bytes FIRST-LAST/SIZE` says; the size may be left open as `*`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) first: u64,
    last: u64,
    size: Option<u64>,
}

pub(crate) fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let (range, size) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let size = if size == "*" { None } else { Some(size.parse().ok()?) };
    Some(ContentRange { first: first.parse().ok()?, last: last.parse().ok()?, size })
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn content_ranges_are_read_or_count_as_absent() {
        let rows = [
            ("bytes 5-9/10", Some(ContentRange { first: 5, last: 9, size: Some(10) })),
            ("bytes 5-9/*", Some(ContentRange { first: 5, last: 9, size: None })),
            ("bytes 5-/10", None),
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
