//! Credential helpers: `docker-credential-NAME`, which keep logins in the desktop's or the cloud's own
//! store.
//!
//! A helper is a program of the user's, named by the user's own file. Names that could be paths are
//! refused; secrets go through pipes, never through arguments.
//!
//! Source: docker-credential-helpers, "Development": `get`, `store`, `erase` on stdin and stdout.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::credentials::{Credential, CredentialError, Secret};
use crate::request::printable;

/// The most that a helper's answer may hold.
const MAX_ANSWER: u64 = 1 << 20;
/// The user that stands for "this is an identity token".
const TOKEN_USER: &str = "<token>";
/// What helpers say where they know no login.
const UNKNOWN: &str = "credentials not found";

/// Where helpers are found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HelperFolder {
    /// Wherever the system finds programs.
    #[default]
    SearchPath,
    /// In this folder only.
    Folder(PathBuf),
}

/// One helper.
#[derive(Debug)]
pub(crate) struct Helper {
    // Invariant: `docker-credential-` and a name without separators.
    program: String,
    path: PathBuf,
}

/// A login as helpers write and read it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Login {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

impl Helper {
    /// The helper that the user's file calls `name`.
    ///
    /// # Errors
    ///
    /// [`CredentialError::BadHelperName`].
    pub(crate) fn new(name: &str, folder: &HelperFolder) -> Result<Self, CredentialError> {
        let ok = !name.is_empty()
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
        if !ok {
            return Err(CredentialError::BadHelperName { name: printable(name) });
        }
        let program = format!("docker-credential-{name}");
        let path = match folder {
            HelperFolder::SearchPath => Path::new(&program).to_owned(),
            HelperFolder::Folder(folder) => folder.join(&program),
        };
        Ok(Self { program, path })
    }

    /// The login for `server`.
    pub(crate) fn get(&self, server: &str) -> Result<Option<Credential>, CredentialError> {
        let answer = match self.run("get", server) {
            Err(CredentialError::HelperFailed { message, .. }) if message.contains(UNKNOWN) => {
                return Ok(None);
            }
            answer => answer?,
        };
        // The answer holds a secret, so what is wrong with it is not shown.
        let login: Login = serde_json::from_slice(&answer).map_err(|_| CredentialError::HelperFailed {
            helper: self.program.clone(),
            action: "get",
            message: "its answer is not a JSON object with `Username` and `Secret`".to_owned(),
        })?;
        Ok(Some(match login.username.as_str() {
            TOKEN_USER => Credential::IdentityToken(Secret::new(login.secret)),
            _ => Credential::password(login.username, login.secret),
        }))
    }

    /// Keeps a login.
    pub(crate) fn store(&self, server: &str, credential: &Credential) -> Result<(), CredentialError> {
        let (username, secret) = match credential {
            Credential::Password { user, password } => (user.as_str(), password),
            Credential::IdentityToken(token) => (TOKEN_USER, token),
        };
        let login = Login {
            server_url: server.to_owned(),
            username: username.to_owned(),
            secret: secret.reveal().to_owned(),
        };
        let text = serde_json::to_string(&login).expect("three strings serialise");
        self.run("store", &text).map(drop)
    }

    /// Forgets a login.
    pub(crate) fn erase(&self, server: &str) -> Result<(), CredentialError> {
        self.run("erase", server).map(drop)
    }

    fn run(&self, action: &'static str, input: &str) -> Result<Vec<u8>, CredentialError> {
        let io = |source| CredentialError::HelperIo { helper: self.program.clone(), source };
        let mut child = Command::new(&self.path)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io)?;
        // A helper may answer without having read its input; what it answers is what counts.
        let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
        let mut answer = Vec::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        let read = stdout.take(MAX_ANSWER).read_to_end(&mut answer);
        let status = child.wait().map_err(io)?;
        read.map_err(io)?;
        if status.success() {
            return Ok(answer);
        }
        let message = match String::from_utf8_lossy(&answer).trim() {
            "" => status.to_string(),
            text => printable(text),
        };
        Err(CredentialError::HelperFailed { helper: self.program.clone(), action, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_name_cannot_be_a_path() {
        for name in ["../evil", "a/b", "", "a b", "a\0b"] {
            let error = Helper::new(name, &HelperFolder::SearchPath).unwrap_err();
            assert!(matches!(error, CredentialError::BadHelperName { .. }), "{error}");
        }
    }
}
