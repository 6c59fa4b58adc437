//! Where a registry keeps everything: a folder of this machine, or a bucket of S3.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use blob_store::{Addressing, FolderStorage, Key, PlainHttp, S3Config, S3Credentials, S3Storage, Storage};

use crate::environment;
use crate::error::{CommandError, Exit, OrExit as _};

/// Where a registry keeps everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder, used by one process at a time.
    Folder(PathBuf),
    /// A bucket, which several servers may share.
    Bucket(Bucket),
}

/// A bucket, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) prefix: Option<Key>,
    pub(super) region: String,
    pub(super) endpoint: Option<String>,
    pub(super) addressing: Addressing,
    pub(super) plain_http: PlainHttp,
    /// Files with the access key and its secret; the environment's where that is `None`.
    pub(super) key_files: Option<(PathBuf, PathBuf)>,
}

/// How long requests are tried again that the service throttles or fails.
const PATIENCE: Duration = Duration::from_secs(30);

impl Place {
    /// Opens it.
    pub(super) async fn open(&self) -> Result<Arc<dyn Storage>, CommandError> {
        match self {
            Self::Folder(path) => Ok(Arc::new(FolderStorage::open(path).or_exit(Exit::Failed)?)),
            Self::Bucket(bucket) => {
                let storage = S3Storage::open(bucket.config()?).await;
                let storage =
                    storage.map_err(|error| CommandError::from_error(Exit::Unreachable, error).hint(HINT))?;
                Ok(Arc::new(storage))
            }
        }
    }
}

const HINT: &str = "`[storage.s3]` says where the bucket is; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or its \
                    `access-key-file` and `secret-key-file`, say who asks";

impl Bucket {
    fn config(&self) -> Result<S3Config, CommandError> {
        let credentials = match &self.key_files {
            Some((access, secret)) => {
                let (access_key, secret_key) = (secret_of(access)?, secret_of(secret)?);
                Some(S3Credentials { access_key, secret_key, session_token: None })
            }
            None => environment::aws_credentials(),
        };
        Ok(S3Config {
            bucket: self.name.clone(),
            prefix: self.prefix.clone(),
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            credentials,
            addressing: self.addressing,
            plain_http: self.plain_http,
            patience: PATIENCE,
        })
    }
}

/// The text of a file with a secret, without the line's end that editors add.
fn secret_of(path: &Path) -> Result<String, CommandError> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()));
    match text {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) => Err(CommandError { exit: Exit::Failed, error, hint: None }.hint(HINT)),
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Bucket(Bucket { name, prefix: None, .. }) => write!(f, "the bucket {name}"),
            Self::Bucket(Bucket { name, prefix: Some(prefix), .. }) => {
                write!(f, "the bucket {name}/{prefix}")
            }
        }
    }
}
