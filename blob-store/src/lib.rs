//! Content-addressed storage.
//!
//! - [`LocalStore`]: this machine's appliances, `HULL_HOME/store`. Synchronous, a folder.
//! - `Storage`: the registry's border, a tree of write-once keys, with a folder and an in-memory backend.
//!
//! Bytes have a digest and no meaning here: nothing understands manifests, disks or policies.

mod local;

pub use local::{BlobFile, BlobWriter, Hold, LocalStore, LocalStoreError, PartialBlob, Tagged};
