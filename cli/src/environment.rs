//! Every environment variable that hull reads itself. The HTTP library follows the system's proxy
//! variables besides, and programs are found by `PATH`.

use std::ffi::OsString;
use std::path::PathBuf;

use blob_store::S3Credentials;

/// Where the local store and the VMs are.
pub(crate) const HOME: &str = "HULL_HOME";
/// Token services of other sites that may see logins, as `HOST[:PORT]`, with commas between them.
const TOKEN_SERVICES: &str = "HULL_TOKEN_SERVICES";
/// docker's folder for its configuration; logins are read from and written to `config.json` in it.
const DOCKER_CONFIG: &str = "DOCKER_CONFIG";
/// podman's file for logins, in place of all that it looks for; read after docker's.
const REGISTRY_AUTH_FILE: &str = "REGISTRY_AUTH_FILE";

/// `HULL_HOME`, whatever it is; or `$XDG_DATA_HOME/hull`, or `~/.local/share/hull`.
///
/// Source: XDG Base Directory Specification 0.8.
pub(crate) fn home() -> Option<PathBuf> {
    let set = std::env::var_os(HOME).filter(|home| !home.is_empty());
    set.map(PathBuf::from)
        .or_else(|| Some(absolute("XDG_DATA_HOME")?.join("hull")))
        .or_else(|| Some(absolute("HOME")?.join(".local/share/hull")))
}

/// Where sockets go: short, on this machine only, gone after a reboot.
pub(crate) fn runtime() -> PathBuf {
    let uid = user_id();
    match absolute("XDG_RUNTIME_DIR") {
        Some(folder) if uid != 0 => folder.join("hull"),
        _ if uid == 0 => "/run/hull".into(),
        _ => format!("/tmp/hull-{uid}").into(),
    }
}

/// Where a service manager wants to be told that a service is ready: a path, or an abstract name behind an
/// `@`. Source: systemd's `sd_notify(3)`.
pub(crate) fn notify_socket() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())
}

/// The access key for a bucket of S3, by the variables that Amazon's own programs read.
pub(crate) fn aws_credentials() -> Option<S3Credentials> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    Some(S3Credentials {
        access_key: variable("AWS_ACCESS_KEY_ID")?,
        secret_key: variable("AWS_SECRET_ACCESS_KEY")?,
        session_token: variable("AWS_SESSION_TOKEN"),
    })
}

/// `HULL_TOKEN_SERVICES`: hosts that may see the login of a registry that names them.
pub(crate) fn token_services() -> Vec<String> {
    let listed = std::env::var(TOKEN_SERVICES).unwrap_or_default();
    listed.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect()
}

/// docker's `config.json`.
pub(crate) fn docker_config() -> Option<PathBuf> {
    let folder = absolute(DOCKER_CONFIG).or_else(|| Some(absolute("HOME")?.join(".docker")))?;
    Some(folder.join("config.json"))
}

/// podman's files for logins, as podman looks for them: the one that is named, or what `podman login` writes
/// until the next boot, then what a person keeps.
///
/// Source: containers-auth.json(5).
pub(crate) fn podman_auth() -> Vec<PathBuf> {
    if let Some(named) = absolute(REGISTRY_AUTH_FILE) {
        return vec![named];
    }
    // Nobody but root may look into the second folder.
    let until_boot = match absolute("XDG_RUNTIME_DIR") {
        Some(folder) => Some(folder.join("containers/auth.json")),
        None => (user_id() == 0).then(|| "/run/containers/0/auth.json".into()),
    };
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    until_boot.into_iter().chain(config.map(|folder| folder.join("containers/auth.json"))).collect()
}

/// Where programs are looked for.
pub(crate) fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// A variable that holds an absolute path; one that is empty or relative is as good as unset.
fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Whose rights this process has.
pub(crate) fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}
