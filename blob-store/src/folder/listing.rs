//! Which keys there are: those of one folder, or all below it, in the order of whole keys.

use std::cmp::Ordering;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::blocking;
use super::tree::{Tree, entries_of};
use crate::Key;
use crate::storage::{Entry, KeyStream, StorageError};

/// Keys that are found before the walk gives way to others.
const BATCH: usize = 512;

/// What lies directly in `folder`; see [`crate::Storage::list`].
pub(super) fn list(
    tree: &Tree,
    folder: &Key,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Entry>, StorageError> {
    let path = tree.path(folder);
    let failed = |source| StorageError::Io { action: "list", name: folder.to_string(), source };
    let mut entries: Vec<Entry> = entries_of(&path).and_then(Iterator::collect).map_err(failed)?;
    entries.retain(|entry| after.is_none_or(|after| order(entry, &entry_like(entry, after)).is_gt()));
    entries.sort_by(order);
    // What is not there yet, and folders that lead to no key, are left out last: it costs a look each.
    let mut visible = Vec::new();
    for entry in entries {
        if visible.len() == limit {
            break;
        }
        let is_visible = match &entry {
            Entry::Key(name) => !tree.is_hidden(&path.join(name)),
            Entry::Folder(name) => tree.leads_to_a_key(&path.join(name)).map_err(failed)?,
        };
        if is_visible {
            visible.push(entry);
        }
    }
    Ok(visible)
}

/// A walk under way.
struct Walk {
    tree: Arc<Tree>,
    /// What is still to be visited: of the innermost folder last, and of each folder in descending
    /// order.
    open: Vec<(String, Vec<Entry>)>,
}

/// All keys below `folder`; see [`crate::Storage::keys_below`].
pub(super) fn keys_below(tree: Arc<Tree>, folder: &Key) -> KeyStream<'static> {
    let start = Walk { tree, open: vec![(String::new(), vec![Entry::Folder(folder.to_string())])] };
    stream::try_unfold(start, |mut walk| async move {
        blocking(move || {
            let batch = walk.next_batch()?;
            Ok((!batch.is_empty()).then_some((batch, walk)))
        })
        .await
    })
    .map_ok(|batch| stream::iter(batch.into_iter().map(Ok)))
    .try_flatten()
    .boxed()
}

impl Walk {
    /// The next keys; none at the end.
    fn next_batch(&mut self) -> Result<Vec<Key>, StorageError> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some((path, entries)) = self.open.last_mut() else { break };
            let Some(entry) = entries.pop() else {
                self.open.pop();
                continue;
            };
            let path =
                if path.is_empty() { entry.name().to_owned() } else { format!("{path}/{}", entry.name()) };
            match entry {
                Entry::Key(_) => {
                    let key = Key::new(path).expect("each part was checked");
                    if !self.tree.is_hidden(&self.tree.path(&key)) {
                        batch.push(key);
                    }
                }
                Entry::Folder(_) => {
                    let folder = Key::new(&*path).expect("each part was checked");
                    let found = entries_of(&self.tree.path(&folder)).and_then(Iterator::collect);
                    let mut entries: Vec<Entry> = found.map_err(|source| StorageError::Io {
                        action: "list",
                        name: path.clone(),
                        source,
                    })?;
                    entries.sort_by(|left, right| order(right, left));
                    self.open.push((path, entries));
                }
            }
        }
        Ok(batch)
    }
}

/// The order in which whole keys sort: a folder's name goes on with `/`.
fn order(left: &Entry, right: &Entry) -> Ordering {
    fn bytes(entry: &Entry) -> impl Iterator<Item = u8> + '_ {
        let end = if matches!(entry, Entry::Folder(_)) { "/" } else { "" };
        entry.name().bytes().chain(end.bytes())
    }
    bytes(left).cmp(bytes(right))
}

fn entry_like(entry: &Entry, name: &str) -> Entry {
    match entry {
        Entry::Key(_) => Entry::Key(name.to_owned()),
        Entry::Folder(_) => Entry::Folder(name.to_owned()),
    }
}
