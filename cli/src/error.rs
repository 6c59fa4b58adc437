//! How a command fails: with a chain of reasons, an exit code, and what to do about it.

use std::fmt;

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

    /// A failure of a library.
    pub(crate) fn from_error(exit: Exit, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { exit, error: error.into(), hint: None }
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

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        Self::from_error(Exit::Failed, error)
    }
}

impl From<blob_store::LocalStoreError> for CommandError {
    fn from(error: blob_store::LocalStoreError) -> Self {
        use blob_store::LocalStoreError as E;
        match &error {
            E::UnknownReference { .. } => Self::from_error(Exit::NotFound, error)
                .hint("`hull images` lists what is here; `hull pull` and `hull pack` add to it"),
            E::Missing { .. } | E::WrongDigest { .. } => Self::from_error(Exit::Failed, error)
                .hint("the local copy is incomplete or damaged; `hull rmi` and `hull pull` it anew"),
            E::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Self::from_error(Exit::Failed, error)
                    .hint("the disk is full: `hull rmi` and `hull rm` free space, or set HULL_HOME elsewhere")
            }
            _ => Self::from_error(Exit::Failed, error),
        }
    }
}

impl From<packer::ContentsError> for CommandError {
    fn from(error: packer::ContentsError) -> Self {
        match error {
            packer::ContentsError::Store(error) => error.into(),
            error => Self::from_error(Exit::Failed, error),
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
            E::BadName { .. } => Self::from_error(Exit::Usage, error),
            E::Store(error) => error.into(),
            error => Self::from_error(Exit::Failed, error),
        }
    }
}
