//! Content-addressed storage.
//!
//! - [`LocalStore`]: this machine's appliances, `HULL_HOME/store`. Synchronous, a folder.
//! - [`Storage`]: the registry's border, a tree of write-once keys, in a folder ([`FolderStorage`]),
//!   in a bucket of S3 ([`S3Storage`]) or in memory ([`MemoryStorage`]).
//! - [`copy`]: all keys from one [`Storage`] to another, for backups and for moving.
//!
//! Bytes have a digest and no meaning here: nothing understands manifests, disks or policies.

mod copy;
mod folder;
mod key;
mod local;
mod memory;
mod random;
mod s3;
mod storage;
mod write_back;

pub use copy::{Copied, CopyError, CopyReport, copy};
pub use folder::{Faults, FolderStorage, OpenFolderError, Step};
pub use key::{Key, KeyError};
pub use local::{
    BlobFile, BlobWriter, Hold, LocalStore, LocalStoreError, PartialBlob, Root, SweepError, Tagged,
};
pub use memory::MemoryStorage;
pub use s3::{Addressing, OpenS3Error, PlainHttp, S3Config, S3Credentials, S3Storage};
pub use storage::{
    ContentStream, Entry, KeyStream, Object, Put, Session, SessionId, SessionInfo, Sharing, Storage,
    StorageError, read_whole,
};
