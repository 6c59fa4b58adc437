//! Where a registry keeps everything: a folder of this machine, or a bucket of S3; and who works on it
//! when something else than serving is wanted.

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use blob_store::{
    Addressing, FolderStorage, Key, OpenFolderError, PlainHttp, S3Config, S3Credentials, S3Storage, Storage,
};
use registry::{LinkError, Operator, OperatorError, Reason};

use super::config::Config;
use crate::context::Context;
use crate::environment;
use crate::error::{CommandError, Exit, OrExit as _};
use crate::transfer::block_on;

/// Which registry is meant.
#[derive(Debug, clap::Args)]
pub(super) struct StorageArgs {
    /// Read more settings from this file; what is said here comes first
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The folder that holds everything [default: HULL_HOME/registry]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// What becomes of a registry that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// It is made.
    Made,
    /// It is an error.
    Error,
}

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

impl StorageArgs {
    /// Reads the settings, and says where everything is.
    pub(super) fn read(&self, context: &Context) -> Result<(Config, Place), CommandError> {
        let mut config = self.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        let place = self.data.clone().map(Place::Folder).or(config.storage.take());
        Ok((config, place.unwrap_or_else(|| Place::Folder(context.home.join("registry")))))
    }

    /// Whoever can change this registry: this process, or the server that has its folder.
    pub(super) async fn operator(&self, context: &Context, absent: Absent) -> Result<Operator, CommandError> {
        let (config, place) = self.read(context)?;
        let direct = async |storage| {
            Ok(Operator::direct(storage, config.garbage, config.rules.clone(), Arc::new(())).await?)
        };
        let folder = match &place {
            Place::Folder(folder) => folder,
            Place::Bucket(_) => return direct(place.open().await?).await,
        };
        if absent == Absent::Error {
            check_present(folder)?;
        }
        let since = Instant::now();
        loop {
            let is_owner = check_owner(folder);
            if is_owner.is_ok()
                && let Some(storage) = open_alone(folder)?
            {
                return direct(storage).await;
            }
            match Operator::running(&control_folder(folder)).await {
                Ok(operator) => return Ok(operator),
                Err(LinkError::Absent { .. }) if is_owner.is_err() => is_owner?,
                // A server that is starting, or another command that is at work.
                Err(LinkError::Absent { .. }) if since.elapsed() < OTHERS_WORK => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(no_link(folder, error)),
            }
        }
    }
}

/// Does something with a registry.
pub(super) fn act<T>(
    context: &Context,
    storage: &StorageArgs,
    absent: Absent,
    action: impl AsyncFnOnce(Operator) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    block_on(async { action(storage.operator(context, absent).await?).await })?
}

/// How long somebody else may have a folder who is no server.
const OTHERS_WORK: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Where the server of this folder can be reached by those who run it.
pub(super) fn control_folder(data: &Path) -> PathBuf {
    data.join(".control")
}

/// The storage in a folder; `None` while somebody else has it.
pub(super) fn open_alone(folder: &Path) -> Result<Option<Arc<dyn Storage>>, CommandError> {
    check_owner(folder)?;
    make_private(folder)?;
    match FolderStorage::open(folder) {
        Ok(storage) => Ok(Some(Arc::new(storage))),
        Err(OpenFolderError::InUse { .. }) => Ok(None),
        Err(error) => Err(CommandError::from_error(Exit::Failed, error)
            .hint("run this as the user that runs the server, or as root while it runs")),
    }
}

/// Makes sure that there is a registry in this folder.
pub(super) fn check_present(folder: &Path) -> Result<(), CommandError> {
    if is_registry(folder) {
        return Ok(());
    }
    let message = format!("there is no registry in `{}`", folder.display());
    Err(CommandError::new(Exit::NotFound, message).hint(
        "`--data` names its folder, or `--config` the registry.toml that does; `--from` the folder of a backup",
    ))
}

/// True if a registry is in this folder, or may be: if it cannot be looked at, opening it says why.
pub(super) fn is_registry(folder: &Path) -> bool {
    let seen = folder.join(LOCK).symlink_metadata();
    !seen.is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
}

/// What a folder has in which a registry is, or was.
const LOCK: &str = ".lock";

/// An error where what root would write, the user that runs the server could not read.
fn check_owner(folder: &Path) -> Result<(), CommandError> {
    let Ok(lock) = folder.join(LOCK).symlink_metadata() else { return Ok(()) };
    let (owner, group, own) = (lock.uid(), lock.gid(), environment::user_id());
    if owner == own || own != 0 {
        return Ok(());
    }
    let message = format!("`{}` belongs to the user {owner}, and no server runs there", folder.display());
    let hint = format!(
        "start the server first, or be that user: `setpriv --reuid={owner} --regid={group} --clear-groups hull ...`"
    );
    Err(CommandError::new(Exit::Refused, message).hint(hint))
}

/// Makes a folder that is not there, for its owner alone: hashes of passwords lie in it.
fn make_private(folder: &Path) -> Result<(), CommandError> {
    if folder.exists() {
        return Ok(());
    }
    let above = folder.parent().map_or(Ok(()), std::fs::create_dir_all);
    match above.and_then(|()| std::fs::DirBuilder::new().mode(0o700).create(folder)) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            let error = anyhow::Error::from(error).context(format!("cannot make `{}`", folder.display()));
            Err(CommandError { exit: Exit::Failed, error, hint: None }
                .hint("choose a folder that you may write to"))
        }
        _ => Ok(()),
    }
}

fn no_link(folder: &Path, error: LinkError) -> CommandError {
    let hint = match error {
        LinkError::Absent { .. } => {
            "another command or an older server has it; try again when that has ended"
        }
        LinkError::NotAllowed { .. } => "run this as the user that runs the server, or as root",
        _ => "see what the server says in its log",
    };
    let error = anyhow::Error::from(error).context(format!("`{}` is in use", folder.display()));
    CommandError { exit: Exit::Unreachable, error, hint: Some(hint.to_owned()) }
}

impl From<OperatorError> for CommandError {
    fn from(error: OperatorError) -> Self {
        match &error {
            OperatorError::Refused(refusal) => {
                let (exit, hint) = match refusal.reason {
                    Reason::Exists => {
                        (Exit::Failed, Some("choose another name, or remove the account first"))
                    }
                    Reason::Unknown => (
                        Exit::NotFound,
                        Some("`hull registry user list` and `hull registry token list` name all"),
                    ),
                    Reason::Invalid => (Exit::Usage, Some("nothing was changed; see `--help`")),
                    _ => (Exit::Failed, None),
                };
                let error = Self::from_error(exit, error);
                match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            }
            _ => Self::from_error(Exit::Unreachable, error)
                .hint("if the server still runs, look at what is true now, and try again"),
        }
    }
}

/// How long requests are tried again that the service throttles or fails.
const PATIENCE: Duration = Duration::from_secs(30);

impl Place {
    /// Opens it.
    pub(super) async fn open(&self) -> Result<Arc<dyn Storage>, CommandError> {
        match self {
            Self::Folder(path) => {
                make_private(path)?;
                Ok(Arc::new(FolderStorage::open(path).or_exit(Exit::Failed)?))
            }
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
