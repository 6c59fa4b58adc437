//! Blob uploads: the work. The rules are [`crate::upload`]'s.
//!
//! ```text
//! socket --> hash --> batch --> append to the session, while the next batch arrives
//! ```
//!
//! - Content is hashed as it arrives, so the closing `PUT` compares and does not read again. Only where
//!   the hash is lost or is not the one that is asked for (after a restart, where the storage failed or a
//!   quota was reached in the middle, where another server went on) is an upload read once, to catch up.
//! - An upload takes one request at a time. A newer one overtakes an older one: a client whose
//!   connection broke comes back before the server has noticed.
//! - A request that began is carried to its end in a task of its own, so a client that goes away
//!   leaves no half-done append behind, and what had arrived is kept for the next attempt.
//! - That attempt may come to another server on the same storage. What is remembered here is used only
//!   while the storage says that nobody else has changed the upload; and a server that finds it changed
//!   gives way, and leaves it alone.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use appliance::{Algorithm, Digest};
use blob_store::{Session, SessionId, Sharing, Storage, StorageError};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::sync::{OwnedMutexGuard, watch};

use crate::access::principal::Principal;
use crate::batch::Batches;
use crate::clock::Clock;
use crate::hashed::Hashed;
use crate::http::body::{BodyError, RequestBody};
use crate::intake::{Intake, Rank};
use crate::layout;
use crate::name::{RepositoryName, UploadId};
use crate::quota::Room;
use crate::random;
use crate::repository::{Repositories, RepositoryError, Stored};
use crate::upload::{ChunkHead, Upload, UploadError};

/// What uploads may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UploadLimits {
    pub(crate) blob_bytes: u64,
    pub(crate) open_uploads: usize,
    pub(crate) expiry: Duration,
}

/// All uploads of a server.
#[derive(Debug)]
pub(crate) struct Uploads {
    storage: Arc<dyn Storage>,
    repositories: Arc<Repositories>,
    clock: Arc<dyn Clock>,
    limits: UploadLimits,
    batches: Arc<Batches>,
    open: Mutex<HashMap<SessionId, Arc<OpenUpload>>>,
}

/// Where an upload goes, and whose it is. To others it is not there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) repository: &'a RepositoryName,
    pub(crate) owner: &'a Principal,
}

/// Why an upload did not go on. Unless the error says otherwise, what had arrived is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadsError {
    /// Finished, cancelled, expired, of another repository, or never opened.
    #[error("there is no such upload in this repository")]
    Unknown,
    /// The chunk does not fit.
    #[error(transparent)]
    Rule(#[from] UploadError),
    /// The chunk did not arrive whole.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A newer request goes on with the upload, here or at another server.
    #[error("a newer request for this upload has taken over")]
    Overtaken,
    /// The content is not what its digest promises. The upload is gone.
    #[error("the content has digest {found}; the request says {wanted}")]
    WrongDigest { wanted: Digest, found: Digest },
    /// Too many uploads are open.
    #[error("too many uploads are open; try again later")]
    TooMany,
    /// The storage failed.
    #[error(transparent)]
    Storage(StorageError),
    /// The repository does not take the blob.
    #[error(transparent)]
    Repository(RepositoryError),
}

impl From<StorageError> for UploadsError {
    /// What a session says that somebody else has changed or ended is no failure of the storage.
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::WrongOffset { .. } => Self::Overtaken,
            StorageError::NoSession { .. } => Self::Unknown,
            error => Self::Storage(error),
        }
    }
}

impl From<RepositoryError> for UploadsError {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::Storage(error) => error.into(),
            error => Self::Repository(error),
        }
    }
}

/// What is remembered of an upload between requests. All of it can be found again in the storage.
#[derive(Debug)]
struct OpenUpload {
    /// The number of the newest request. Whoever has a smaller one gives way.
    newest: watch::Sender<u64>,
    received: AtomicU64,
    /// What is set aside for it where the repository has a quota: what has arrived, and what a request
    /// under way has promised.
    room: Option<Room>,
    /// Held by the request whose turn it is.
    hashed: Arc<tokio::sync::Mutex<Option<Hashed>>>,
}

impl Target<'_> {
    fn session(&self, upload: UploadId) -> SessionId {
        layout::session(self.repository, self.owner, upload)
    }
}

impl Uploads {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        repositories: Arc<Repositories>,
        clock: Arc<dyn Clock>,
        limits: UploadLimits,
    ) -> Self {
        let (batches, open) = (Arc::default(), Mutex::default());
        Self { storage, repositories, clock, limits, batches, open }
    }

    /// Opens an upload.
    pub(crate) async fn begin(&self, to: Target<'_>) -> Result<UploadId, UploadsError> {
        if self.open().len() >= self.limits.open_uploads {
            return Err(UploadsError::TooMany);
        }
        self.repositories.check_not_full(to.repository).await?;
        let upload = UploadId::new(self.clock.now(), random::bytes());
        let id = to.session(upload);
        self.storage.begin(id).await?;
        self.entry(id, to.repository);
        Ok(upload)
    }

    /// How many bytes have arrived.
    pub(crate) async fn received(&self, to: Target<'_>, upload: UploadId) -> Result<u64, UploadsError> {
        let id = to.session(upload);
        let known = self.open().get(&id).cloned();
        // What is arriving here is not in the storage yet; what others did is nowhere else.
        let is_shared = self.storage.sharing() == Sharing::Shared;
        match known {
            Some(upload) if !is_shared || upload.hashed.try_lock().is_err() => {
                Ok(upload.received.load(Ordering::Acquire))
            }
            _ => Ok(self.resume(id).await?.size_bytes()),
        }
    }

    /// Appends a chunk; once this returns, it survives a power cut. Returns where the next one must
    /// start.
    pub(crate) async fn append(
        self: &Arc<Self>,
        to: Target<'_>,
        upload: UploadId,
        head: ChunkHead,
        body: RequestBody,
    ) -> Result<u64, UploadsError> {
        let (this, id) = (Arc::clone(self), to.session(upload));
        let repository = to.repository.clone();
        to_the_end(async move {
            let mut turn = this.turn(id, &repository).await?;
            let received = turn.receive(&this, head, body, turn.algorithm()).await;
            this.keep(&mut turn, received).await?;
            Ok(turn.session.size_bytes())
        })
        .await
    }

    /// Appends the last chunk, which may be empty, and makes the upload a blob of the repository.
    pub(crate) async fn finish(
        self: &Arc<Self>,
        to: Target<'_>,
        upload: UploadId,
        digest: Digest,
        head: ChunkHead,
        body: RequestBody,
    ) -> Result<(), UploadsError> {
        let (this, id) = (Arc::clone(self), to.session(upload));
        let repository = to.repository.clone();
        to_the_end(async move {
            let mut turn = this.turn(id, &repository).await?;
            turn.free_bytes = this.repositories.free_bytes(&repository, &digest).await?;
            match turn.receive(&this, head, body, digest.algorithm()).await {
                Ok(()) => this.publish(turn, &repository, digest).await,
                failed => this.keep(&mut turn, failed).await,
            }
        })
        .await
    }

    /// Stores a blob that arrives in one request. Nothing is kept after an error.
    pub(crate) async fn push(
        self: &Arc<Self>,
        to: Target<'_>,
        digest: Digest,
        head: ChunkHead,
        body: RequestBody,
    ) -> Result<(), UploadsError> {
        let id = to.session(self.begin(to).await?);
        let (this, repository) = (Arc::clone(self), to.repository.clone());
        to_the_end(async move {
            let mut turn = this.turn(id, &repository).await?;
            turn.free_bytes = this.repositories.free_bytes(&repository, &digest).await?;
            if let Err(error) = turn.receive(&this, head, body, digest.algorithm()).await {
                this.forget(id).await?;
                return Err(error);
            }
            this.publish(turn, &repository, digest).await
        })
        .await
    }

    /// Gives an upload up.
    pub(crate) async fn cancel(&self, to: Target<'_>, upload: UploadId) -> Result<(), UploadsError> {
        let turn = self.turn(to.session(upload), to.repository).await?;
        self.forget(turn.id).await
    }

    /// Forgets uploads that nobody has appended to for longer than the limit. Returns how many.
    pub(crate) async fn expire(&self, now: SystemTime) -> Result<usize, UploadsError> {
        let mut expired = 0;
        let mut gone: HashSet<SessionId> = self.open().keys().copied().collect();
        for session in self.storage.sessions().await? {
            gone.remove(&session.id);
            let is_old = now.duration_since(session.modified).is_ok_and(|age| age > self.limits.expiry);
            let entry = self.open().get(&session.id).cloned();
            // One whose turn somebody has is in use, however long ago its last byte arrived.
            let turn = entry.as_ref().map(|upload| Arc::clone(&upload.hashed).try_lock_owned());
            if is_old && !matches!(turn, Some(Err(_))) {
                self.forget(session.id).await?;
                expired += 1;
            }
        }
        // Another server has finished or forgotten those.
        self.open().retain(|id, upload| !gone.contains(id) || upload.hashed.try_lock().is_err());
        Ok(expired)
    }

    /// How many uploads this server holds open.
    pub(crate) fn open_count(&self) -> usize {
        self.open().len()
    }

    /// Waits until the upload is this request's alone, and opens it.
    async fn turn(&self, id: SessionId, repository: &RepositoryName) -> Result<Turn, UploadsError> {
        let upload = self.entry(id, repository);
        let mut number = 0;
        upload.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        let newest = upload.newest.subscribe();
        let mut hashed = Arc::clone(&upload.hashed).lock_owned().await;
        let session = self.resume(id).await?;
        upload.received.store(session.size_bytes(), Ordering::Release);
        hashed.take_if(|hashed| !hashed.is_of(&*session));
        let began_at = session.size_bytes();
        Ok(Turn { id, upload, free_bytes: 0, hashed, session, began_at, rank: Rank { number, newest } })
    }

    /// Makes what a request brought durable, if it did its work or else brought anything: the client may
    /// go on from there, at any server. Returns how the request ended.
    async fn keep(&self, turn: &mut Turn, received: Result<(), UploadsError>) -> Result<(), UploadsError> {
        match &received {
            // Then what arrived may be lost. The next request is told where to go on.
            Err(UploadsError::Storage(_)) => return received,
            Err(_) if turn.session.size_bytes() == turn.began_at => return received,
            _ => {}
        }
        match turn.sync().await {
            Ok(()) => received,
            Err(error @ UploadsError::Storage(_)) => {
                // What the session holds is not certain any more.
                self.forget(turn.id).await?;
                Err(error)
            }
            // The session is somebody else's.
            Err(error) => Err(error),
        }
    }

    async fn publish(
        &self,
        mut turn: Turn,
        repository: &RepositoryName,
        wanted: Digest,
    ) -> Result<(), UploadsError> {
        let hashed = turn.hashed.take().expect("whoever received a chunk has hashed it");
        let found = hashed.finish();
        if found != wanted {
            self.forget(turn.id).await?;
            return Err(UploadsError::WrongDigest { wanted, found });
        }
        let room = turn.upload.room.as_ref();
        let stored = self.repositories.store_blob(repository, &wanted, turn.session, room).await;
        match stored.map_err(UploadsError::from) {
            Ok(Stored::FromSession) => {
                self.open().remove(&turn.id);
                Ok(())
            }
            Ok(Stored::WasHere) => self.forget(turn.id).await,
            // The session is somebody else's.
            Err(error @ (UploadsError::Overtaken | UploadsError::Unknown)) => Err(error),
            Err(error) => {
                self.forget(turn.id).await?;
                Err(error)
            }
        }
    }

    async fn resume(&self, id: SessionId) -> Result<Box<dyn Session>, UploadsError> {
        match self.storage.resume(id).await {
            Err(StorageError::NoSession { .. }) => {
                self.open().remove(&id);
                Err(UploadsError::Unknown)
            }
            session => Ok(session?),
        }
    }

    async fn forget(&self, id: SessionId) -> Result<(), UploadsError> {
        self.open().remove(&id);
        Ok(self.storage.abort(id).await?)
    }

    fn entry(&self, id: SessionId, repository: &RepositoryName) -> Arc<OpenUpload> {
        let new = || {
            let (newest, received) = (watch::Sender::new(0), AtomicU64::new(0));
            let room = self.repositories.room(repository);
            Arc::new(OpenUpload { newest, received, room, hashed: Arc::default() })
        };
        Arc::clone(self.open().entry(id).or_insert_with(new))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<OpenUpload>>> {
        self.open.lock().expect("nobody panics while holding the uploads")
    }
}

/// An upload in the hands of the one request whose turn it is.
struct Turn {
    id: SessionId,
    upload: Arc<OpenUpload>,
    /// So many bytes need no room: the blob that they are to become is here already.
    free_bytes: u64,
    /// `None` until what is stored was hashed, while a body arrives, and after that failed.
    hashed: OwnedMutexGuard<Option<Hashed>>,
    session: Box<dyn Session>,
    /// What the session held before this request, in bytes.
    began_at: u64,
    rank: Rank,
}

impl Turn {
    /// The algorithm to hash with while the digest is not known.
    fn algorithm(&self) -> Algorithm {
        self.hashed.as_ref().map_or(Algorithm::Sha256, Hashed::algorithm)
    }

    /// Appends the body to the session. Unless the storage or a quota refused some, all of the session is
    /// hashed afterwards.
    async fn receive(
        &mut self,
        uploads: &Uploads,
        head: ChunkHead,
        body: RequestBody,
        algorithm: Algorithm,
    ) -> Result<(), UploadsError> {
        let received = self.receive_chunk(uploads, head, body, algorithm).await;
        if let (Err(_), Some(room)) = (&received, &self.upload.room) {
            room.hold(self.session.size_bytes());
        }
        received
    }

    async fn receive_chunk(
        &mut self,
        uploads: &Uploads,
        head: ChunkHead,
        body: RequestBody,
        algorithm: Algorithm,
    ) -> Result<(), UploadsError> {
        let limit = uploads.limits.blob_bytes;
        let chunk = Upload::resume(self.session.size_bytes(), limit).begin_chunk(head)?;
        self.make_room(uploads, chunk.outstanding().unwrap_or(0)).await?;
        self.catch_up(algorithm).await?;
        let hashed = self.hashed.take().expect("what has caught up has hashed");
        let (batches, rank) = (Arc::clone(&uploads.batches), self.rank.clone());
        let mut intake = Intake::new(body, chunk, hashed, batches, rank);
        let mut received = intake.receive().await;
        while received.end.is_none() {
            self.make_room(uploads, received.content.len() as u64).await?;
            let (stored, next) = tokio::join!(self.store(received.content), intake.receive());
            stored?;
            received = next;
        }
        self.make_room(uploads, received.content.len() as u64).await?;
        self.store(received.content).await?;
        let (hashed, length) = intake.end();
        *self.hashed = Some(hashed);
        match received.end {
            Some(Err(error)) => Err(error),
            _ => Ok(length?),
        }
    }

    /// Appends `content` to the session.
    async fn store(&mut self, content: Bytes) -> Result<(), StorageError> {
        if !content.is_empty() {
            self.session.append(self.session.size_bytes(), vec![content]).await?;
            self.upload.received.store(self.session.size_bytes(), Ordering::Release);
        }
        Ok(())
    }

    /// Sets room aside for `bytes` more than have been appended.
    async fn make_room(&mut self, uploads: &Uploads, bytes: u64) -> Result<(), UploadsError> {
        let end = self.session.size_bytes() + bytes;
        match &self.upload.room {
            Some(room) if end > self.free_bytes => Ok(uploads.repositories.grow(room, end).await?),
            _ => Ok(()),
        }
    }

    /// Makes what was received durable.
    async fn sync(&mut self) -> Result<(), UploadsError> {
        self.session.sync().await?;
        if let Some(hashed) = &mut *self.hashed {
            hashed.synced(&*self.session);
        }
        Ok(())
    }

    /// Hashes what is stored, unless that has been done.
    async fn catch_up(&mut self, algorithm: Algorithm) -> Result<(), UploadsError> {
        if self.hashed.as_ref().is_some_and(|hashed| hashed.algorithm() == algorithm) {
            return Ok(());
        }
        let mut hashed = Hashed::new(algorithm, &*self.session);
        let mut stored = self.session.stream();
        while let Some(piece) = stored.try_next().await? {
            hashed.update(&piece);
            // What is in memory comes without a wait, and there may be much of it.
            tokio::task::yield_now().await;
        }
        *self.hashed = Some(hashed);
        Ok(())
    }
}

/// Carries `work` to its end, even if whoever asked for it loses interest.
async fn to_the_end<T, F>(work: F) -> Result<T, UploadsError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, UploadsError>> + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(UploadsError::Overtaken),
        },
    }
}
