//! One blob, from the local store to the registry.
//!
//! ```text
//! Closed --POST, 201: mounted---------------------------------------------------> done
//! Closed --POST--> Open(offset) --PATCH..PATCH--> Open(size) --PUT ?digest=--> done
//!   ^                 |  ^
//!   |              failure `--GET status--.
//!   `--- forgotten --- Lost --------------'
//! ```
//!
//! The opening `POST` asks for a mount, so a blob that another repository has is done at once.
//! A small blob is sent whole with the closing `PUT`. A larger one goes in chunks, so that a cut costs at
//! most one of them: the registry is asked how far it has come, and the upload goes on from there.
//!
//! Source: OCI distribution-spec 1.1, "Pushing a blob monolithically", "Pushing a blob in chunks".

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use appliance::{Blob, Digest};
use blob_store::{BlobFile, LocalStore, LocalStoreError};
use bytes::Bytes;
use futures_util::{Stream, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Body, Method, StatusCode, Url};

use crate::mount::Source;
use crate::on_thread::on_thread;
use crate::progress::Event;
use crate::push::PushError;
use crate::session::{Call, Session, Unjudged};
use crate::{Progress, RequestError};

/// The most that goes in one request: what a cut may cost.
const CHUNK_BYTES: u64 = 16 << 20;
/// The largest blob that is sent whole.
const WHOLE_BYTES: u64 = 1 << 20;
/// What is read from the store at a time.
const PIECE_BYTES: u64 = 256 << 10;
/// How often a running request is looked at, for progress and for standing still.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Types of what is sent.
const OCTETS: &str = "application/octet-stream";

/// What uploading a blob needs besides the blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uploader<'a> {
    pub(crate) session: &'a Session<'a>,
    /// Where blobs may be mounted from.
    pub(crate) sources: &'a [Source<'a>],
    pub(crate) store: &'a LocalStore,
    pub(crate) progress: &'a dyn Progress,
}

/// How a blob got to where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Sent,
    Mounted,
}

/// Where an upload stands.
#[derive(Debug, Clone)]
enum State {
    /// The registry knows of none.
    Closed,
    /// The registry has everything before `offset`.
    Open { location: Url, offset: u64 },
    /// Something failed; the registry may have more or less than we think.
    Lost { location: Url },
    /// The registry has the blob.
    Done(Arrival),
}

/// Why a step did not come off.
enum StepError {
    /// Perhaps another attempt helps.
    Request(RequestError),
    /// Our own copy cannot be read.
    Store(LocalStoreError),
}

impl From<RequestError> for StepError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

/// A chunk on its way: how much of it has been handed to the network, and what went wrong reading it.
#[derive(Debug, Default)]
struct Chunk {
    sent: AtomicU64,
    failure: Mutex<Option<io::Error>>,
}

impl Uploader<'_> {
    /// True if the registry has the blob.
    pub(crate) async fn is_present(self, digest: &Digest) -> Result<bool, RequestError> {
        let what = format!("blob {digest}");
        // A registry that redirects to where the blob lies has it.
        let wanted = [
            StatusCode::OK,
            StatusCode::FOUND,
            StatusCode::SEE_OTHER,
            StatusCode::TEMPORARY_REDIRECT,
            StatusCode::NOT_FOUND,
        ];
        let call = Call::new(Method::HEAD, self.session.blob_url(digest), &what, &wanted);
        let response = self.session.send(&call, self.progress).await?;
        Ok(response.status() != StatusCode::NOT_FOUND)
    }

    /// Uploads `blob`, unless the registry can mount it.
    pub(crate) async fn upload(self, blob: Blob) -> Result<Arrival, PushError> {
        let store = self.store.clone();
        let file = Arc::new(on_thread(move || store.blob(&blob.digest)).await?);
        if file.size_bytes() != blob.size_bytes {
            let (found, wanted) = (file.size_bytes(), blob.size_bytes);
            return Err(PushError::WrongSize { blob: blob.digest, found, wanted });
        }
        self.progress.report(Event::Started { blob, at_bytes: 0 });
        let (mut state, mut failures) = (State::Closed, self.session.failures());
        let arrival = loop {
            if let State::Done(arrival) = state {
                break arrival;
            }
            let offset = if let State::Open { offset, .. } = state { offset } else { 0 };
            match self.step(blob, &file, &state).await {
                Ok(next) => state = next,
                Err(StepError::Store(error)) => return Err(error.into()),
                Err(StepError::Request(error)) => {
                    let again =
                        self.session.wait_or_give_up(&mut failures, error, offset, self.progress).await;
                    again.map_err(|source| PushError::Blob { blob: blob.digest, source })?;
                    if let State::Open { location, .. } = state {
                        state = State::Lost { location };
                    }
                }
            }
        };
        if arrival == Arrival::Mounted {
            self.progress.report(Event::Mounted { blob });
        }
        self.progress.report(Event::Finished { blob });
        Ok(arrival)
    }

    async fn step(self, blob: Blob, file: &Arc<BlobFile>, state: &State) -> Result<State, StepError> {
        match state {
            State::Closed => Ok(self.start(blob).await?),
            State::Lost { location } => Ok(self.find_place(blob, location).await?),
            State::Open { location, offset } if blob.size_bytes <= WHOLE_BYTES && *offset == 0 => {
                let body = read(file, 0, blob.size_bytes).await.map_err(|error| self.damaged(blob, error))?;
                Ok(self.close(blob, location, body).await?)
            }
            State::Open { location, offset } if *offset == blob.size_bytes => {
                Ok(self.close(blob, location, Bytes::new()).await?)
            }
            State::Open { location, offset } => self.send_chunk(blob, file, location, *offset).await,
            State::Done(arrival) => Ok(State::Done(*arrival)),
        }
    }

    async fn start(self, blob: Blob) -> Result<State, RequestError> {
        match self.mount(blob).await {
            // Who may not read the source, or cannot mount, may still upload.
            Err(error) if !error.is_temporary() => self.open(blob).await,
            mounted => mounted,
        }
    }

    /// Asks for a mount. A registry that has no such blob there opens an upload.
    async fn mount(self, blob: Blob) -> Result<State, RequestError> {
        let source = self.sources.iter().find(|source| source.has(&blob.digest));
        let mut url = self.session.uploads_url();
        url.query_pairs_mut()
            .append_pair("mount", &blob.digest.to_string())
            .extend_pairs(source.map(|source| ("from", &source.name)));
        let what = upload_of(blob);
        let call = Call::new(Method::POST, url, &what, &[StatusCode::CREATED, StatusCode::ACCEPTED]);
        let session = source.map_or(self.session, |source| &source.session);
        let response = session.send_once(&call).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(State::Done(Arrival::Mounted));
        }
        Ok(State::Open { location: self.session.location(&response, &what)?, offset: 0 })
    }

    async fn open(self, blob: Blob) -> Result<State, RequestError> {
        let what = upload_of(blob);
        let call = Call::new(Method::POST, self.session.uploads_url(), &what, &[StatusCode::ACCEPTED]);
        let response = self.session.send_once(&call).await?;
        Ok(State::Open { location: self.session.location(&response, &what)?, offset: 0 })
    }

    /// Asks the registry how far the upload has come.
    async fn find_place(self, blob: Blob, location: &Url) -> Result<State, RequestError> {
        let what = upload_of(blob);
        let call = Call::new(Method::GET, location.clone(), &what, &[StatusCode::NO_CONTENT]);
        match self.session.send_once(&call).await {
            Ok(response) => {
                let offset =
                    received(response.headers()).filter(|offset| *offset <= blob.size_bytes).unwrap_or(0);
                // The answer need not repeat where the upload is.
                let location = self.session.location(&response, &what).unwrap_or_else(|_| location.clone());
                self.progress.report(Event::Resumed { blob, at_bytes: offset });
                Ok(State::Open { location, offset })
            }
            Err(error) if error.is_temporary() => Err(error),
            // It has forgotten the upload, or has finished it and could not say so any more.
            Err(_) if self.is_present(&blob.digest).await? => Ok(State::Done(Arrival::Sent)),
            Err(_) => {
                self.progress.report(Event::Resumed { blob, at_bytes: 0 });
                Ok(State::Closed)
            }
        }
    }

    async fn close(self, blob: Blob, location: &Url, body: Bytes) -> Result<State, RequestError> {
        let what = upload_of(blob);
        let mut url = location.clone();
        url.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let wanted = [StatusCode::CREATED, StatusCode::NO_CONTENT, StatusCode::NOT_FOUND];
        let bytes = body.len() as u64;
        let call = Call::new(Method::PUT, url, &what, &wanted).header(CONTENT_TYPE, OCTETS).body(body);
        let response = self.session.send_once(&call).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(RequestError::UploadLost { what, offset: blob.size_bytes });
        }
        if bytes > 0 {
            self.progress.report(Event::Moved { blob, bytes });
        }
        Ok(State::Done(Arrival::Sent))
    }

    async fn send_chunk(
        self,
        blob: Blob,
        file: &Arc<BlobFile>,
        location: &Url,
        offset: u64,
    ) -> Result<State, StepError> {
        let what = upload_of(blob);
        let end = blob.size_bytes.min(offset + CHUNK_BYTES);
        let chunk = Arc::new(Chunk::default());
        let body = Body::wrap_stream(pieces(file.clone(), offset, end, chunk.clone()));
        let request = self.session.stream(location, Method::PATCH, chunk_headers(offset, end), body);
        let response = self.watch(blob, location, &chunk, request).await;
        if let Some(error) = chunk.failure.lock().expect("nobody panics with it").take() {
            return Err(self.damaged(blob, error));
        }
        let lost = || RequestError::UploadLost { what: what.clone(), offset };
        let wanted = [StatusCode::ACCEPTED, StatusCode::RANGE_NOT_SATISFIABLE, StatusCode::NOT_FOUND];
        let response = self.session.judge(response?, &what, &wanted).await?.ok_or_else(lost)?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(lost().into());
        }
        match received(response.headers()) {
            Some(found) if found != end => {
                let found = format!("{found} bytes received");
                Err(RequestError::protocol(&what, found, format!("{end} bytes received")).into())
            }
            _ => Ok(State::Open { location: self.session.location(&response, &what)?, offset: end }),
        }
    }

    /// Runs a request whose body is `chunk`: reports what moves, and ends it when nothing does.
    async fn watch(
        self,
        blob: Blob,
        location: &Url,
        chunk: &Chunk,
        request: impl Future<Output = Result<Unjudged, RequestError>>,
    ) -> Result<Unjudged, RequestError> {
        let mut request = std::pin::pin!(request);
        let (mut reported, mut moved_at) = (0, Instant::now());
        loop {
            let answer = tokio::time::timeout(LOOK_EVERY, &mut request).await;
            let sent = chunk.sent.load(Ordering::Relaxed);
            if sent > reported {
                self.progress.report(Event::Moved { blob, bytes: sent - reported });
                (reported, moved_at) = (sent, Instant::now());
            }
            match answer {
                Ok(answer) => return answer,
                Err(_) if moved_at.elapsed() >= self.session.idle_timeout() => {
                    return Err(RequestError::stalled(location, self.session.idle_timeout()));
                }
                Err(_) => {}
            }
        }
    }

    fn damaged(self, blob: Blob, source: io::Error) -> StepError {
        let path = self.store.blob_path(&blob.digest);
        StepError::Store(LocalStoreError::Io { action: "read", path, source })
    }
}

fn upload_of(blob: Blob) -> String {
    format!("the upload of blob {}", blob.digest)
}

fn chunk_headers(offset: u64, end: u64) -> HeaderMap {
    let value = |text: String| HeaderValue::from_str(&text).expect("numbers are ASCII");
    [
        (CONTENT_TYPE, HeaderValue::from_static(OCTETS)),
        (CONTENT_LENGTH, value((end - offset).to_string())),
        (CONTENT_RANGE, value(format!("{offset}-{}", end - 1))),
    ]
    .into_iter()
    .collect()
}

/// The file's bytes from `offset` to `end`, read as they are asked for.
fn pieces(
    file: Arc<BlobFile>,
    offset: u64,
    end: u64,
    chunk: Arc<Chunk>,
) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
    stream::unfold(offset, move |at| {
        let (file, chunk) = (file.clone(), chunk.clone());
        async move {
            let len = PIECE_BYTES.min(end - at);
            if len == 0 {
                return None;
            }
            let piece = read(&file, at, len).await;
            match piece {
                Ok(piece) => {
                    chunk.sent.fetch_add(len, Ordering::Relaxed);
                    Some((Ok(piece), at + len))
                }
                Err(error) => {
                    let kind = error.kind();
                    *chunk.failure.lock().expect("nobody panics with it") = Some(error);
                    Some((Err(kind.into()), end))
                }
            }
        }
    })
}

async fn read(file: &Arc<BlobFile>, offset: u64, len: u64) -> io::Result<Bytes> {
    let file = file.clone();
    let mut piece = vec![0; usize::try_from(len).expect("pieces are small")];
    on_thread(move || file.read_at(offset, &mut piece).map(|()| piece.into())).await
}

/// How many bytes `Range: FIRST-LAST` says have been received. `0-0` is what registries write for none.
fn received(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?;
    let (first, last) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    match (first.parse().ok()?, last.parse::<u64>().ok()?) {
        (0, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_bytes_are_counted_from_an_inclusive_range() {
        let rows = [
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-18446744073709551615", None),
            ("x", None),
        ];
        for (text, want) in rows {
            let headers = [(RANGE, HeaderValue::from_static(text))].into_iter().collect();
            assert_eq!(received(&headers), want, "{text}");
        }
    }
}
