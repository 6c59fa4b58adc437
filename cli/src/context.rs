//! What every command works with: where things are, and the local store.

use std::path::PathBuf;

use blob_store::LocalStore;
use vm_runner::Vms;

use crate::environment;
use crate::error::{CommandError, Exit};

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Context {
    /// `HULL_HOME`.
    pub(crate) home: PathBuf,
    /// Where sockets go.
    pub(crate) runtime: PathBuf,
}

impl Context {
    /// Finds out where things are; nothing is opened or made yet.
    pub(crate) fn new() -> Result<Self, CommandError> {
        let home = environment::home().ok_or_else(|| {
            CommandError::new(Exit::Usage, "there is no home folder to keep appliances in")
                .hint(format!("set {} to an absolute path", environment::HOME))
        })?;
        if !home.is_absolute() {
            let message = format!("{} is `{}`; expected an absolute path", environment::HOME, home.display());
            return Err(CommandError::new(Exit::Usage, message).hint("begin it with a `/`"));
        }
        Ok(Self { home, runtime: environment::runtime() })
    }

    /// The local store.
    pub(crate) fn store(&self) -> Result<LocalStore, CommandError> {
        Ok(LocalStore::open(self.home.join("store"))?)
    }

    /// The VMs.
    pub(crate) fn vms(&self) -> Result<Vms, CommandError> {
        Ok(Vms::new(self.home.join("vms"), self.runtime.clone(), self.store()?))
    }
}
