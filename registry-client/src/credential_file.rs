//! docker's `config.json` and podman's `auth.json`: read, and changed without touching what is not ours.
//!
//! ```json
//! {
//!   "auths": { "registry.example": { "auth": "<base64 of user:password>" } },
//!   "credHelpers": { "registry.example": "pass" },
//!   "credsStore": "secretservice"
//! }
//! ```
//!
//! A helper that the file names for a registry is asked first. podman keys may go on with a
//! repository's path, and the longest one counts. A change replaces the file at once, readable by its
//! owner only, every other key as it was.
//!
//! Source: docker's `docker login`, "Credential stores"; containers-auth.json(5).

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::credential_helper::{Helper, HelperFolder};
use crate::credentials::{Credential, CredentialError, CredentialSource, Secret};

/// The most that is read of such a file.
const MAX_BYTES: u64 = 4 << 20;
/// Docker Hub's name in references, and the key that docker keeps its login under.
const DOCKER_HUB: (&str, &str) = ("docker.io", "https://index.docker.io/v1/");

/// One such file, which need not exist yet.
#[derive(Debug, Clone)]
pub struct CredentialFile {
    path: PathBuf,
    helpers: HelperFolder,
}

/// Several files; the first that knows a login counts.
#[derive(Debug, Clone, Default)]
pub struct CredentialFiles {
    files: Vec<CredentialFile>,
}

impl CredentialFile {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), helpers: HelperFolder::SearchPath }
    }

    /// The same file, its helpers found elsewhere.
    #[must_use]
    pub fn with_helpers(self, helpers: HelperFolder) -> Self {
        Self { helpers, ..self }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the login for `registry`: with the helper that the file names for it, or in the file.
    ///
    /// # Errors
    ///
    /// [`CredentialError`]; the file is then as it was.
    pub fn store(&self, registry: &str, credential: &Credential) -> Result<(), CredentialError> {
        check_user(credential)?;
        let mut document = self.read()?;
        let key = key_of(registry);
        let entry = match self.helper_for(&document, registry)? {
            Some(helper) => {
                helper.store(&key, credential)?;
                json!({})
            }
            None => entry(credential),
        };
        let auths = document.entry("auths").or_insert_with(|| json!({}));
        let auths = auths.as_object_mut().ok_or_else(|| self.malformed("`auths` is not an object"))?;
        auths.insert(key, entry);
        self.write(&document)
    }

    /// Forgets the login for `registry`; true if there was one in the file.
    ///
    /// # Errors
    ///
    /// [`CredentialError`]; the file is then as it was.
    pub fn forget(&self, registry: &str) -> Result<bool, CredentialError> {
        let mut document = self.read()?;
        if let Some(helper) = self.helper_for(&document, registry)? {
            helper.erase(&key_of(registry))?;
        }
        let Some(auths) = document.get_mut("auths").and_then(Value::as_object_mut) else { return Ok(false) };
        let before = auths.len();
        auths.retain(|key, _| normal(key) != normal(&key_of(registry)));
        if auths.len() == before {
            return Ok(false);
        }
        self.write(&document)?;
        Ok(true)
    }

    fn helper_for(
        &self,
        document: &Map<String, Value>,
        registry: &str,
    ) -> Result<Option<Helper>, CredentialError> {
        let own = document.get("credHelpers").and_then(|all| all.get(registry));
        let name = own.or_else(|| document.get("credsStore")).and_then(Value::as_str);
        name.filter(|name| !name.is_empty()).map(|name| Helper::new(name, &self.helpers)).transpose()
    }

    /// The file's keys; none if it does not exist.
    fn read(&self) -> Result<Map<String, Value>, CredentialError> {
        let mut text = Vec::new();
        match std::fs::File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
            opened => opened.and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text)),
        }
        .map_err(|source| self.io("read", source))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(self.malformed("it has more than 4 MiB"));
        }
        if text.trim_ascii().is_empty() {
            return Ok(Map::new());
        }
        // To a `Value`, whose errors give a position but never what stands there: it may be a password.
        match serde_json::from_slice(&text) {
            Ok(Value::Object(document)) => Ok(document),
            Ok(_) => Err(self.malformed("it is not a JSON object")),
            Err(error) => Err(self.malformed(&error.to_string())),
        }
    }

    /// Replaces the file at once. A link stays a link to the file that is replaced.
    fn write(&self, document: &Map<String, Value>) -> Result<(), CredentialError> {
        let target = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let folder =
            target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let text = serde_json::to_string_pretty(document).expect("a JSON value serialises");
        std::fs::create_dir_all(folder).map_err(|source| self.io("make the folder of", source))?;
        let replace = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?; // Mode 0600.
            writeln!(file, "{text}")?;
            file.as_file().sync_all()?;
            file.persist(&target)?;
            std::fs::File::open(folder)?.sync_all()
        };
        replace().map_err(|source| self.io("write", source))
    }

    fn io(&self, action: &'static str, source: io::Error) -> CredentialError {
        CredentialError::Io {
            action,
            path: self.path.display().to_string().escape_debug().to_string(),
            source,
        }
    }

    fn malformed(&self, problem: &str) -> CredentialError {
        let path = self.path.display().to_string().escape_debug().to_string();
        CredentialError::Malformed { path, problem: problem.to_owned() }
    }
}

impl CredentialSource for CredentialFile {
    fn find(&self, registry: &str, repository: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        let document = self.read()?;
        if let Some(helper) = self.helper_for(&document, registry)?
            && let Some(credential) = helper.get(&key_of(registry))?
        {
            return Ok(Some(credential));
        }
        let Some(auths) = document.get("auths").and_then(Value::as_object) else { return Ok(None) };
        let whole = match repository {
            Some(repository) => format!("{}/{repository}", normal(&key_of(registry))),
            None => normal(&key_of(registry)).to_owned(),
        };
        let mut keys: Vec<&String> = auths.keys().filter(|key| covers(normal(key), &whole)).collect();
        keys.sort_by_key(|key| std::cmp::Reverse(normal(key).len()));
        Ok(keys.into_iter().find_map(|key| credential(&auths[key])))
    }
}

impl CredentialFiles {
    /// These files, most important first.
    pub fn new(files: Vec<CredentialFile>) -> Self {
        Self { files }
    }
}

impl CredentialSource for CredentialFiles {
    fn find(&self, registry: &str, repository: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        for file in &self.files {
            if let Some(credential) = file.find(registry, repository)? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

/// The key that docker uses for a registry.
fn key_of(registry: &str) -> String {
    if registry == DOCKER_HUB.0 { DOCKER_HUB.1.to_owned() } else { registry.to_owned() }
}

/// A key without what docker has put around hosts in the course of time.
fn normal(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

/// True where the login under `key` is one for `whole`, which is `HOST[:PORT][/REPOSITORY]`.
fn covers(key: &str, whole: &str) -> bool {
    !key.is_empty() && whole.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn check_user(credential: &Credential) -> Result<(), CredentialError> {
    match credential {
        Credential::Password { user, .. } if user.is_empty() || user.contains([':', '\0', '\n', '\r']) => {
            Err(CredentialError::BadUser)
        }
        _ => Ok(()),
    }
}

fn entry(credential: &Credential) -> Value {
    match credential {
        Credential::Password { user, password } => {
            json!({ "auth": STANDARD.encode(format!("{user}:{}", password.reveal())) })
        }
        Credential::IdentityToken(token) => json!({ "identitytoken": token.reveal() }),
    }
}

fn credential(entry: &Value) -> Option<Credential> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Some(Credential::IdentityToken(Secret::new(token)));
    }
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Some(Credential::password(user, password));
    }
    let decoded = String::from_utf8(STANDARD.decode(text("auth")?).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    // docker pads what it encodes with zero bytes.
    Some(Credential::password(user, password.trim_end_matches('\0')))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// base64 of `me:pw`.
    const ME: &str = "bWU6cHc=";

    fn file(text: &str) -> (tempfile::TempDir, CredentialFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let file = CredentialFile::new(path).with_helpers(HelperFolder::Folder(folder.path().to_owned()));
        (folder, file)
    }

    /// With `auths` as given, the login for this registry and repository is of this user.
    #[track_caller]
    fn check(auths: Value, registry: &str, repository: Option<&str>, want: Option<&str>) {
        let (_folder, file) = file(&json!({ "auths": auths }).to_string());
        let found = file.find(registry, repository).unwrap();
        assert_eq!(found.as_ref().map(Credential::user), want);
    }

    #[test]
    fn logins_are_found_under_dockers_and_podmans_keys() {
        let me = || json!({ "auth": ME });
        check(json!({ "r.example": me() }), "r.example", Some("a/b"), Some("me"));
        check(json!({ "https://r.example/v1/": me() }), "r.example", None, Some("me"));
        check(json!({ "r.example": me() }), "r.example:5000", None, None);
        check(json!({ "r.example": me() }), "r.example.evil", None, None);
        check(json!({ "r.example/a": me() }), "r.example", Some("a/b"), Some("me"));
        check(json!({ "r.example/a": me() }), "r.example", Some("ab"), None);
        check(json!({ "r.example/a": me() }), "r.example", None, None);
        check(json!({ "https://index.docker.io/v1/": me() }), "docker.io", Some("a/b"), Some("me"));
        let other = json!({ "username": "other", "password": "x" });
        check(json!({ "r.example": me(), "r.example/a": other }), "r.example", Some("a/b"), Some("other"));
        check(json!({ "r.example": { "identitytoken": "t" } }), "r.example", None, Some("an identity token"));
        check(json!({ "r.example": {} }), "r.example", None, None);
        check(json!({ "r.example": { "auth": "!" } }), "r.example", None, None);
    }

    #[test]
    fn a_login_is_stored_and_forgotten_and_nothing_else_is_touched() {
        let (folder, file) = file(r#"{"proxies":{"x":[1]},"auths":{"other":{"auth":"eDp5"}}}"#);
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        file.store("r.example", &Credential::password("me", "p:w")).unwrap();
        assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(file.find("r.example", None).unwrap(), Some(Credential::password("me", "p:w")));
        assert!(file.forget("r.example").unwrap());
        assert!(!file.forget("r.example").unwrap());
        let left: Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
        assert_eq!(left, json!({ "proxies": { "x": [1] }, "auths": { "other": { "auth": "eDp5" } } }));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_file_that_is_not_there_is_made_with_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = CredentialFile::new(folder.path().join("new/config.json"));
        assert_eq!(file.find("r.example", None).unwrap(), None);
        file.store("r.example", &Credential::IdentityToken(Secret::new("t"))).unwrap();
        let found = CredentialFiles::new(vec![CredentialFile::new("/nonexistent/x"), file]);
        assert_eq!(found.find("r.example", None).unwrap(), Some(Credential::IdentityToken(Secret::new("t"))));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_without_what_it_holds() {
        for text in ["[\"hunter2\"]", "{\"auths\": hunter2}", "{\"auths\": {\"r\": {\"auth\": \"hunter2"] {
            let (_folder, file) = file(text);
            let error = file.find("r.example", None).unwrap_err();
            assert!(matches!(error, CredentialError::Malformed { .. }), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
        }
        let (_folder, file) = file("{}");
        let refused = file.store("r.example", &Credential::password("a:b", "x"));
        assert!(matches!(refused, Err(CredentialError::BadUser)));
    }

    /// A helper that keeps one login in a file beside itself.
    const HELPER: &str = r#"#!/bin/sh
kept="$(dirname "$0")/kept"
case "$1" in
  store) cat > "$kept" ;;
  get) cat > /dev/null; [ -e "$kept" ] && cat "$kept" || { echo "credentials not found in native keychain"; exit 1; } ;;
  erase) cat > /dev/null; rm "$kept" ;;
esac
"#;

    #[test]
    fn a_helper_keeps_the_login_and_the_file_only_names_it() {
        let (folder, file) = file(r#"{"credsStore":"test","credHelpers":{"broken.example":"missing"}}"#);
        let helper = folder.path().join("docker-credential-test");
        std::fs::write(&helper, HELPER).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();

        assert_eq!(file.find("r.example", None).unwrap(), None);
        file.store("r.example", &Credential::password("me", "hunter2")).unwrap();
        assert_eq!(file.find("r.example", None).unwrap(), Some(Credential::password("me", "hunter2")));
        assert!(!std::fs::read_to_string(file.path()).unwrap().contains("hunter2"));
        assert!(file.forget("r.example").unwrap());
        assert_eq!(file.find("r.example", None).unwrap(), None);

        let missing = file.find("broken.example", None).unwrap_err();
        assert_eq!(missing.to_string(), "cannot run `docker-credential-missing`");
    }
}
