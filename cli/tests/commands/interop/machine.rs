//! A machine of its own for container programs, as far as they can tell: their configuration, storage,
//! locks and credentials are where a person's would be, and nobody else's.
//!
//! Each command runs in a mount namespace in which the folders that they read and write are a test's. So
//! nothing of the host's configuration is used, nothing is left on it, and tests do not meet each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Done, Host, installed, is_root};

/// What tests write, and where these programs keep what is theirs.
const OWN_FOLDERS: [&str; 7] =
    ["/etc/containers", "/etc/cni", TRUSTED, "/var/lib/containers", "/var/cache", "/run", "/dev/shm"];
const HOSTS: &str = "/etc/hosts";
/// The certificates that a machine trusts. There are none.
const TRUSTED: &str = "/etc/ssl/certs";

/// A name for this machine that does not say so, as a registry's name does not.
pub(crate) const NAME: &str = "registry.example";

/// Puts what is in `$0` over what is named up to `--`, where there is such; then the command.
const ENTER: &str = r#"
while [ "$1" != -- ]; do
    [ ! -e "$1" ] || mount --bind "$0$1" "$1" || exit 125
    shift
done
shift && exec "$@"
"#;

/// No program writes a storage of its own choice: overlay file systems cannot be had everywhere.
const STORAGE: &str = "[storage]\ndriver = \"vfs\"\ngraphroot = \"/var/lib/containers/storage\"\n\
                       runroot = \"/run/containers/storage\"\n";
const POLICY: &str = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;

/// Files by their paths, which begin with `/`.
pub(crate) type Tree = BTreeMap<String, Vec<u8>>;

/// A machine that has some container programs.
#[derive(Debug)]
pub(crate) struct Machine {
    host: Host,
    programs: &'static [&'static str],
}

impl Machine {
    /// A machine on which nothing was done yet; `None`, and says that the test skips, where `programs`
    /// are not installed or this may not make namespaces.
    pub(crate) fn with(programs: &'static [&'static str]) -> Option<Self> {
        if !is_root() || !installed(programs) || !installed(&["unshare"]) {
            return None;
        }
        let machine = Self { host: Host::new(), programs };
        for folder in OWN_FOLDERS {
            fs::create_dir_all(machine.path(folder)).unwrap();
        }
        fs::write(machine.path(HOSTS), format!("127.0.0.1 localhost {NAME}\n")).unwrap();
        fs::create_dir(machine.path("/tmp")).unwrap();
        machine.configure("storage.conf", STORAGE);
        machine.configure("policy.json", POLICY);
        machine.configure("registries.conf", "unqualified-search-registries = []\n");
        if machine.run("true").code != Some(0) {
            eprintln!("skipped: may not make namespaces");
            return None;
        }
        Some(machine)
    }

    /// A folder that goes with the machine. Commands run in it.
    pub(crate) fn folder(&self) -> &Path {
        self.host.folder()
    }

    /// Where what its programs call `path` is for us.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder().join(path.trim_start_matches('/'))
    }

    /// Writes a file of `/etc/containers`.
    pub(crate) fn configure(&self, name: &str, text: &str) {
        let path = self.path("/etc/containers").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Has all programs trust the authority whose certificate is `pem`, as `update-ca-certificates` does.
    pub(crate) fn trust(&self, pem: &str) {
        fs::write(self.path(TRUSTED).join("ca-certificates.crt"), pem).unwrap();
    }

    /// Allows plain HTTP to the registry at `address`, as docs/interop.md says.
    pub(crate) fn allow_plain_http(&self, address: &str) {
        let name = format!("registries.conf.d/{}.conf", address.replace(':', "-"));
        self.configure(&name, &format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n"));
    }

    /// `line`, split at spaces. Its first word is a program of this machine, `hull` among them.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut words = line.split_ascii_whitespace();
        let program = match words.next().unwrap() {
            "hull" => env!("CARGO_BIN_EXE_hull"),
            program => program,
        };
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER]).arg(self.folder());
        command.args(OWN_FOLDERS).args([HOSTS, "--", program]).args(words).current_dir(self.folder());
        self.host.clean(&mut command);
        command.env("TMPDIR", self.path("/tmp"));
        command
    }

    /// Runs `line` to its end.
    pub(crate) fn run(&self, line: &str) -> Done {
        Done::of(&mut self.command(line))
    }

    /// Runs `line`, which succeeds, and returns what it wrote to stdout, trimmed.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    /// Runs `line`, which succeeds and prints JSON.
    #[track_caller]
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(line)).unwrap()
    }

    /// Runs `line`, which fails and says `words`.
    #[track_caller]
    pub(crate) fn fails(&self, line: &str, words: &str) {
        let done = self.run(line);
        assert!(!matches!(done.code, Some(0) | None), "`{line}` was expected to fail: {}", done.stdout);
        assert!(done.stderr.contains(words), "`{line}` does not say `{words}`: {}", done.stderr);
    }

    /// The files of an image in podman's and buildah's storage.
    #[track_caller]
    pub(crate) fn files_of_image(&self, image: &str) -> Tree {
        // The storage's driver has no mounts: what is said is a folder.
        tree(&self.path(&self.ok(&format!("podman image mount {image}"))))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for program in self.programs {
                let version = self.run(&format!("{program} --version")).stdout;
                eprintln!("with {}", version.lines().next().unwrap_or(program));
            }
        }
    }
}

/// The regular files under `folder`.
pub(crate) fn tree(folder: &Path) -> Tree {
    let mut found = Tree::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let entry = entry.unwrap();
            let (kind, path) = (entry.file_type().unwrap(), entry.path());
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                found.insert(format!("/{name}"), fs::read(&path).unwrap());
            }
        }
    }
    found
}
