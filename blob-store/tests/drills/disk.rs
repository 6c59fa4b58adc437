//! A model of a disk, told of every change: what may be found on it after a power cut?
//!
//! A file's content is certain once the file was synced after its last change. A name is certain
//! once its folder was synced after its last change, and only if the folder's own name is. All else
//! may be as it was at the last sync, as it is now, or as it was at any time between; each name and
//! each file for itself. No file system is worse than that, and most are better.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blob_store::Step;
use bytes::Bytes;

/// A number in [`Disk::nodes`].
type Node = usize;

#[derive(Debug, Clone)]
enum Kind {
    /// For each name, what it may lead to after a power cut, the oldest first; the last is what it leads
    /// to now. `None` is nothing.
    Folder(BTreeMap<String, Vec<Option<Node>>>),
    /// The content now, and at the last sync.
    File { now: Arc<Vec<u8>>, durable: Option<Arc<Vec<u8>>> },
}

/// The disk, as far as it lies below one folder that is certain.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    top: PathBuf,
    nodes: Vec<Kind>,
}

/// What may be found under a name after a power cut.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Absent,
    /// A file that is as it was written.
    Whole(Bytes),
    /// A file with content that was never synced, or with that of another time.
    Torn,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Whole(content) => write!(f, "whole with {} bytes", content.len()),
            Self::Torn => f.write_str("torn"),
        }
    }
}

/// What a power cut leaves of the things that are not certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PowerCut {
    /// Everything is lost.
    All,
    /// Names are as they are now; content is lost.
    Content,
    /// Content is as it is now; names are lost.
    Names,
    /// Some of both; which, follows from the number.
    Some(u64),
}

impl PowerCut {
    /// A number below `count`, by chance.
    fn pick(&mut self, count: usize) -> usize {
        let Self::Some(state) = self else { return 0 };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize % count
    }
}

impl Disk {
    /// A disk on which nothing lies below `top`.
    pub(crate) fn new(top: &Path) -> Self {
        Self { top: top.to_owned(), nodes: vec![Kind::Folder(BTreeMap::new())] }
    }

    /// A disk on which everything that is found below `top` is certain.
    pub(crate) fn found(top: &Path) -> Self {
        let mut disk = Self::new(top);
        disk.find_all(0, top, &mut BTreeMap::new());
        disk
    }

    /// Adds what is found in `path`, which is the folder `folder`; `seen` are files, by their numbers.
    fn find_all(&mut self, folder: Node, path: &Path, seen: &mut BTreeMap<u64, Node>) {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let (path, data) = (entry.path(), entry.metadata().unwrap());
            let node = if data.is_dir() {
                let node = self.add(Kind::Folder(BTreeMap::new()));
                self.find_all(node, &path, seen);
                node
            } else if let Some(node) = seen.get(&data.ino()) {
                *node
            } else {
                let now = Arc::new(fs::read(&path).unwrap());
                let node = self.add(Kind::File { durable: Some(now.clone()), now });
                seen.insert(data.ino(), node);
                node
            };
            let Kind::Folder(names) = &mut self.nodes[folder] else {
                unreachable!("only folders are walked")
            };
            names.insert(entry.file_name().into_string().unwrap(), vec![Some(node)]);
        }
    }

    /// A change that succeeded.
    pub(crate) fn apply(&mut self, step: Step<'_>) {
        match step {
            Step::Create { path } => {
                let node = self.add(Kind::File { now: Arc::default(), durable: None });
                self.bind(path, Some(node));
            }
            Step::MakeFolder { path } => {
                let node = self.add(Kind::Folder(BTreeMap::new()));
                self.bind(path, Some(node));
            }
            Step::Link { from, to } => {
                let node = self.find(from);
                self.bind(to, Some(node));
            }
            Step::Remove { path } => self.bind(path, None),
            Step::RemoveFolder { path } => {
                let Kind::Folder(names) = &self.nodes[self.find(path)] else { panic!("{path:?} is a file") };
                let is_empty = names.values().all(|leads_to| leads_to.last() == Some(&None));
                assert!(is_empty, "{path:?} was removed, and something lies in it");
                self.bind(path, None);
            }
            Step::Write { path, offset, bytes } => {
                let content = Arc::make_mut(self.content(path).0);
                let start = usize::try_from(offset).unwrap();
                content.resize(content.len().max(start + bytes.len()), 0);
                content[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Step::Cut { path, size_bytes } => {
                Arc::make_mut(self.content(path).0).resize(usize::try_from(size_bytes).unwrap(), 0);
            }
            Step::SyncData { path } => {
                let (now, durable) = self.content(path);
                *durable = Some(now.clone());
            }
            Step::SyncFolder { path } => {
                let node = self.find(path);
                self.settle(node);
            }
            Step::SyncFileSystem { .. } => (0..self.nodes.len()).for_each(|node| self.settle(node)),
        }
    }

    fn add(&mut self, kind: Kind) -> Node {
        self.nodes.push(kind);
        self.nodes.len() - 1
    }

    fn bind(&mut self, path: &Path, node: Option<Node>) {
        let folder = self.find(path.parent().unwrap());
        let Kind::Folder(names) = &mut self.nodes[folder] else { panic!("{path:?} lies in no folder") };
        match names.entry(path.file_name().unwrap().to_str().unwrap().to_owned()) {
            Entry::Vacant(entry) => drop(entry.insert(vec![None, node])),
            Entry::Occupied(mut entry) => entry.get_mut().push(node),
        }
    }

    /// Makes a folder's names or a file's content certain.
    fn settle(&mut self, node: Node) {
        match &mut self.nodes[node] {
            Kind::Folder(names) => {
                for leads_to in names.values_mut() {
                    leads_to.drain(..leads_to.len() - 1);
                }
            }
            Kind::File { now, durable } => *durable = Some(now.clone()),
        }
    }

    /// What `path` leads to now.
    fn find(&self, path: &Path) -> Node {
        self.parts(path).fold(0, |node, name| {
            let Kind::Folder(names) = &self.nodes[node] else { panic!("{path:?} leads through a file") };
            let leads_to = names.get(name).unwrap_or_else(|| panic!("{path:?} does not exist"));
            leads_to.last().copied().flatten().unwrap_or_else(|| panic!("{path:?} was removed"))
        })
    }

    fn content(&mut self, path: &Path) -> (&mut Arc<Vec<u8>>, &mut Option<Arc<Vec<u8>>>) {
        let node = self.find(path);
        let Kind::File { now, durable } = &mut self.nodes[node] else { panic!("{path:?} is a folder") };
        (now, durable)
    }

    fn parts<'a>(&self, path: &'a Path) -> impl Iterator<Item = &'a str> + use<'a> {
        let below = path.strip_prefix(&self.top).unwrap_or_else(|_| panic!("{path:?} is not on this disk"));
        below.iter().map(|part| part.to_str().unwrap())
    }

    /// All that `path` may hold after a power cut, now.
    pub(crate) fn outcomes(&self, path: &Path) -> Vec<Outcome> {
        let mut reached: Vec<Option<Node>> = vec![Some(0)];
        for name in self.parts(path) {
            reached = reached.into_iter().flat_map(|node| self.leads_to(node, name)).collect();
            reached.sort();
            reached.dedup();
        }
        let outcome = |node: Option<Node>| match node.map(|node| &self.nodes[node]) {
            None | Some(Kind::Folder(_)) => Outcome::Absent,
            Some(Kind::File { now, durable: Some(durable) }) if now == durable => {
                Outcome::Whole(Bytes::copy_from_slice(now))
            }
            Some(Kind::File { .. }) => Outcome::Torn,
        };
        reached.into_iter().map(outcome).collect()
    }

    fn leads_to(&self, node: Option<Node>, name: &str) -> Vec<Option<Node>> {
        match node.map(|node| &self.nodes[node]) {
            Some(Kind::Folder(names)) => names.get(name).cloned().unwrap_or_else(|| vec![None]),
            None | Some(Kind::File { .. }) => vec![None],
        }
    }

    /// Makes in `folder` what is found below the top after a power cut, now.
    pub(crate) fn write_image(&self, folder: &Path, mut cut: PowerCut) {
        self.write_folder(0, folder, &mut cut, &mut BTreeMap::new());
    }

    fn write_folder(
        &self,
        node: Node,
        folder: &Path,
        cut: &mut PowerCut,
        written: &mut BTreeMap<Node, PathBuf>,
    ) {
        let Kind::Folder(names) = &self.nodes[node] else { unreachable!("only folders are walked") };
        for (name, leads_to) in names {
            let kept = match cut {
                PowerCut::All | PowerCut::Names => 0,
                PowerCut::Content => leads_to.len() - 1,
                PowerCut::Some(_) => cut.pick(leads_to.len()),
            };
            let (Some(node), path) = (leads_to[kept], folder.join(name)) else { continue };
            if let Some(other) = written.get(&node) {
                fs::hard_link(other, &path).unwrap();
                continue;
            }
            match &self.nodes[node] {
                Kind::Folder(_) => {
                    fs::create_dir(&path).unwrap();
                    self.write_folder(node, &path, cut, written);
                }
                Kind::File { now, durable } => {
                    write_file(&path, now, durable.as_ref().map_or(&[], |durable| &durable[..]), cut);
                    written.insert(node, path);
                }
            }
        }
    }
}

/// Writes what is left of a file that was `durable` and is `now`.
fn write_file(path: &Path, now: &[u8], durable: &[u8], cut: &mut PowerCut) {
    let kept = match cut {
        PowerCut::All | PowerCut::Content => 0,
        PowerCut::Names => 1,
        PowerCut::Some(_) => cut.pick(4),
    };
    match kept {
        0 => fs::write(path, durable).unwrap(),
        1 => fs::write(path, now).unwrap(),
        // The size is new, and some of the content: zeros are found in its place.
        _ => {
            fs::write(path, durable).unwrap();
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(now.len() as u64).unwrap();
            let half = now.len() / 2;
            if kept == 2 && half > durable.len() {
                file.write_all_at(&now[durable.len()..half], durable.len() as u64).unwrap();
            }
        }
    }
}

#[test]
fn the_disk_keeps_what_was_synced_and_nothing_else() {
    let path = Path::new;
    let whole = || Outcome::Whole(Bytes::from("ab"));
    let mut disk = Disk::new(path("/top"));
    let check = |disk: &Disk, want: &[Outcome]| assert_eq!(disk.outcomes(path("/top/f/x")), want);
    disk.apply(Step::MakeFolder { path: path("/top/f") });
    disk.apply(Step::Create { path: path("/top/f/x") });
    disk.apply(Step::Write { path: path("/top/f/x"), offset: 0, bytes: b"ab" });
    check(&disk, &[Outcome::Absent, Outcome::Torn]);
    disk.apply(Step::SyncData { path: path("/top/f/x") });
    check(&disk, &[Outcome::Absent, whole()]);
    disk.apply(Step::SyncFolder { path: path("/top/f") });
    check(&disk, &[Outcome::Absent, whole()]); // the folder itself is not certain yet
    disk.apply(Step::SyncFolder { path: path("/top") });
    check(&disk, &[whole()]);
    disk.apply(Step::Remove { path: path("/top/f/x") });
    check(&disk, &[Outcome::Absent, whole()]);
    disk.apply(Step::SyncFileSystem { path: path("/top") });
    check(&disk, &[Outcome::Absent]);
}
