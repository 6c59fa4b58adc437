//! `login`: are these credentials any good?
//!
//! Source: OCI distribution-spec 1.1, "Determining Support" (end-1); docker's "Token Authentication
//! Specification".

use std::sync::Arc;

use reqwest::{Method, StatusCode};

use crate::credentials::{Credential, CredentialError, CredentialFile};
use crate::on_thread::on_thread;
use crate::progress::Silent;
use crate::session::{Call, Session};
use crate::{Client, RequestError};

/// Why a login did not come about. What the file held before, it still holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The registry failed, or does not accept the credentials.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The credentials are good but cannot be kept.
    #[error("the login is right but cannot be kept")]
    Keep(#[source] CredentialError),
}

impl Client {
    /// Asks `registry` (`HOST[:PORT]`) whether it accepts `credential`, and if so keeps it in `file`.
    ///
    /// A registry that asks nobody for a login accepts every one.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub async fn login(
        &self,
        registry: &str,
        credential: &Credential,
        file: &CredentialFile,
    ) -> Result<(), LoginError> {
        self.check_login(registry, credential).await?;
        let (file, registry, credential) = (file.clone(), registry.to_owned(), credential.clone());
        on_thread(move || file.store(&registry, &credential)).await.map_err(LoginError::Keep)
    }

    /// Asks `registry` whether it accepts `credential`.
    ///
    /// # Errors
    ///
    /// [`RequestError::LoginRefused`] where it does not; others where it cannot be asked.
    pub async fn check_login(&self, registry: &str, credential: &Credential) -> Result<(), RequestError> {
        let session = Session::with_registry(self, registry, Arc::new(credential.clone()))?;
        let what = format!("registry {}", registry.escape_debug());
        let call = Call::new(Method::GET, session.root_url(), &what, &[StatusCode::OK]);
        session.send(&call, &Silent).await.map(drop)
    }
}
