//! How a command fails: with a chain of reasons, an exit code, and what to do about it.

use std::{fmt, io};

use appliance::manifest::ManifestError;

/// How a command ends, as a number that scripts can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It could not be done.
    Failed,
    /// The command line, or a file that the user wrote, is wrong.
    Usage,
    /// Policy or trust forbids it.
    Refused,
    /// What was named is not there.
    NotFound,
    /// The other side cannot be reached.
    Unreachable,
    /// The VM could not be started.
    NotStarted,
}

impl Exit {
    /// The process's exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::NotFound => 4,
            Self::Unreachable => 5,
            Self::NotStarted => 125,
        }
    }
}

/// What to do about a full disk.
const FULL: &str = "the disk is full: `hull rmi` and `hull rm` free space, or set HULL_HOME elsewhere";
/// What to do about damage in the local store.
const DAMAGED: &str =
    "the local copy is incomplete or damaged: `hull rmi` it, then `hull pull` or `hull pack` it anew";

/// What to do about an appliance that is there for other platforms only.
pub(crate) const OTHER_PLATFORM: &str =
    "only a host of that platform runs it; `hull pull --platform` fetches it all the same";

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What went wrong, with its reasons.
    pub(crate) error: anyhow::Error,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl CommandError {
    /// A failure that begins here.
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, error: anyhow::anyhow!("{message}"), hint: None }
    }

    /// A failure of a library. A full disk is the same trouble wherever it is met.
    pub(crate) fn from_error(exit: Exit, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        let error = anyhow::Error::from(error);
        let is_full = |reason: &(dyn std::error::Error + 'static)| {
            let kind = reason.downcast_ref().map(io::Error::kind);
            matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
        };
        let hint = error.chain().any(is_full).then(|| FULL.to_owned());
        Self { exit, error, hint }
    }

    /// A failure to write where the user said. A full disk there is not the local store's, so `hint` holds for it too.
    pub(crate) fn at_output(error: impl std::error::Error + Send + Sync + 'static, hint: &str) -> Self {
        Self { hint: Some(hint.to_owned()), ..Self::from_error(Exit::Failed, error) }
    }

    /// The same with something to do about it, unless there is already.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert(hint.into());
        self
    }
}

/// Adds an exit code and a hint to a library's error.
pub(crate) trait OrExit<T> {
    /// Ends with `exit`.
    fn or_exit(self, exit: Exit) -> Result<T, CommandError>;
}

impl<T, E: std::error::Error + Send + Sync + 'static> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::from_error(exit, error))
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::from_error(Exit::Failed, error)
    }
}

impl From<blob_store::LocalStoreError> for CommandError {
    fn from(error: blob_store::LocalStoreError) -> Self {
        use blob_store::LocalStoreError as E;
        match &error {
            E::UnknownReference { .. } => Self::from_error(Exit::NotFound, error)
                .hint("`hull images` lists what is here; `hull pull` and `hull pack` add to it"),
            E::Missing { .. } | E::WrongDigest { .. } | E::TooLarge { .. } => {
                Self::from_error(Exit::Failed, error).hint(DAMAGED)
            }
            _ => Self::from_error(Exit::Failed, error)
                .hint("hull keeps everything under HULL_HOME, which must be a folder of this user's"),
        }
    }
}

impl From<packer::ContentsError> for CommandError {
    fn from(error: packer::ContentsError) -> Self {
        match error {
            packer::ContentsError::Store(error) => error.into(),
            packer::ContentsError::Manifest { source: source @ ManifestError::NoPlatform { .. }, .. } => {
                Self::from_error(Exit::NotFound, source).hint(OTHER_PLATFORM)
            }
            error => Self::from_error(Exit::Failed, error).hint(
                "`hull inspect` shows what an appliance is for; one that a newer hull packed may need a newer hull",
            ),
        }
    }
}

impl From<registry_client::OpenDiskError> for CommandError {
    fn from(error: registry_client::OpenDiskError) -> Self {
        match error {
            registry_client::OpenDiskError::NoSuchDisk { .. } => {
                Self::from_error(Exit::NotFound, error).hint("`hull inspect` lists the disks")
            }
            error => Self::from_error(Exit::Failed, error).hint(DAMAGED),
        }
    }
}

impl From<vm_runner::VmError> for CommandError {
    fn from(error: vm_runner::VmError) -> Self {
        use vm_runner::VmError as E;
        match error {
            E::Unknown { .. } => {
                Self::from_error(Exit::NotFound, error).hint("`hull ps --all` lists the VMs")
            }
            E::NameTaken { ref name } => {
                let hint = format!("choose another with `--name`, or remove it with `hull rm {name}`");
                Self::from_error(Exit::Failed, error).hint(hint)
            }
            E::Alive { ref name, .. } => {
                let hint = format!("stop it first: `hull stop {name}`");
                Self::from_error(Exit::Failed, error).hint(hint)
            }
            E::BadName { .. } => Self::from_error(Exit::Usage, error).hint("choose another with `--name`"),
            E::Store(error) => error.into(),
            E::NotOurs { .. } => {
                Self::from_error(Exit::Failed, error).hint("XDG_RUNTIME_DIR names a folder for sockets")
            }
            E::Io { .. } => Self::from_error(Exit::Failed, error)
                .hint("hull keeps everything under HULL_HOME, which must be a folder of this user's"),
            error => Self::from_error(Exit::Failed, error),
        }
    }
}
