//! Speaks to OCI registries: pulls appliances into the local store, pushes them out of it, logs in.
//!
//! - [`Client::pull`], [`Client::push`]: whole appliances; only what the other side lacks moves.
//! - [`Client::login`], [`credentials`]: logins, kept where docker and podman keep theirs.
//! - [`Client::resolve`], [`Client::tags`], [`Client::history`]: what a registry has, and had.
//! - [`Client::fetch_image`]: a container image's layers, for who looks into them.
//! - [`open_disk`]: a pulled disk, readable without unpacking.
//!
//! Nothing that a registry sends is trusted before its digest is checked, no credentials leave the
//! origin that they are for, and nothing here prints, asks a person or reads the environment (the
//! HTTP library honours the system's proxy settings for hosts other than this machine).

mod challenge;
mod client;
mod credential_file;
mod credential_helper;
pub mod credentials;
mod disk;
mod document;
mod fetch;
mod history;
mod image;
mod login;
mod mount;
mod on_thread;
mod progress;
mod pull;
mod push;
mod rebuild;
mod recipe;
mod request;
mod resolve;
mod retry;
mod session;
mod token_service;
mod upload;

pub use client::{Client, ClientError, ClientOptions};
pub use disk::{OpenDiskError, open_disk};
pub use document::DocumentError;
pub use history::{HistoryError, TagEntry};
pub use image::{FetchImageError, FetchedImage};
pub use login::LoginError;
pub use progress::{Event, Plan, Progress, Silent};
pub use pull::{PullError, Pulled};
pub use push::{PushError, Pushed};
pub use request::RequestError;
pub use resolve::Resolved;
pub use retry::RetryPolicy;
