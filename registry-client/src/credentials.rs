//! Logins: what they are, and where they are looked up.
//!
//! A secret shows itself to nobody by accident: its `Debug` is a mask and it has no `Display`.

use std::fmt;

pub use crate::credential_file::{CredentialFile, CredentialFiles};
pub use crate::credential_helper::HelperFolder;

/// A password or token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What somebody shows to a registry, or to its token service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user and a password.
    Password {
        /// Who.
        user: String,
        /// Their password, or a token that is used like one.
        password: Secret,
    },
    /// An OAuth 2.0 refresh token, for the registry's token service.
    IdentityToken(Secret),
}

/// Knows logins. Asked from a thread that may block, once per operation and again when a login expires.
pub trait CredentialSource: Send + Sync + fmt::Debug {
    /// The login for `registry` (`HOST[:PORT]`), or for `repository` in it where there is a special one.
    ///
    /// # Errors
    ///
    /// [`CredentialError`]. That there is no login is none.
    fn find(&self, registry: &str, repository: Option<&str>) -> Result<Option<Credential>, CredentialError>;
}

/// Knows no login.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCredentials;

/// Why a login can be neither read nor kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The file system failed.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what, control characters escaped.
        path: String,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// The file is not as docker and podman write it.
    #[error("`{path}`: {problem}; expected docker's config.json")]
    Malformed {
        /// The file, control characters escaped.
        path: String,
        /// What is wrong, never with what it holds.
        problem: String,
    },
    /// The file names a helper that could be a path to anything.
    #[error("`{name}` cannot be the name of a credential helper; expected letters, digits, `-`, `_` and `.`")]
    BadHelperName {
        /// What was found, control characters escaped.
        name: String,
    },
    /// A helper cannot be started, or not be spoken to.
    #[error("cannot run `{helper}`")]
    HelperIo {
        /// The helper's program.
        helper: String,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// A helper says no.
    #[error("`{helper} {action}` failed: {message}")]
    HelperFailed {
        /// The helper's program.
        helper: String,
        /// What it was asked to do.
        action: &'static str,
        /// What it says, escaped and cut short.
        message: String,
    },
    /// A user name that the registry could not tell from its password.
    #[error("a user name must not be empty and must not hold `:` or control characters")]
    BadUser,
}

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The hidden text, for the one who sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Credential {
    /// A user and a password.
    pub fn password(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password { user: user.into(), password: Secret::new(password) }
    }

    /// Whose login it is, for messages.
    pub fn user(&self) -> &str {
        match self {
            Self::Password { user, .. } => user,
            Self::IdentityToken(_) => "an identity token",
        }
    }
}

/// A login that was just typed in is the login for whatever is asked.
impl CredentialSource for Credential {
    fn find(&self, _: &str, _: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        Ok(Some(self.clone()))
    }
}

impl CredentialSource for NoCredentials {
    fn find(&self, _: &str, _: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let printed = format!("{:?}", Credential::password("me", "hunter2"));
        assert_eq!(printed, r#"Password { user: "me", password: Secret(***) }"#);
    }
}
