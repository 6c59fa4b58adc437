//! The four requests that the backend makes of a bucket, and what the service's answers mean.
//!
//! All that is known of `object_store` is here and in [`super::config`]. Everything above speaks to
//! [`Bucket`], so that tests can stop it between any two requests.

use std::fmt;
use std::io;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use crate::storage::{Put, StorageError};

/// The most that one request lists or deletes: what S3 allows.
pub(super) const PAGE: usize = 1000;
/// An end that lies behind that of every object.
pub(super) const WHOLE: u64 = 1 << 50;
/// How often a create is tried again that the service refused without the object being there.
const MAX_CONFLICTS: u32 = 6;

/// A bucket, or a folder of one. Names are relative to it. Every request is atomic and durable, and
/// every later request of anybody sees what it did: S3 is strongly consistent.
#[async_trait]
pub(super) trait Bucket: fmt::Debug + Send + Sync + 'static {
    /// Puts an object unless one of this name is there.
    async fn create(&self, name: &str, content: Vec<Bytes>) -> Result<Put, StorageError>;

    /// Reads of an object what of `range` there is, `None` where there is no such object. `range`
    /// begins inside of it.
    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Read>, StorageError>;

    /// Names that begin with `prefix` and come after the name `after`, in byte order.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        depth: Depth,
    ) -> Result<Page, StorageError>;

    /// Deletes objects, in no order. Names that are not there are no errors.
    async fn delete(&self, names: Vec<String>) -> Result<(), StorageError>;
}

/// A part of an object.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) bytes: Bytes,
    /// Size of the whole object.
    pub(super) object_bytes: u64,
}

/// How far a listing looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Everything beneath a `/` behind the prefix is one folder.
    Folder,
    /// All objects.
    All,
}

/// A part of a listing.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) entries: Vec<Listed>,
    pub(super) is_last: bool,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listed {
    Object {
        name: String,
        modified: SystemTime,
    },
    /// Objects beneath this name, which ends in `/`.
    Folder {
        name: String,
    },
}

impl Listed {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Object { name, .. } | Self::Folder { name } => name,
        }
    }
}

/// A real bucket.
pub(super) struct S3Bucket {
    store: AmazonS3,
    /// What every name begins with in the bucket: empty, or ends in `/`.
    prefix: String,
    /// What must not be printed, wherever it comes from.
    secrets: Vec<String>,
}

impl fmt::Debug for S3Bucket {
    /// Not the client: it prints more than anybody should see.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Bucket").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl S3Bucket {
    pub(super) fn new(store: AmazonS3, prefix: String, secrets: Vec<String>) -> Self {
        Self { store, prefix, secrets }
    }

    fn path(&self, name: &str) -> Path {
        Path::parse(format!("{}{name}", self.prefix)).expect("names are made of keys and of digits")
    }

    fn relative(&self, path: &str, end: &str) -> String {
        format!("{}{end}", path.strip_prefix(&self.prefix).unwrap_or(path))
    }

    fn failed(&self, action: &'static str, name: &str, error: &object_store::Error) -> StorageError {
        let said = self.said(error);
        if is_full(&said) {
            return StorageError::Full;
        }
        let kind = match error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                io::ErrorKind::PermissionDenied
            }
            object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        };
        StorageError::Io { action, name: name.to_owned(), source: io::Error::new(kind, said) }
    }

    /// What the service said, without what it should not have repeated, on one line.
    fn said(&self, error: &object_store::Error) -> String {
        const MOST: usize = 600;
        let mut said = error.to_string();
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            said = said.replace(secret.as_str(), "***");
        }
        let line: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
        line.escape_debug().take(MOST).collect()
    }
}

/// True for what services say when a bucket may not grow. The client gives their answers as text only.
///
/// Source: the codes of Ceph (`QuotaExceeded`), MinIO (`XMinioStorageFull`, and
/// `XMinioAdminBucketQuotaExceeded`), and RFC 4918, section 11.5 (507).
fn is_full(said: &str) -> bool {
    const CODES: [&str; 4] =
        ["507 Insufficient Storage", "InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"];
    CODES.iter().any(|code| said.contains(code))
}

#[async_trait]
impl Bucket for S3Bucket {
    async fn create(&self, name: &str, content: Vec<Bytes>) -> Result<Put, StorageError> {
        let path = self.path(name);
        let payload = PutPayload::from_iter(content);
        let mut conflicts = 0;
        loop {
            let options = PutOptions::from(PutMode::Create);
            let error = match self.store.put_opts(&path, payload.clone(), options).await {
                Ok(_) => return Ok(Put::Created),
                Err(error @ object_store::Error::AlreadyExists { .. }) => error,
                Err(error) => return Err(self.failed("put", name, &error)),
            };
            // S3 also refuses (409) where another request was under way that came to nothing.
            if self.read(name, 0..1).await?.is_some() {
                return Ok(Put::Exists);
            }
            if conflicts == MAX_CONFLICTS {
                return Err(self.failed("put", name, &error));
            }
            tokio::time::sleep(Duration::from_millis(20 << conflicts)).await;
            conflicts += 1;
        }
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Read>, StorageError> {
        let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
        let found = match self.store.get_opts(&self.path(name), options).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(|error| self.failed("read", name, &error))?,
        };
        let object_bytes = found.meta.size;
        let bytes = found.bytes().await.map_err(|error| self.failed("read", name, &error))?;
        Ok(Some(Read { bytes, object_bytes }))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        depth: Depth,
    ) -> Result<Page, StorageError> {
        let options = PaginatedListOptions {
            offset: after.map(|after| format!("{}{after}", self.prefix)),
            delimiter: (depth == Depth::Folder).then_some("/".into()),
            max_keys: Some(limit.clamp(1, PAGE)),
            ..PaginatedListOptions::default()
        };
        let listed = self.store.list_paginated(Some(&format!("{}{prefix}", self.prefix)), options).await;
        let listed = listed.map_err(|error| self.failed("list", prefix, &error))?;
        let objects = listed.result.objects.into_iter().map(|object| Listed::Object {
            name: self.relative(object.location.as_ref(), ""),
            modified: object.last_modified.into(),
        });
        let folders = listed.result.common_prefixes.iter();
        let folders = folders.map(|folder| Listed::Folder { name: self.relative(folder.as_ref(), "/") });
        let mut entries: Vec<Listed> = objects.chain(folders).collect();
        entries.sort_unstable_by(|left, right| left.name().cmp(right.name()));
        Ok(Page { entries, is_last: listed.page_token.is_none() })
    }

    async fn delete(&self, names: Vec<String>) -> Result<(), StorageError> {
        let is_gone = |error: &object_store::Error| matches!(error, object_store::Error::NotFound { .. });
        if let [name] = names.as_slice() {
            return match self.store.delete(&self.path(name)).await {
                Err(error) if !is_gone(&error) => Err(self.failed("delete", name, &error)),
                _ => Ok(()),
            };
        }
        let Some(first) = names.first().cloned() else { return Ok(()) };
        let paths: Vec<_> = names.iter().map(|name| Ok(self.path(name))).collect();
        let mut deleted = self.store.delete_stream(stream::iter(paths).boxed());
        while let Some(result) = deleted.next().await {
            match result {
                Err(error) if !is_gone(&error) => return Err(self.failed("delete", &first, &error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Every object below `prefix`, by name.
pub(super) async fn names_below(bucket: &dyn Bucket, prefix: &str) -> Result<Vec<String>, StorageError> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let page = bucket.list(prefix, names.last().map(String::as_str), PAGE, Depth::All).await?;
        names.extend(page.entries.iter().map(|entry| entry.name().to_owned()));
        if page.is_last || page.entries.is_empty() {
            return Ok(names);
        }
    }
}
