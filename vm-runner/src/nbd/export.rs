//! What an NBD server offers: named, readable disks.

use std::fmt;
use std::sync::Arc;

use formats::{Disk, ReadError};

/// A read that the client asked for and did not get. The client has seen an I/O error.
#[derive(Debug)]
pub struct ReadFailure<'a> {
    /// The export's name.
    pub export: &'a str,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub len: u64,
    /// Why not.
    pub error: &'a ReadError,
}

/// Told about each failed read, on the thread that served it.
type OnReadFailure = Box<dyn Fn(&ReadFailure<'_>) + Send + Sync>;

/// One disk under the name by which clients ask for it.
pub struct Export {
    name: String,
    disk: Arc<dyn Disk>,
    on_read_failure: OnReadFailure,
}

impl Export {
    /// Offers `disk` as `name`. `on_read_failure` is called once per failed request; it should be quick.
    pub fn new(
        name: impl Into<String>,
        disk: Arc<dyn Disk>,
        on_read_failure: impl Fn(&ReadFailure<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), disk, on_read_failure: Box::new(on_read_failure) }
    }

    /// The name by which clients ask for it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The disk itself.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    pub(super) fn report(&self, offset: u64, len: u64, error: &ReadError) {
        (self.on_read_failure)(&ReadFailure { export: &self.name, offset, len, error });
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").field("name", &self.name).field("disk", &self.disk).finish_non_exhaustive()
    }
}

/// The exports of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Exports(Arc<[Arc<Export>]>);

impl Exports {
    /// All of `exports`. Of two with the same name, the first is served.
    pub fn new(exports: impl IntoIterator<Item = Export>) -> Self {
        Self(exports.into_iter().map(Arc::new).collect())
    }

    /// The export called `name`; the empty name means the only one there is.
    pub(super) fn find(&self, name: &str) -> Option<&Arc<Export>> {
        match (&*self.0, name) {
            ([only], "") => Some(only),
            (all, _) => all.iter().find(|export| export.name == name),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Export>> {
        self.0.iter()
    }
}

impl From<Export> for Exports {
    fn from(export: Export) -> Self {
        Self::new([export])
    }
}
