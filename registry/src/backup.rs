//! Copies a registry to another storage, and back.
//!
//! ```text
//! backup    accounts, tags, manifests, referrers, stamps, content       what refers comes first
//! restore   accounts, content, stamps, referrers, manifests, tags       what refers comes last
//! ```
//!
//! A backup is taken from a registry that is in use. What a copied key refers to was there before that
//! key, and stays for the grace period even if nobody wants it any more; so copying it later finds it.
//! A backup that takes longer than that, or that meets somebody who deletes, may miss something. So at
//! the end it is looked whether each tag of the copy leads to all that it needs. If one does not, the
//! copy is brought up to date, which by then takes less time, and if that does not help it is said.
//!
//! A restore that is interrupted shows no tag that leads nowhere. Accounts come first in both, so no
//! half of a registry is ever open to strangers.
//!
//! Keys are write-once, so what was copied before is not copied again. What was deleted since stays in
//! the copy. Open uploads and what is in quarantine are not copied.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use appliance::Digest;
use blob_store::{Copied, CopyError, CopyReport, Key, Storage, StorageError, copy, read_whole};

use crate::clock::SystemClock;
use crate::layout;
use crate::lifecycle::CareError;
use crate::manifest::Manifest;
use crate::name::RepositoryName;
use crate::repository::{Repositories, RepositoryError};
use crate::rules::Rules;

/// How often a copy is brought up to date before it is given up.
const ROUNDS: usize = 3;
/// Tags that are named where some lead nowhere.
const NAMED: usize = 5;
/// Repositories that are listed together.
const PAGE: usize = 1000;

/// Whether a backup that was interrupted is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// Each tag must lead to all that it needs.
    Whole,
    /// What there is is taken.
    Partial,
}

/// Why a registry was not copied. What was copied until then is there, and copying again goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is no registry to be copied.
    #[error("there is no registry")]
    Nothing,
    /// The storage belongs to another version, or to something else.
    #[error("the storage has the layout `{found}`; this version reads layout 2")]
    OtherLayout {
        /// What was found, control characters escaped.
        found: String,
    },
    /// There is a registry already where one was to be restored.
    #[error("there is a registry already; one is restored only to where there is none")]
    Occupied,
    /// Some tags of the copy lead to what is not in it.
    #[error("{} not lead to all that is needed, among them {}", subject(*count), named.join(", "))]
    Dangling {
        /// How many tags.
        count: u64,
        /// Some of them, as `repository:tag`.
        named: Vec<String>,
    },
    /// Copying failed.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// What is there cannot be looked at.
    #[error("the registry cannot be looked through")]
    Look(#[source] CareError),
}

/// Copies the registry in `from`, which may be in use, to `to`, where an earlier copy of it may be.
/// `progress` hears of each key.
///
/// # Errors
///
/// [`BackupError`], but not [`BackupError::Occupied`].
pub async fn backup(
    from: Arc<dyn Storage>,
    to: Arc<dyn Storage>,
    mut progress: impl FnMut(&Key, Copied),
) -> Result<CopyReport, BackupError> {
    check_layout(&*from).await?;
    if has_layout(&*to).await? {
        check_layout(&*to).await?;
    }
    let mut total = CopyReport::default();
    for round in 1.. {
        let names = names(&repositories(&from)).await?;
        let per_repository = [layout::tags, layout::all_manifests, layout::all_referrers, layout::all_stamps];
        let mut folders = vec![layout::layout(), layout::accounts()];
        folders.extend(per_repository.iter().flat_map(|folder| names.iter().map(folder)));
        folders.push(layout::all_contents());
        let report = copy(&*from, &*to, &folders, &mut progress).await?;
        total.copied_keys += report.copied_keys;
        total.copied_bytes += report.copied_bytes;
        match check_whole(&to).await {
            Ok(()) => break,
            Err(BackupError::Dangling { .. }) if round < ROUNDS => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Copies the registry in `from`, a backup, to `to`, where there is none, or what an interrupted
/// restore left. `progress` hears of each key.
///
/// # Errors
///
/// [`BackupError`]. With [`Completeness::Whole`], [`BackupError::Dangling`] comes before anything is
/// copied.
pub async fn restore(
    from: Arc<dyn Storage>,
    to: Arc<dyn Storage>,
    completeness: Completeness,
    progress: impl FnMut(&Key, Copied),
) -> Result<CopyReport, BackupError> {
    check_layout(&*from).await?;
    if has_layout(&*to).await? {
        return Err(BackupError::Occupied);
    }
    if completeness == Completeness::Whole {
        check_whole(&from).await?;
    }
    let names = names(&repositories(&from)).await?;
    let per_repository = [layout::all_stamps, layout::all_referrers, layout::all_manifests, layout::tags];
    let mut folders = vec![layout::accounts(), layout::all_contents()];
    folders.extend(per_repository.iter().flat_map(|folder| names.iter().map(folder)));
    // Until this is there, the restore is not over.
    folders.push(layout::layout());
    Ok(copy(&*from, &*to, &folders, progress).await?)
}

fn repositories(storage: &Arc<dyn Storage>) -> Repositories {
    // Only looked at: neither the time nor the rules matter.
    Repositories::new(Arc::clone(storage), Arc::new(SystemClock), Duration::MAX, Arc::new(Rules::default()))
}

async fn names(repositories: &Repositories) -> Result<Vec<RepositoryName>, BackupError> {
    let mut names: Vec<RepositoryName> = Vec::new();
    loop {
        let page = repositories.names(names.last(), PAGE).await?;
        if page.is_empty() {
            return Ok(names);
        }
        names.extend(page);
    }
}

async fn has_layout(storage: &dyn Storage) -> Result<bool, BackupError> {
    match storage.size_bytes(&layout::layout()).await {
        Err(StorageError::Missing { .. }) => Ok(false),
        size => Ok(size.map(|_| true)?),
    }
}

async fn check_layout(storage: &dyn Storage) -> Result<(), BackupError> {
    match read_whole(storage, &layout::layout(), 64).await {
        Err(StorageError::Missing { .. }) => Err(BackupError::Nothing),
        Ok(found) if found != layout::LAYOUT => {
            let found = String::from_utf8_lossy(&found).trim_end().escape_debug().to_string();
            Err(BackupError::OtherLayout { found })
        }
        read => Ok(read.map(|_| ())?),
    }
}

/// Makes sure that each tag leads to its manifest, and that to its blobs.
async fn check_whole(storage: &Arc<dyn Storage>) -> Result<(), BackupError> {
    let repositories = repositories(storage);
    let (mut count, mut dangling) = (0, Vec::new());
    for name in names(&repositories).await? {
        // What was found whole in this repository.
        let mut whole = HashSet::new();
        for live in repositories.all_tags(&name).await? {
            if !leads_to_all(&repositories, &name, live.digest, &mut whole).await? {
                count += 1;
                if dangling.len() < NAMED {
                    dangling.push(format!("{name}:{}", live.tag.as_str()));
                }
            }
        }
    }
    match count {
        0 => Ok(()),
        count => Err(BackupError::Dangling { count, named: dangling }),
    }
}

/// True if a manifest is here, and its blobs, and those of the manifests below it.
async fn leads_to_all(
    repositories: &Repositories,
    name: &RepositoryName,
    root: Digest,
    whole: &mut HashSet<Digest>,
) -> Result<bool, RepositoryError> {
    let mut open = vec![root];
    let mut seen = HashSet::new();
    while let Some(digest) = open.pop() {
        if whole.contains(&digest) || seen.contains(&digest) {
            continue;
        }
        let Some(stored) = repositories.read_manifest(name, digest).await? else {
            // An index may name manifests that are elsewhere.
            if digest == root {
                return Ok(false);
            }
            continue;
        };
        let Ok(manifest) = Manifest::check(&stored.bytes, Some(&stored.media_type)) else { return Ok(false) };
        for blob in manifest.blobs {
            if !whole.contains(&blob) && !repositories.has_readable(name, &blob).await? {
                return Ok(false);
            }
            seen.insert(blob);
        }
        open.extend(manifest.children);
        seen.insert(digest);
    }
    whole.extend(seen);
    Ok(true)
}

/// `1 tag does`, `2 tags do`.
fn subject(count: u64) -> String {
    if count == 1 { "1 tag does".to_owned() } else { format!("{count} tags do") }
}

impl From<RepositoryError> for BackupError {
    fn from(error: RepositoryError) -> Self {
        Self::Look(error.into())
    }
}

impl From<StorageError> for BackupError {
    fn from(error: StorageError) -> Self {
        RepositoryError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use appliance::media_type;
    use blob_store::{MemoryStorage, SessionId, Storage as _};
    use bytes::Bytes;
    use futures_util::{FutureExt as _, TryStreamExt as _};
    use serde_json::json;
    use tokio::sync::Notify;

    use super::*;
    use crate::name::Tag;
    use crate::repository::{Author, Authority, PutManifest};

    const SOMEBODY: Author<'_> = Author { name: "somebody", authority: Authority::Ordinary };

    fn shared(storage: &MemoryStorage) -> Arc<dyn Storage> {
        Arc::new(storage.clone())
    }

    fn web() -> RepositoryName {
        RepositoryName::parse("web").unwrap()
    }

    /// A registry with the tags `web:0` and so on, each with a blob of its own.
    async fn registry(tags: u8) -> MemoryStorage {
        let storage = MemoryStorage::new();
        storage.put_if_absent(&layout::layout(), Bytes::from_static(layout::LAYOUT)).await.unwrap();
        for number in 0..tags {
            let mut session = storage.begin(SessionId::new([number; 32])).await.unwrap();
            session.append(0, vec![vec![number; 10].into()]).await.unwrap();
            let blob = Digest::sha256(&[number; 10]);
            let repositories = repositories(&shared(&storage));
            repositories.store_blob(&web(), &blob, session, None).await.unwrap();
            let descriptor = json!({ "mediaType": "a/b", "digest": blob, "size": 10 });
            let document = json!({ "schemaVersion": 2, "mediaType": media_type::MANIFEST,
                "config": descriptor, "layers": [descriptor] });
            let bytes = Bytes::from(document.to_string());
            let manifest = &Manifest::check(&bytes, None).unwrap();
            let (digest, tags) = (Digest::sha256(&bytes), &[Tag::parse(&number.to_string()).unwrap()]);
            let put = PutManifest { repository: &web(), manifest, digest, bytes, tags, by: SOMEBODY };
            repositories.put_manifest(&put).await.unwrap();
        }
        storage
    }

    async fn tags(storage: &MemoryStorage) -> usize {
        repositories(&shared(storage)).all_tags(&web()).await.unwrap().len()
    }

    /// Takes a backup of two tags, while `meanwhile` is done to the source after the tags were copied.
    async fn backup_while(
        meanwhile: impl Fn(&MemoryStorage),
    ) -> (Result<CopyReport, BackupError>, MemoryStorage) {
        let (from, to) = (registry(2).await, MemoryStorage::new());
        let is_done = Cell::new(false);
        let done = backup(shared(&from), shared(&to), |key, _| {
            if key.as_str().contains("/manifests/") && !is_done.replace(true) {
                meanwhile(&from);
            }
        })
        .await;
        (done, to)
    }

    /// Deletes all content at once, as a collector does when nothing relies on it.
    fn delete_contents(storage: &MemoryStorage) {
        let keys: Vec<Key> =
            storage.keys_below(&layout::all_contents()).try_collect().now_or_never().unwrap().unwrap();
        for key in keys {
            storage.delete(&key).now_or_never().unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_backup_that_missed_what_was_deleted_says_so() {
        let (done, _) = backup_while(delete_contents).await;
        let error = done.unwrap_err().to_string();
        assert_eq!(error, "2 tags do not lead to all that is needed, among them web:0, web:1");
    }

    #[tokio::test]
    async fn a_backup_catches_up_with_tags_that_were_deleted_meanwhile() {
        let (done, to) = backup_while(|from| {
            let repositories = repositories(&shared(from));
            let name = web();
            for live in repositories.all_tags(&name).now_or_never().unwrap().unwrap() {
                let deleted = repositories.delete_manifest(&name, live.digest, SOMEBODY);
                assert!(deleted.now_or_never().unwrap().unwrap());
            }
            delete_contents(from);
        })
        .await;
        done.unwrap();
        assert_eq!(tags(&to).await, 0);
    }

    #[tokio::test]
    async fn a_restore_that_is_interrupted_shows_no_tag_that_leads_nowhere_and_goes_on() {
        let from = registry(5).await;
        for last in 0.. {
            let (to, stop, heard) = (MemoryStorage::new(), Notify::new(), Cell::new(0));
            let restored = restore(shared(&from), shared(&to), Completeness::Whole, |_, _| {
                heard.set(heard.get() + 1);
                if heard.get() > last {
                    stop.notify_one();
                }
            });
            let is_over = tokio::select! {
                biased;
                () = stop.notified() => false,
                restored = restored => restored.map(|_| true).unwrap(),
            };
            check_whole(&shared(&to)).await.unwrap();
            match restore(shared(&from), shared(&to), Completeness::Whole, |_, _| {}).await {
                Ok(_) => {}
                Err(BackupError::Occupied) => assert!(heard.get() > 20, "{}", heard.get()),
                Err(error) => panic!("{error}"),
            }
            assert_eq!(tags(&to).await, 5);
            if is_over {
                return;
            }
        }
    }
}
