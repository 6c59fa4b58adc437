//! What is played: operations, and what must be true of the storage after some of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use blob_store::{Entry, FolderStorage, Key, Put, Session, SessionId, Storage, StorageError, read_whole};
use bytes::Bytes;
use futures_util::TryStreamExt as _;

use crate::disk::{Disk, Outcome};

/// One operation. Sessions have numbers.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Put(&'static str, Bytes),
    Tombstone(&'static str),
    Delete(&'static str),
    Begin(u8),
    Append(u8, Vec<Bytes>),
    Sync(u8),
    /// The session's value is dropped, and the session taken up again.
    Resume(u8),
    Finish(u8, &'static str),
    Abort(u8),
}

/// Each kind of operation, in each of the states that make a difference to it.
pub(crate) fn script() -> Vec<Op> {
    let small = |number: u8| Bytes::from(format!("content {number}"));
    let long = |number: u8| noise(number, 5000);
    vec![
        Op::Put("a", small(1)),
        Op::Put("a", small(2)), // is there already
        Op::Put("t/web/1", small(3)),
        Op::Put("t/web/2", Bytes::new()),
        Op::Put("t/web/deep/er/1", long(4)),
        Op::Begin(1),
        Op::Append(1, vec![long(5), small(6)]),
        Op::Begin(2),
        Op::Append(2, vec![small(7)]),
        Op::Sync(1),
        Op::Append(1, vec![long(8)]),
        Op::Resume(1),
        Op::Append(1, vec![small(9)]),
        Op::Sync(1),
        Op::Finish(1, "blobs/aa/1"),
        Op::Delete("t/web/1"),
        Op::Delete("t/web/1"), // is gone already
        Op::Put("t/web/1", small(10)),
        Op::Finish(2, "blobs/aa/1"), // is there already
        Op::Begin(3),
        Op::Append(3, vec![long(11)]),
        Op::Abort(3),
        Op::Begin(4),
        Op::Finish(4, "blobs/bb/empty"),
        Op::Tombstone("blobs/aa/1.closed"),
        Op::Delete("blobs/aa/1"),
        Op::Delete("blobs/aa/1.closed"),
        Op::Begin(5),
        Op::Append(5, vec![long(12)]),
        Op::Sync(5),
        Op::Append(5, vec![small(13)]),
        Op::Begin(6),
        Op::Append(6, vec![small(14)]),
        Op::Finish(6, "blobs/aa/1"), // was deleted
        Op::Delete("a"),
        Op::Delete("t/web/deep/er/1"), // its folders go, too
        Op::Put("t/web/deep/er/1", small(15)),
        Op::Delete("t/web/deep/er/1"),
        Op::Delete("t/web/deep/er/1"), // is gone already, with its folder
        Op::Begin(7),
        Op::Append(7, vec![small(16)]),
        Op::Finish(7, "t/web/deep/er/1"), // its folders come back
        Op::Begin(8),
    ]
}

/// Bytes that look like no others.
fn noise(number: u8, size: usize) -> Bytes {
    let mut state = u32::from(number) + 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn id(number: u8) -> SessionId {
    SessionId::new([number; 32])
}

/// Plays operations on a storage.
#[derive(Debug)]
pub(crate) struct Player {
    pub(crate) storage: FolderStorage,
    sessions: HashMap<u8, Box<dyn Session>>,
}

impl Player {
    pub(crate) fn new(storage: FolderStorage) -> Self {
        Self { storage, sessions: HashMap::new() }
    }

    /// True if `op` belongs to a session that could not be begun or was given up.
    pub(crate) fn lacks_the_session_of(&self, op: &Op) -> bool {
        match op {
            Op::Append(number, _) | Op::Sync(number) | Op::Resume(number) | Op::Finish(number, _) => {
                !self.sessions.contains_key(number)
            }
            _ => false,
        }
    }

    /// True if a session can be taken up again.
    pub(crate) async fn is_open(&self, number: u8) -> bool {
        match self.storage.resume(id(number)).await {
            Ok(_) => true,
            Err(StorageError::NoSession { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn play(&mut self, op: &Op) -> Result<Option<Put>, StorageError> {
        match op {
            Op::Put(name, content) => {
                return self.storage.put_if_absent(&key(name), content.clone()).await.map(Some);
            }
            Op::Tombstone(name) => {
                return self.storage.put_tombstone(&key(name), Bytes::new()).await.map(Some);
            }
            Op::Delete(name) => self.storage.delete(&key(name)).await?,
            Op::Begin(number) => {
                let session = self.storage.begin(id(*number)).await?;
                self.sessions.insert(*number, session);
            }
            Op::Append(number, pieces) => {
                let session = self.sessions.get_mut(number).unwrap();
                session.append(session.size_bytes(), pieces.clone()).await?;
            }
            Op::Sync(number) => self.sessions.get_mut(number).unwrap().sync().await?,
            Op::Resume(number) => {
                self.sessions.remove(number);
                let session = self.storage.resume(id(*number)).await?;
                self.sessions.insert(*number, session);
            }
            Op::Finish(number, name) => {
                return self.sessions.remove(number).unwrap().finish(&key(name)).await.map(Some);
            }
            Op::Abort(number) => {
                self.sessions.remove(number);
                self.storage.abort(id(*number)).await?;
            }
        }
        Ok(None)
    }
}

/// What happened to the storage before it was opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Nothing that was written is lost.
    Kill,
    /// What was not made durable may be lost, whole or in part.
    PowerCut,
}

/// A session that was begun, and not finished or aborted for certain.
#[derive(Debug, Clone, Default)]
struct OpenSession {
    /// What was acknowledged.
    appended: Vec<u8>,
    /// What was to be appended after that, and was not acknowledged; one attempt overwrites another.
    tried: Vec<Vec<u8>>,
    /// How much of `appended` is durable; the session's name is, too.
    synced_bytes: Option<usize>,
    is_perhaps_gone: bool,
    /// The key that it perhaps became.
    finishing: Option<&'static str>,
}

/// What is known of a storage after operations that were acknowledged, and some that were not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// What a key may hold; `None` is "there is no such key". A key that is not here is not there.
    keys: BTreeMap<&'static str, Vec<Option<Bytes>>>,
    sessions: BTreeMap<u8, OpenSession>,
    /// Sessions that were finished or aborted. A power cut may bring them back.
    ended: BTreeSet<u8>,
    /// Whether a session's file was perhaps not removed: then the session is back when the key that it
    /// became is deleted.
    pub(crate) may_keep_sessions: bool,
}

impl Known {
    /// After the first `acknowledged` operations of the script, while the next one was at work.
    pub(crate) fn after(script: &[Op], acknowledged: usize) -> Self {
        let mut known = Self::default();
        for op in &script[..acknowledged] {
            known.acknowledge(op, None);
        }
        if let Some(op) = script.get(acknowledged) {
            known.doubt(op);
        }
        known
    }

    /// `op` was done; `put` is what was said to have become of a key, if that is known.
    pub(crate) fn acknowledge(&mut self, op: &Op, put: Option<Put>) {
        match op {
            Op::Put(name, content) => self.put(name, content, put),
            Op::Tombstone(name) => self.put(name, &Bytes::new(), put),
            Op::Delete(name) => drop(self.keys.insert(name, vec![None])),
            Op::Begin(number) => drop(self.sessions.insert(*number, OpenSession::default())),
            Op::Append(number, pieces) => {
                let session = self.session(*number);
                session.appended.extend(pieces.concat());
                session.tried.clear();
            }
            Op::Sync(number) => {
                let session = self.session(*number);
                session.synced_bytes = Some(session.appended.len());
            }
            Op::Resume(_) => {}
            Op::Finish(number, name) => {
                self.ended.insert(*number);
                let content = self.sessions.remove(number).unwrap().appended;
                self.put(name, &Bytes::from(content), put);
            }
            Op::Abort(number) => {
                self.ended.insert(*number);
                self.sessions.remove(number);
            }
        }
    }

    /// `op` was begun, and nobody said what became of it.
    pub(crate) fn doubt(&mut self, op: &Op) {
        match op {
            Op::Put(name, content) => self.perhaps_put(name, content),
            Op::Tombstone(name) => self.perhaps_put(name, &Bytes::new()),
            Op::Delete(name) => self.key(name).push(None),
            Op::Begin(number) => {
                let session = OpenSession { is_perhaps_gone: true, ..OpenSession::default() };
                self.sessions.insert(*number, session);
            }
            Op::Append(number, pieces) => self.session(*number).tried.push(pieces.concat()),
            Op::Sync(_) | Op::Resume(_) => {}
            Op::Finish(number, name) => {
                let session = self.session(*number);
                (session.is_perhaps_gone, session.finishing) = (true, Some(*name));
                let content = Bytes::from(session.appended.clone());
                self.perhaps_put(name, &content);
            }
            Op::Abort(number) => self.session(*number).is_perhaps_gone = true,
        }
    }

    fn key(&mut self, name: &'static str) -> &mut Vec<Option<Bytes>> {
        self.keys.entry(name).or_insert_with(|| vec![None])
    }

    fn session(&mut self, number: u8) -> &mut OpenSession {
        self.sessions.entry(number).or_default()
    }

    fn put(&mut self, name: &'static str, content: &Bytes, put: Option<Put>) {
        let states = self.key(name);
        let is_there = !states.contains(&None);
        let put = put.unwrap_or(if is_there { Put::Exists } else { Put::Created });
        match put {
            Put::Created => {
                assert!(!is_there, "{name} was acknowledged, and made again");
                *states = vec![Some(content.clone())];
            }
            Put::Exists => {
                states.retain(Option::is_some);
                assert!(!states.is_empty(), "{name} is said to exist, and nobody put it");
            }
        }
    }

    fn perhaps_put(&mut self, name: &'static str, content: &Bytes) {
        let states = self.key(name);
        if states.contains(&None) {
            states.push(Some(content.clone()));
        }
    }

    fn may_be(&self, name: &str, state: Option<&Bytes>) -> bool {
        self.keys
            .get(name)
            .map_or(state.is_none(), |states| states.iter().any(|known| known.as_ref() == state))
    }

    /// Readers find what was acknowledged, nothing else, and nothing that `disk` may still lose.
    pub(crate) async fn check_reading(&self, storage: &FolderStorage, disk: &Disk, root: &Path) {
        for name in self.keys.keys() {
            let found = match read_whole(storage, &key(name), 1 << 20).await {
                Ok(content) => Some(content),
                Err(StorageError::Missing { .. }) => None,
                Err(error) => panic!("{name} cannot be read: {error:?}"),
            };
            assert!(self.may_be(name, found.as_ref()), "{name} is {:?} long", found.map(|found| found.len()));
            let is_durable =
                |outcome: &Outcome| matches!(outcome, Outcome::Whole(whole) if Some(whole) == found.as_ref());
            if found.is_some() {
                let outcomes = disk.outcomes(&root.join(name));
                assert!(
                    outcomes.iter().all(is_durable),
                    "{name} is visible, a power cut leaves {outcomes:?}"
                );
            }
        }
        for name in self.list(storage).await {
            assert!(self.keys.contains_key(name.as_str()), "{name} is listed, and nobody put it");
            let size = storage.size_bytes(&key(&name)).await.unwrap();
            let has_size = |state: &Option<Bytes>| state.as_ref().is_some_and(|it| it.len() as u64 == size);
            assert!(self.keys[name.as_str()].iter().any(has_size), "{name} has {size} bytes");
        }
    }

    /// All keys that a walk through the listings finds.
    async fn list(&self, storage: &FolderStorage) -> Vec<String> {
        let tops = self.keys.keys().map(|name| name.split('/').next().unwrap());
        let mut folders: Vec<String> = tops.map(str::to_owned).collect();
        folders.dedup();
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            let entries = storage.list(&key(&folder), None, 1000).await;
            // A key is no folder; that it cannot be listed is no matter.
            for entry in entries.unwrap_or_default() {
                match entry {
                    Entry::Key(name) => found.push(format!("{folder}/{name}")),
                    Entry::Folder(name) => folders.push(format!("{folder}/{name}")),
                }
            }
        }
        found
    }

    /// Every crash of `disk` now leaves what was acknowledged, and nothing in part.
    pub(crate) fn check_disk(&self, disk: &Disk, root: &Path) {
        for name in self.keys.keys() {
            for outcome in disk.outcomes(&root.join(name)) {
                let is_right = match &outcome {
                    Outcome::Absent => self.may_be(name, None),
                    Outcome::Whole(content) => self.may_be(name, Some(content)),
                    Outcome::Torn => false,
                };
                assert!(is_right, "a power cut leaves {name} {outcome:?}");
            }
        }
    }

    /// Checks the storage in `root`, which was opened again after `crash`: keys, sessions and files.
    pub(crate) async fn check(&self, storage: &FolderStorage, disk: &Disk, root: &Path, crash: Crash) {
        self.check_reading(storage, disk, root).await;
        for session in storage.sessions().await.unwrap() {
            assert!(self.may_have_session(&session.id.to_string(), crash), "session {} is left", session.id);
        }
        for (number, session) in &self.sessions {
            self.check_session(storage, *number, session, crash).await;
        }
        self.check_files(root, crash);
    }

    fn may_have_session(&self, name: &str, crash: Crash) -> bool {
        let is = |number: &u8| id(*number).to_string() == name;
        self.sessions.keys().any(is)
            || ((crash == Crash::PowerCut || self.may_keep_sessions) && self.ended.iter().any(is))
    }

    async fn check_session(&self, storage: &FolderStorage, number: u8, session: &OpenSession, crash: Crash) {
        let resumed = match storage.resume(id(number)).await {
            Ok(resumed) => resumed,
            Err(StorageError::NoSession { .. }) => {
                let may_be_gone =
                    session.is_perhaps_gone || (crash == Crash::PowerCut && session.synced_bytes.is_none());
                assert!(may_be_gone, "session {number} is gone");
                if let (Some(name), Crash::Kill) = (session.finishing, crash) {
                    assert!(storage.size_bytes(&key(name)).await.is_ok(), "session {number} became nothing");
                }
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let content: Vec<Bytes> = resumed.stream().try_collect().await.unwrap();
        let content = content.concat();
        let appended = &session.appended;
        let tail_bytes = session.tried.iter().map(Vec::len).max().unwrap_or(0);
        let certain = match crash {
            Crash::Kill => appended.len(),
            Crash::PowerCut => session.synced_bytes.unwrap_or(0),
        };
        let sizes = certain..=appended.len() + tail_bytes;
        assert!(sizes.contains(&content.len()), "session {number}: {} bytes, not {sizes:?}", content.len());
        assert!(content[..certain] == appended[..certain], "session {number} holds something else");
        if let (Crash::Kill, [tried]) = (crash, &session.tried[..]) {
            assert!(tried.starts_with(&content[certain..]), "session {number} ends in something else");
        }
    }

    /// Nothing lies in the folder but keys and open sessions.
    fn check_files(&self, root: &Path, crash: Crash) {
        for path in files(root) {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            let data = fs::metadata(&path).unwrap();
            match name.split_once('/') {
                None if name == ".lock" => {}
                Some((".reserve", _)) => {}
                Some((".sessions", number)) => {
                    assert!(self.may_have_session(number, crash), "{name} is left over");
                }
                _ => {
                    let content = Bytes::from(fs::read(&path).unwrap());
                    assert!(self.may_be(name, Some(&content)), "{name} is left over");
                    assert_eq!(data.nlink(), 1, "{name} has other names");
                }
            }
        }
    }
}

/// All files below `folder`.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
