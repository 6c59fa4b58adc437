//! A [`Storage`] that forgets everything with the process. For tests.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::Key;
use crate::storage::{
    ContentStream, Entry, KeyStream, Object, Put, Session, SessionId, SessionInfo, Sharing, Storage,
    StorageError,
};

/// A [`Storage`] in memory. Clones are the same storage.
#[derive(Debug, Clone)]
pub struct MemoryStorage {
    sharing: Sharing,
    state: Arc<Mutex<State>>,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<Key, Bytes>,
    sessions: HashMap<SessionId, Upload>,
    /// What the next keys that are opened fail with.
    faults: VecDeque<io::ErrorKind>,
}

#[derive(Debug)]
struct Upload {
    content: Vec<u8>,
    modified: SystemTime,
}

impl MemoryStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self { sharing: Sharing::Exclusive, state: Arc::default() }
    }

    /// An empty storage that several servers may use, each with a clone.
    pub fn shared() -> Self {
        Self { sharing: Sharing::Shared, ..Self::new() }
    }

    /// Lets the next keys that are opened fail: each with one of these, then none any more.
    pub fn fail_to_open(&self, faults: impl IntoIterator<Item = io::ErrorKind>) {
        self.state().faults.extend(faults);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the state")
    }
}

impl State {
    fn put(&mut self, key: &Key, content: Bytes) -> Put {
        if self.keys.contains_key(key) {
            return Put::Exists;
        }
        self.keys.insert(key.clone(), content);
        Put::Created
    }

    fn content(&self, key: &Key) -> Result<Bytes, StorageError> {
        self.keys.get(key).cloned().ok_or_else(|| StorageError::Missing { key: key.clone() })
    }

    fn upload(&mut self, id: SessionId) -> Result<&mut Upload, StorageError> {
        self.sessions.get_mut(&id).ok_or(StorageError::NoSession { id })
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn sharing(&self) -> Sharing {
        self.sharing
    }

    async fn put_if_absent(&self, key: &Key, content: Bytes) -> Result<Put, StorageError> {
        Ok(self.state().put(key, content))
    }

    async fn size_bytes(&self, key: &Key) -> Result<u64, StorageError> {
        Ok(self.state().content(key)?.len() as u64)
    }

    async fn open(&self, key: &Key) -> Result<Box<dyn Object>, StorageError> {
        let mut state = self.state();
        if let Some(kind) = state.faults.pop_front() {
            let (action, name) = ("open", key.to_string());
            return Err(StorageError::Io { action, name, source: kind.into() });
        }
        Ok(Box::new(MemoryObject(state.content(key)?)))
    }

    async fn list(
        &self,
        folder: &Key,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let prefix = format!("{folder}/");
        let mut entries: Vec<Entry> = Vec::new();
        for key in self.state().keys.keys() {
            let Some(rest) = key.as_str().strip_prefix(&prefix) else { continue };
            let (entry, passed) = match rest.split_once('/') {
                Some((name, _)) => (
                    Entry::Folder(name.to_owned()),
                    after.is_some_and(|after| format!("{name}/") <= format!("{after}/")),
                ),
                None => (Entry::Key(rest.to_owned()), after.is_some_and(|after| rest <= after)),
            };
            if !passed && entries.last() != Some(&entry) {
                if entries.len() == limit {
                    break;
                }
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn keys_below(&self, folder: &Key) -> KeyStream<'_> {
        let prefix = format!("{folder}/");
        let keys =
            self.state().keys.keys().filter(|key| key.as_str().starts_with(&prefix)).cloned().collect();
        stream::iter::<Vec<Key>>(keys).map(Ok).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        self.state().keys.remove(key);
        Ok(())
    }

    async fn begin(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError> {
        let upload = Upload { content: Vec::new(), modified: SystemTime::now() };
        self.state().sessions.insert(id, upload);
        Ok(Box::new(MemorySession { storage: self.clone(), id, size_bytes: 0 }))
    }

    async fn resume(&self, id: SessionId) -> Result<Box<dyn Session>, StorageError> {
        let size_bytes = self.state().upload(id)?.content.len() as u64;
        Ok(Box::new(MemorySession { storage: self.clone(), id, size_bytes }))
    }

    async fn abort(&self, id: SessionId) -> Result<(), StorageError> {
        self.state().sessions.remove(&id);
        Ok(())
    }

    async fn sessions(&self) -> Result<Vec<SessionInfo>, StorageError> {
        let info = |(id, upload): (&SessionId, &Upload)| SessionInfo { id: *id, modified: upload.modified };
        Ok(self.state().sessions.iter().map(info).collect())
    }
}

#[derive(Debug)]
struct MemoryObject(Bytes);

impl Object for MemoryObject {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn stream(self: Box<Self>, range: Range<u64>) -> ContentStream {
        let at = |offset: u64| usize::try_from(offset).expect("content in memory has a usize length");
        pieces(self.0.slice(at(range.start)..at(range.end)))
    }
}

/// `content` in pieces, small ones, so that whoever assembles them is tested.
fn pieces(mut content: Bytes) -> ContentStream {
    const PIECE: usize = 64 << 10;
    let mut pieces = Vec::new();
    while !content.is_empty() {
        pieces.push(Ok(content.split_to(content.len().min(PIECE))));
    }
    stream::iter(pieces).boxed()
}

#[derive(Debug)]
struct MemorySession {
    storage: MemoryStorage,
    id: SessionId,
    size_bytes: u64,
}

#[async_trait]
impl Session for MemorySession {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn append(&mut self, offset: u64, appended: Vec<Bytes>) -> Result<(), StorageError> {
        let mut state = self.storage.state();
        let upload = state.upload(self.id)?;
        let found = upload.content.len() as u64;
        if found != offset {
            return Err(StorageError::WrongOffset { found, wanted: offset });
        }
        appended.iter().for_each(|piece| upload.content.extend_from_slice(piece));
        upload.modified = SystemTime::now();
        self.size_bytes = upload.content.len() as u64;
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        self.storage.state().upload(self.id).map(|_| ())
    }

    fn stream(&self) -> ContentStream {
        match self.storage.state().upload(self.id) {
            Ok(upload) => pieces(upload.content.clone().into()),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn finish(self: Box<Self>, key: &Key) -> Result<Put, StorageError> {
        let mut state = self.storage.state();
        let found = state.upload(self.id)?.content.len() as u64;
        if found != self.size_bytes {
            return Err(StorageError::WrongOffset { found, wanted: self.size_bytes });
        }
        let upload = state.sessions.remove(&self.id).expect("the session has just been seen");
        Ok(state.put(key, upload.content.into()))
    }
}
