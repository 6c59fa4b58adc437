//! Sessions of the folder backend: one file each, appended to in order.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::content::ContentFile;
use super::tree::{Tree, storage_error};
use super::{blocking, reader};
use crate::Key;
use crate::storage::{ContentStream, Put, Session, SessionId, SessionInfo, StorageError};
use crate::write_back;

/// An open session: a file of `.sessions`, and how long it is.
#[derive(Debug)]
pub(super) struct FolderSession {
    tree: Arc<Tree>,
    id: SessionId,
    content: Arc<ContentFile>,
    /// Bytes appended. The file may be longer after a failed append, never shorter.
    size_bytes: u64,
    /// Up to where the kernel was asked to write the content to the disk.
    flushed_bytes: u64,
    /// Whether the file's name is known to survive a power cut.
    is_name_durable: bool,
}

impl FolderSession {
    pub(super) fn begin(tree: Arc<Tree>, id: SessionId) -> Result<Self, StorageError> {
        tree.check_room()?;
        let path = path(&tree, id);
        let file = tree.steps().create(&path).map_err(|error| storage_error("create", &path, error))?;
        let content = Arc::new(ContentFile::new(file));
        Ok(Self { tree, id, content, size_bytes: 0, flushed_bytes: 0, is_name_durable: false })
    }

    pub(super) fn resume(tree: Arc<Tree>, id: SessionId) -> Result<Self, StorageError> {
        let path = path(&tree, id);
        let failed = |error| storage_error("open", &path, error);
        let file = match tree.steps().reopen(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StorageError::NoSession { id });
            }
            opened => opened.map_err(failed)?,
        };
        let data = file.metadata().map_err(failed)?;
        // A second name is a key: the session is finished, only its own name is still there.
        if data.nlink() != 1 {
            return Err(StorageError::NoSession { id });
        }
        let size_bytes = data.len();
        let content = Arc::new(ContentFile::new(file));
        Ok(Self { tree, id, content, size_bytes, flushed_bytes: size_bytes, is_name_durable: false })
    }
}

#[async_trait]
impl Session for FolderSession {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn append(&mut self, offset: u64, pieces: Vec<Bytes>) -> Result<(), StorageError> {
        if offset != self.size_bytes {
            return Err(StorageError::WrongOffset { found: self.size_bytes, wanted: offset });
        }
        let (tree, id, content) = (Arc::clone(&self.tree), self.id, Arc::clone(&self.content));
        let flushed = self.flushed_bytes;
        (self.size_bytes, self.flushed_bytes) = blocking(move || {
            tree.check_room()?;
            let path = path(&tree, id);
            let mut end = offset;
            for piece in pieces {
                content.write(tree.steps(), &path, end, &piece).map_err(|error| {
                    // What was written of the pieces is overwritten or cut off later if this fails.
                    let _ = tree.steps().cut(content.file(), &path, offset);
                    storage_error("write", &path, error)
                })?;
                end += piece.len() as u64;
            }
            Ok((end, write_back::begin(content.file(), flushed, end)))
        })
        .await?;
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        let (tree, id, file) = (Arc::clone(&self.tree), self.id, Arc::clone(self.content.file()));
        let is_name_durable = self.is_name_durable;
        blocking(move || {
            tree.sync_file(&file, &path(&tree, id))?;
            if is_name_durable { Ok(()) } else { tree.sync_folder(&tree.session_folder()) }
        })
        .await?;
        self.is_name_durable = true;
        Ok(())
    }

    fn stream(&self) -> ContentStream {
        let buffers = Arc::clone(self.tree.buffers());
        reader::stream(Arc::clone(self.content.file()), self.id.to_string(), 0..self.size_bytes, buffers)
    }

    async fn finish(self: Box<Self>, key: &Key) -> Result<Put, StorageError> {
        let key = key.clone();
        blocking(move || {
            let path = path(&self.tree, self.id);
            // What readers can see is durable already, and is what this session holds.
            if self.tree.size_bytes(&key).is_ok() {
                abort(&self.tree, self.id)?;
                return Ok(Put::Exists);
            }
            self.tree.check_writable()?;
            let cut = self.tree.steps().cut(self.content.file(), &path, self.size_bytes);
            cut.map_err(|error| storage_error("cut", &path, error))?;
            self.tree.sync_file(self.content.file(), &path)?;
            self.tree.publish(&path, &key)
        })
        .await
    }
}

pub(super) fn abort(tree: &Tree, id: SessionId) -> Result<(), StorageError> {
    if tree.is_for_reading() {
        return Err(StorageError::ReadOnly);
    }
    let path = path(tree, id);
    match tree.discard(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(storage_error("remove", &path, error)),
        _ => Ok(()),
    }
}

pub(super) fn sessions(tree: &Tree) -> Result<Vec<SessionInfo>, StorageError> {
    let folder = tree.session_folder();
    let failed = |error| storage_error("list", &folder, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(id) = entry.file_name().to_str().and_then(SessionId::parse) else { continue };
        match entry.metadata().and_then(|data| Ok((data.nlink(), data.modified()?))) {
            Ok((1, modified)) => found.push(SessionInfo { id, modified }),
            // Finished, or gone since the folder was read.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(found)
}

fn path(tree: &Tree, id: SessionId) -> PathBuf {
    tree.session_folder().join(id.to_string())
}
