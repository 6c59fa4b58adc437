//! What the registry asks of the place where it keeps things: a tree of write-once keys.
//!
//! A key is put once, whole and durable, or not at all; it is never changed, only deleted. Long
//! content arrives in a *session*, which is appended to, outlives the process, and becomes a key
//! when it is finished. That is all a folder and an S3 bucket have in common, and it is enough:
//! whoever needs an order between writers puts a key that only one of them can put.
//!
//! ```text
//! begin --> Session --append, sync--> Session --finish(key)--> the key is there, or was already
//!              ^  `------------------ abort -----------------> gone
//!              `-- resume, also by another process
//! ```
//!
//! Nothing here knows what the bytes mean or checks a digest. Every backend passes the contract in
//! `tests/storage_contract.rs`.

use std::fmt;
use std::io;
use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{BoxStream, TryStreamExt};

use crate::Key;

/// A tree of write-once keys. See the module's header.
#[async_trait]
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Whether somebody else may change the tree while this value is in use.
    fn sharing(&self) -> Sharing;

    /// Says whether writes would be taken now, as far as that can be known cheaply and without one.
    ///
    /// # Errors
    ///
    /// [`StorageError::Full`], [`StorageError::ReadOnly`], [`StorageError::Io`].
    async fn check_writable(&self) -> Result<(), StorageError> {
        Ok(())
    }

    /// Puts `content` under `key` unless the key is there already. Once this returns, in either
    /// case, the key survives a power cut.
    ///
    /// # Errors
    ///
    /// The key is then not there, or is there with this content but may not survive a power cut.
    /// [`StorageError::Full`], [`StorageError::ReadOnly`], [`StorageError::Io`].
    async fn put_if_absent(&self, key: &Key, content: Bytes) -> Result<Put, StorageError>;

    /// As [`Storage::put_if_absent`], for a small key that must be there before something can be
    /// deleted. A backend that can run full keeps a reserve for these.
    ///
    /// # Errors
    ///
    /// As [`Storage::put_if_absent`]. Where the reserve is used up too, delete what can be deleted.
    async fn put_tombstone(&self, key: &Key, content: Bytes) -> Result<Put, StorageError> {
        self.put_if_absent(key, content).await
    }

    /// Size of a key's content in bytes.
    ///
    /// # Errors
    ///
    /// [`StorageError::Missing`], [`StorageError::Io`].
    async fn size_bytes(&self, key: &Key) -> Result<u64, StorageError>;

    /// Opens a key's content for reading.
    ///
    /// # Errors
    ///
    /// [`StorageError::Missing`], [`StorageError::Io`].
    async fn open(&self, key: &Key) -> Result<Box<dyn Object>, StorageError>;

    /// What lies directly in `folder`: at most `limit` entries, after the one named `after`, in
    /// ascending byte order of the whole keys. So folders compare as if their names ended in `/`:
    /// `a-b` comes before `a`. A folder without keys beneath it does not exist.
    ///
    /// # Errors
    ///
    /// [`StorageError::Io`]. A folder that is not there is empty, not an error.
    async fn list(&self, folder: &Key, after: Option<&str>, limit: usize)
    -> Result<Vec<Entry>, StorageError>;

    /// All keys below `folder`, in ascending byte order. A key that is put or deleted meanwhile may be
    /// among them or not; all others are.
    ///
    /// # Errors
    ///
    /// [`StorageError::Io`], as the last item.
    fn keys_below(&self, folder: &Key) -> KeyStream<'_>;

    /// Deletes a key. One that is not there is no error. Once this returns, in either case, a power
    /// cut does not bring it back.
    ///
    /// # Errors
    ///
    /// [`StorageError::ReadOnly`], [`StorageError::Io`].
    async fn delete(&self, key: &Key) -> Result<(), StorageError>;

    /// Starts an empty session. `id` must be new; the caller draws it at random.
    ///
    /// # Errors
    ///
    /// [`StorageError::Full`], [`StorageError::ReadOnly`], [`StorageError::Io`].
    async fn begin(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError>;

    /// Goes on with a session that was begun here, earlier or by another process. A session has one
    /// holder at a time; the caller sees to that. What its last holder appended and did not sync may be
    /// there or not: the session's size says where to go on.
    ///
    /// # Errors
    ///
    /// [`StorageError::NoSession`] where it is finished, aborted or unknown; [`StorageError::Io`].
    async fn resume(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError>;

    /// Forgets a session and its content. One that is not there is no error. A power cut or
    /// a disk that fails may bring back a session that was aborted or finished, as an open one.
    ///
    /// # Errors
    ///
    /// [`StorageError::Io`].
    async fn abort(&self, id: SessionId) -> Result<(), StorageError>;

    /// All sessions that are neither finished nor aborted, in no order.
    ///
    /// # Errors
    ///
    /// [`StorageError::Io`].
    async fn sessions(&self) -> Result<Vec<SessionInfo>, StorageError>;
}

/// A key's content, open for reading. Deleting the key meanwhile does not disturb the reader where
/// the backend can help it.
pub trait Object: fmt::Debug + Send + Sync {
    /// Size of the whole content in bytes.
    fn size_bytes(&self) -> u64;

    /// The bytes of `range`, in pieces of at most 1 MiB. Content that turns out to be shorter than
    /// the range is an error at the end of the stream, never a quiet end.
    ///
    /// # Panics
    ///
    /// If `range` does not lie in `0..size_bytes()`.
    fn stream(self: Box<Self>, range: Range<u64>) -> ContentStream;
}

/// Content that arrives in pieces, in order.
pub type ContentStream = BoxStream<'static, Result<Bytes, StorageError>>;

/// Keys that are found one after the other.
pub type KeyStream<'a> = BoxStream<'a, Result<Key, StorageError>>;

/// Content that is being appended to and is not a key yet.
#[async_trait]
pub trait Session: fmt::Debug + Send {
    /// Bytes appended so far.
    fn size_bytes(&self) -> u64;

    /// Appends `pieces`, one behind the other. `offset` is where the caller believes the content
    /// ends, so that two holders of one session cannot interleave unnoticed.
    ///
    /// After an error the session ends where it ended before. The future must be polled to its end:
    /// dropped earlier, it may go on writing behind the back of the session's next holder.
    ///
    /// # Errors
    ///
    /// [`StorageError::WrongOffset`], [`StorageError::Full`], [`StorageError::ReadOnly`],
    /// [`StorageError::Io`].
    async fn append(&mut self, offset: u64, pieces: Vec<Bytes>) -> Result<(), StorageError>;

    /// Returns once everything appended so far survives a power cut.
    ///
    /// # Errors
    ///
    /// [`StorageError::Full`], [`StorageError::ReadOnly`], [`StorageError::Io`]. The session must then
    /// be aborted: what it holds is not certain.
    async fn sync(&mut self) -> Result<(), StorageError>;

    /// A number for the content that was synced last: as long as it and the size are the same, nobody
    /// else has changed the session, also if it was resumed in between. Always 0 where a storage has
    /// one user.
    fn revision(&self) -> u64 {
        0
    }

    /// Everything appended so far, from the beginning.
    fn stream(&self) -> ContentStream;

    /// Makes the content a key, durable when this returns, unless the key is there already. The
    /// session is gone in both cases.
    ///
    /// # Errors
    ///
    /// As [`Storage::put_if_absent`]. The session is then still there, and must be aborted.
    async fn finish(self: Box<Self>, key: &Key) -> Result<Put, StorageError>;
}

/// What became of a key that was to be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there now.
    Created,
    /// It was there before, and is unchanged.
    Exists,
}

/// Whether a tree has one user or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody else changes the tree, so what was read once may be remembered.
    Exclusive,
    /// Others may put and delete keys at any time.
    Shared,
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A key.
    Key(String),
    /// A folder with keys beneath it.
    Folder(String),
}

impl Entry {
    /// The last part of the key or of the folder's path.
    pub fn name(&self) -> &str {
        match self {
            Self::Key(name) | Self::Folder(name) => name,
        }
    }
}

/// The name of a session: 256 bits that its holder chose. Printed as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; 32]);

impl SessionId {
    /// The session with this name.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads what [`fmt::Display`] prints; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = |text: &str| text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        canonical(text).then_some(Self(bytes))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A session that waits to be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its name.
    pub id: SessionId,
    /// When it was begun or last appended to.
    pub modified: SystemTime,
}

/// Why a storage could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// There is no such key.
    #[error("there is no key `{key}`")]
    Missing {
        /// The key.
        key: Key,
    },
    /// There is no such session: it is finished, aborted, or never was.
    #[error("there is no session {id}")]
    NoSession {
        /// The session.
        id: SessionId,
    },
    /// Somebody else appended to the session, or the caller lost count.
    #[error("the session ends at byte {found}; the append was meant for byte {wanted}")]
    WrongOffset {
        /// Where the session ends.
        found: u64,
        /// Where the caller wanted to append.
        wanted: u64,
    },
    /// Content that is read whole is larger than its reader accepts.
    #[error("`{key}` has {found} bytes; at most {limit} are read here")]
    TooLarge {
        /// The key.
        key: Key,
        /// Its size in bytes.
        found: u64,
        /// The most that the caller accepts.
        limit: u64,
    },
    /// No space is left, or a quota is used up.
    #[error("no space is left in the storage")]
    Full,
    /// An earlier write could not be made durable, so nothing more is written by this process; or the
    /// storage was opened for reading; or its file system is mounted read-only.
    #[error(
        "the storage is read-only: it was opened so, its file system is, or an earlier write could not be made durable"
    )]
    ReadOnly,
    /// The backend failed.
    #[error("cannot {action} `{name}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what: a key, a session, or a path of the backend.
        name: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Reads a small key whole.
///
/// # Errors
///
/// [`StorageError::TooLarge`] past `limit` bytes, [`StorageError::Missing`], [`StorageError::Io`].
pub async fn read_whole(storage: &dyn Storage, key: &Key, limit: u64) -> Result<Bytes, StorageError> {
    let object = storage.open(key).await?;
    let size = object.size_bytes();
    if size > limit {
        return Err(StorageError::TooLarge { key: key.clone(), found: size, limit });
    }
    let mut pieces: Vec<Bytes> = object.stream(0..size).try_collect().await?;
    Ok(if pieces.len() == 1 { pieces.remove(0) } else { pieces.concat().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_reads_back_as_it_prints() {
        let id = SessionId::new([0xab; 32]);
        assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        assert_eq!(SessionId::parse(&id.to_string().to_uppercase()), None);
        assert_eq!(SessionId::parse("ab"), None);
        assert_eq!(SessionId::parse(&"zz".repeat(32)), None);
    }
}
