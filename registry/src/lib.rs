//! The registry: an OCI distribution server over a [`blob_store::Storage`].
//!
//! Blobs are bytes with a digest. Nothing here understands a disk, fetches a URL that it was given,
//! prints, or reads the environment. What is acknowledged survives a power cut.
//!
//! Follows the OCI distribution-spec 1.1: pull, push (monolithic, chunked, resumed), mounts, ranges,
//! tags. [`Server`] is the entry; a request then goes `http` -> `repository` or `uploads` -> storage,
//! whose keys are all in `layout`.

mod cache;
mod clock;
mod connection;
mod event;
mod exchange;
mod http;
mod json;
mod layout;
mod log;
mod manifest;
mod metrics;
mod name;
mod operations;
mod peers;
mod random;
mod range;
mod repository;
mod route;
mod rules;
mod server;
mod tls;
mod upload;
mod uploads;

pub use event::{Event, Observer};
pub use exchange::Exchange;
pub use rules::{Expired, Immutable, Pattern, Rule, Rules};
pub use server::{Exposure, Garbage, Limits, ServeError, Server, ServerConfig};
pub use tls::{Tls, TlsError};
