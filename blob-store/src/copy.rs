//! Copies keys from one storage to another: a backup, a restore, a move from a folder to a bucket.
//!
//! A key is write-once, so one that is there already was copied before, and a copy that was interrupted
//! goes on where it was by being run again. What lies under the keys is not understood here: sizes are
//! compared, digests are not. Nothing is ever deleted.
//!
//! The order of the folders is the caller's: where keys of one refer to keys of another, the others come
//! first, and the copy refers to nothing that it does not have, whenever it is interrupted. Within
//! a folder several keys are copied at a time, in no order.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::storage::{Put, SessionId, Storage, StorageError, read_whole};
use crate::{Key, random};

/// Keys that are copied at a time.
const AT_A_TIME: usize = 8;
/// Content up to here, in bytes, is put at once; longer content takes a session.
const SHORT: u64 = 1 << 20;

/// What was found and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyReport {
    /// Keys that were copied.
    pub copied_keys: u64,
    /// What they hold, in bytes.
    pub copied_bytes: u64,
    /// Keys that were there already.
    pub present_keys: u64,
    /// Keys that were listed, and were deleted before they could be read.
    pub deleted_keys: u64,
}

/// What was done about one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// It was copied.
    Now {
        /// Its size in bytes.
        bytes: u64,
    },
    /// It was there already, with the same size.
    Before,
    /// It was deleted since it was listed.
    Deleted,
}

/// Why a copy was given up. What was copied until then is there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The keys could not be listed.
    #[error("cannot list the keys of `{folder}` to copy them")]
    List {
        /// Of which folder.
        folder: Key,
        /// The reason.
        #[source]
        source: StorageError,
    },
    /// A key could not be read.
    #[error("cannot read `{key}` to copy it")]
    Read {
        /// Which one.
        key: Key,
        /// The reason.
        #[source]
        source: StorageError,
    },
    /// A key could not be written.
    #[error("cannot write `{key}` as a copy")]
    Write {
        /// Which one.
        key: Key,
        /// The reason.
        #[source]
        source: StorageError,
    },
    /// A key is there, and cannot be a copy.
    #[error("`{key}` is there already with {found} bytes; the one to be copied has {wanted}")]
    Differs {
        /// Which one.
        key: Key,
        /// Its size in bytes where it is to be copied to.
        found: u64,
        /// Its size in bytes where it comes from.
        wanted: u64,
    },
}

/// Copies all keys below each of `folders`, one folder after the other; one of them may also be a key.
/// `progress` hears of each key that is done with.
///
/// # Errors
///
/// The first [`CopyError`]. Running the copy again goes on.
pub async fn copy(
    from: &dyn Storage,
    to: &dyn Storage,
    folders: &[Key],
    mut progress: impl FnMut(&Key, Copied),
) -> Result<CopyReport, CopyError> {
    let mut report = CopyReport::default();
    for folder in folders {
        let listed =
            from.keys_below(folder).map_err(|source| CopyError::List { folder: folder.clone(), source });
        let keys = stream::iter([Ok(folder.clone())]).chain(listed);
        let copies = keys.map_ok(|key| async {
            let copied = copy_key(from, to, &key).await?;
            Ok((key, copied))
        });
        let mut copies = std::pin::pin!(copies.try_buffer_unordered(AT_A_TIME));
        while let Some((key, copied)) = copies.try_next().await? {
            match copied {
                Copied::Now { bytes } => {
                    report.copied_keys += 1;
                    report.copied_bytes += bytes;
                }
                Copied::Before => report.present_keys += 1,
                // A folder that is no key was not deleted.
                Copied::Deleted if key == *folder => continue,
                Copied::Deleted => report.deleted_keys += 1,
            }
            progress(&key, copied);
        }
    }
    Ok(report)
}

async fn copy_key(from: &dyn Storage, to: &dyn Storage, key: &Key) -> Result<Copied, CopyError> {
    let unreadable = |source| CopyError::Read { key: key.clone(), source };
    let unwritable = |source| CopyError::Write { key: key.clone(), source };
    let wanted = match from.size_bytes(key).await {
        Err(StorageError::Missing { .. }) => return Ok(Copied::Deleted),
        size => size.map_err(unreadable)?,
    };
    let check_size = async || match to.size_bytes(key).await.map_err(unwritable)? {
        found if found == wanted => Ok(()),
        found => Err(CopyError::Differs { key: key.clone(), found, wanted }),
    };
    match check_size().await {
        Ok(()) => return Ok(Copied::Before),
        Err(CopyError::Write { source: StorageError::Missing { .. }, .. }) => {}
        Err(error) => return Err(error),
    }
    let put = if wanted <= SHORT {
        match read_whole(from, key, SHORT).await {
            Err(StorageError::Missing { .. }) => return Ok(Copied::Deleted),
            content => to.put_if_absent(key, content.map_err(unreadable)?).await.map_err(unwritable)?,
        }
    } else {
        match copy_long(from, to, key).await? {
            Some(put) => put,
            None => return Ok(Copied::Deleted),
        }
    };
    check_size().await?;
    Ok(match put {
        Put::Created => Copied::Now { bytes: wanted },
        Put::Exists => Copied::Before,
    })
}

/// Copies content piece by piece. `None` if the key was deleted meanwhile.
async fn copy_long(from: &dyn Storage, to: &dyn Storage, key: &Key) -> Result<Option<Put>, CopyError> {
    let unwritable = |source| CopyError::Write { key: key.clone(), source };
    let drawn = |source| StorageError::Io { action: "draw", name: "random bytes".to_owned(), source };
    let id = SessionId::new(random::bytes().map_err(drawn).map_err(unwritable)?);
    let copied = copy_in_session(from, to, key, id).await;
    if !matches!(copied, Ok(Some(_))) {
        // Should this fail too, the session is found by its age, as any other that nobody finished.
        let _ = to.abort(id).await;
    }
    copied
}

async fn copy_in_session(
    from: &dyn Storage,
    to: &dyn Storage,
    key: &Key,
    id: SessionId,
) -> Result<Option<Put>, CopyError> {
    let unreadable = |source| CopyError::Read { key: key.clone(), source };
    let unwritable = |source| CopyError::Write { key: key.clone(), source };
    let object = match from.open(key).await {
        Err(StorageError::Missing { .. }) => return Ok(None),
        object => object.map_err(unreadable)?,
    };
    let size = object.size_bytes();
    let mut session = to.begin(id).await.map_err(unwritable)?;
    // Pieces of a folder are small; a few at once make fewer turns.
    let mut pieces = object.stream(0..size).try_ready_chunks(4);
    while let Some(read) = pieces.next().await {
        let read: Vec<Bytes> = read.map_err(|error| unreadable(error.1))?;
        session.append(session.size_bytes(), read).await.map_err(unwritable)?;
    }
    session.finish(key).await.map(Some).map_err(unwritable)
}
