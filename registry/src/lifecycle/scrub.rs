//! Reads everything again and compares it with its digest, since disks forget.
//!
//! What is damaged is closed, copied to the quarantine and taken away. So nobody is served wrong bytes,
//! and whoever pushes the blob or the manifest once more heals it: clients are told that it is not here.
//! An operator may look at what lies in the quarantine, and delete it. Where there is no space for the
//! copy, what is damaged stays where it is, closed, and the next scrub tries again.
//!
//! Only what reads wrong twice is damaged. What cannot be reached is not lost, only listed.
//!
//! Runs beside everything else, and no faster than it is told to.

use std::io;
use std::time::{Duration, Instant};

use appliance::{Digest, Hasher};
use blob_store::{Key, SessionId, Storage, StorageError, read_whole};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Mode;
use crate::layout::{self, ContentEntry};
use crate::on_thread::on_thread;
use crate::random;
use crate::repository::{Repositories, RepositoryError, split_copy};

/// What a scrub found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Scrubbed {
    /// Contents of blobs and copies of manifests that were read.
    pub objects: u64,
    /// How many bytes that were.
    pub bytes: u64,
    /// What is not what its digest promises.
    pub damaged: Vec<Damaged>,
    /// Keys that could not be read this time, each with the reason, as sentences for people.
    #[serde(default)]
    pub failed: Vec<String>,
    /// So many failed in a row that the scrub ended there.
    #[serde(default)]
    pub is_incomplete: bool,
}

/// Something that is not what its digest promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// What it should be.
    pub digest: Digest,
    /// The key where it was.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
    /// Why it could not be moved to the quarantine, as a sentence for people. It is still where it was.
    #[serde(default)]
    pub stays: Option<String>,
}

/// Largest copy of a manifest that is read. One that is larger is damaged.
const MAX_COPY: u64 = appliance::manifest::MAX_BYTES + 256;

/// Keys in a row that can fail before the storage is given up.
const MOST_FAILURES: usize = 3;

/// What may be damaged.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Content,
    ManifestCopy,
}

/// Reads one storage again.
#[derive(Debug)]
pub(crate) struct Scrubber<'a> {
    repositories: &'a Repositories,
    mode: Mode,
    /// Bytes per second, at most.
    rate: Option<u64>,
    began: Instant,
    /// Bytes read since then, those of a second look included.
    read_bytes: u64,
    /// Keys in a row that could not be read.
    failures: usize,
    scrubbed: Scrubbed,
}

impl<'a> Scrubber<'a> {
    /// A scrub that reads at most `rate` bytes per second.
    pub(crate) fn new(repositories: &'a Repositories, mode: Mode, rate: Option<u64>) -> Self {
        let (began, scrubbed) = (Instant::now(), Scrubbed::default());
        Self { repositories, mode, rate, began, read_bytes: 0, failures: 0, scrubbed }
    }

    /// Reads everything.
    pub(crate) async fn run(mut self) -> Result<Scrubbed, RepositoryError> {
        let storage = self.storage();
        let contents = storage.keys_below(&layout::all_contents());
        let mut keys = contents.chain(storage.keys_below(&layout::repositories()));
        while let Some(key) = keys.try_next().await? {
            let scrubbed = match (layout::content_of_key(&key), layout::copy_of_key(&key)) {
                (Some((digest, ContentEntry::Content(generation))), _) => {
                    let mark = layout::closed(&digest, &generation);
                    self.scrub(&key, digest, Kind::Content, Some(mark)).await
                }
                (_, Some((digest, _))) => self.scrub(&key, digest, Kind::ManifestCopy, None).await,
                _ => continue,
            };
            match scrubbed {
                Err(StorageError::Io { source, .. }) => {
                    self.scrubbed.failed.push(format!("{key}: {source}"));
                    self.failures += 1;
                }
                scrubbed => {
                    scrubbed?;
                    self.failures = 0;
                }
            }
            if self.failures == MOST_FAILURES {
                self.scrubbed.is_incomplete = true;
                break;
            }
        }
        Ok(self.scrubbed)
    }

    /// Reads what lies under a key. Where it is damaged, puts `mark` and brings it to the quarantine.
    async fn scrub(
        &mut self,
        key: &Key,
        digest: Digest,
        kind: Kind,
        mark: Option<Key>,
    ) -> Result<(), StorageError> {
        let Some(problem) = self.damage(key, digest, kind).await? else { return Ok(()) };
        let moved = match self.mode {
            Mode::DryRun => Ok(()),
            Mode::Collect => self.close_and_quarantine(key, digest, mark).await,
        };
        let stays = moved.err().map(|error| match error {
            StorageError::Io { source, .. } => source.to_string(),
            error => error.to_string(),
        });
        self.scrubbed.damaged.push(Damaged { digest, key: key.to_string(), problem, stays });
        self.repositories.forget_cached();
        Ok(())
    }

    fn storage(&self) -> &'a dyn Storage {
        self.repositories.storage()
    }

    async fn close_and_quarantine(
        &self,
        key: &Key,
        digest: Digest,
        mark: Option<Key>,
    ) -> Result<(), StorageError> {
        if let Some(mark) = mark {
            self.storage().put_tombstone(&mark, Bytes::new()).await?;
        }
        self.quarantine(key, digest).await
    }

    /// What is wrong with what lies under a key, if anything is, both times that it is read.
    async fn damage(
        &mut self,
        key: &Key,
        digest: Digest,
        kind: Kind,
    ) -> Result<Option<String>, StorageError> {
        let before = (self.scrubbed.objects, self.scrubbed.bytes);
        if self.check(key, digest, kind).await?.is_none() {
            return Ok(None);
        }
        // It counts once.
        (self.scrubbed.objects, self.scrubbed.bytes) = before;
        self.check(key, digest, kind).await
    }

    async fn check(&mut self, key: &Key, digest: Digest, kind: Kind) -> Result<Option<String>, StorageError> {
        let found = match kind {
            Kind::Content => self.check_content(key, digest).await,
            Kind::ManifestCopy => self.check_copy(key, digest).await,
        };
        match found {
            Err(StorageError::Missing { .. }) => Ok(None),
            Err(StorageError::Io { source, .. }) if is_lost(&source) => {
                Ok(Some(format!("cannot be read: {source}")))
            }
            found => found,
        }
    }

    /// What is wrong with a blob's content, if anything is.
    async fn check_content(&mut self, key: &Key, digest: Digest) -> Result<Option<String>, StorageError> {
        let object = self.storage().open(key).await?;
        let size = object.size_bytes();
        let mut pieces = object.stream(0..size);
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(piece) = pieces.try_next().await? {
            self.count(piece.len());
            hasher = hash(hasher, piece).await;
            self.keep_to_the_rate().await;
        }
        self.scrubbed.objects += 1;
        Ok(mismatch(hasher.finish(), digest))
    }

    /// What is wrong with a copy of a manifest, if anything is.
    async fn check_copy(&mut self, key: &Key, digest: Digest) -> Result<Option<String>, StorageError> {
        let copy = match read_whole(self.storage(), key, MAX_COPY).await {
            Err(error @ StorageError::TooLarge { .. }) => return Ok(Some(error.to_string())),
            copy => copy?,
        };
        self.scrubbed.objects += 1;
        self.count(copy.len());
        self.keep_to_the_rate().await;
        let Some((_, bytes)) = split_copy(&copy) else {
            return Ok(Some("does not begin with a media type".to_owned()));
        };
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        Ok(mismatch(hasher.finish(), digest))
    }

    /// Copies what can be read of it to the quarantine, and takes it away.
    async fn quarantine(&self, key: &Key, digest: Digest) -> Result<(), StorageError> {
        let storage = self.storage();
        let id = SessionId::new(random::bytes());
        if let Err(error) = self.copy_to_quarantine(key, digest, id).await {
            // Half a copy takes space and is of no use. If this fails too, the session expires.
            let _ = storage.abort(id).await;
            return match error {
                StorageError::Missing { .. } => Ok(()), // somebody else took it away
                error => Err(error),
            };
        }
        storage.delete(key).await
    }

    async fn copy_to_quarantine(&self, key: &Key, digest: Digest, id: SessionId) -> Result<(), StorageError> {
        let storage = self.storage();
        let name = key.as_str().rsplit('/').next().unwrap_or_default();
        let mut session = storage.begin(id).await?;
        let mut pieces = match storage.open(key).await {
            Err(StorageError::Io { source, .. }) if is_lost(&source) => stream::empty().boxed(),
            object => {
                let object = object?;
                let size = object.size_bytes();
                object.stream(0..size)
            }
        };
        loop {
            match pieces.try_next().await {
                Ok(Some(piece)) => session.append(session.size_bytes(), vec![piece]).await?,
                Ok(None) => break,
                Err(StorageError::Io { source, .. }) if is_lost(&source) => break,
                Err(error) => return Err(error),
            }
        }
        session.finish(&layout::quarantine(&digest, name)).await?;
        Ok(())
    }

    fn count(&mut self, bytes: usize) {
        self.read_bytes += bytes as u64;
        self.scrubbed.bytes += bytes as u64;
    }

    /// Waits until so many bytes may have been read.
    async fn keep_to_the_rate(&self) {
        let Some(rate) = self.rate.filter(|rate| *rate > 0) else { return };
        #[expect(clippy::cast_precision_loss, reason = "a pace needs no more digits")]
        let due = Duration::from_secs_f64(self.read_bytes as f64 / rate as f64);
        if let Some(early) = due.checked_sub(self.began.elapsed()) {
            tokio::time::sleep(early).await;
        }
    }
}

/// True where what was to be read is not there any more, or not as it was written; false where it could
/// not be reached this time.
fn is_lost(error: &io::Error) -> bool {
    let errors = [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::NODATA].map(Errno::raw_os_error);
    let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof, io::ErrorKind::NotFound];
    error.raw_os_error().is_some_and(|error| errors.contains(&error)) || kinds.contains(&error.kind())
}

fn mismatch(found: Digest, wanted: Digest) -> Option<String> {
    (found != wanted).then(|| format!("has digest {found}"))
}

/// Hashes where it does not keep others waiting.
async fn hash(mut hasher: Hasher, piece: Bytes) -> Hasher {
    on_thread(piece.len(), move || {
        hasher.update(&piece);
        hasher
    })
    .await
}
