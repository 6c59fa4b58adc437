//! The registry: an OCI distribution server over a [`blob_store::Storage`].
//!
//! Blobs are bytes with a digest. Nothing here understands a disk, fetches a URL that it was given,
//! prints, or reads the environment. What is acknowledged survives a power cut.
//!
//! Follows the OCI distribution-spec 1.1: pull, push (monolithic, chunked, resumed), mounts, ranges,
//! tags. [`Server`] is the entry; a request then goes `http` -> `repository` or `uploads` -> storage,
//! whose keys are all in `layout`.

mod access;
mod backup;
mod batch;
mod cache;
mod clock;
mod connection;
mod control;
mod event;
mod exchange;
mod hashed;
mod http;
mod intake;
mod json;
mod layout;
mod lifecycle;
mod log;
mod manifest;
mod metrics;
mod name;
mod on_thread;
mod operations;
mod peers;
mod public_url;
mod quota;
mod random;
mod range;
mod repository;
mod route;
mod rules;
mod server;
mod tls;
mod upload;
mod uploads;
mod workers;

pub use access::audit::{Audit, AuditedAction, Outcome};
pub use access::htpasswd::HtpasswdError;
pub use access::password::PasswordError;
pub use access::principal::{AccountName, AccountNameError};
pub use access::right::{Action, Actions, Grant, GrantError, Prefix};
pub use access::secret::Secret;
pub use access::{Access, AccessError, Expiry, Imported, RecordsError, RobotInfo, UserInfo};
pub use backup::{BackupError, Completeness, backup, restore};
pub use clock::{Clock, SystemClock, Time};
pub use control::{LinkError, Operator, OperatorError, Reason, Refusal};
pub use event::{Event, Observer};
pub use exchange::Exchange;
pub use lifecycle::{CareError, Caretaker, Collected, Damaged, Mode, Retired, Scrubbed};
pub use public_url::{PublicUrl, PublicUrlError};
pub use rules::{Expired, Immutable, Pattern, Rule, Rules};
pub use server::{Exposure, Garbage, Limits, ServeError, Server, ServerConfig};
pub use tls::{Tls, TlsError};
