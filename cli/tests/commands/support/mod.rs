//! A host for one test: a `HULL_HOME` of its own, a clean environment, and nothing left when it goes.

pub(crate) mod cable;
pub(crate) mod disks;
pub(crate) mod package;
pub(crate) mod registry;
pub(crate) mod small_disk;
pub(crate) mod source;
pub(crate) mod vm;
pub(crate) mod wait;
pub(crate) mod world;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use self::world::World;

/// What a person's search path is on Debian, the administrators' folders included.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A host: where one `HULL_HOME` is. Its VMs end with it.
#[derive(Debug)]
pub(crate) struct Host {
    folder: tempfile::TempDir,
    home: PathBuf,
    world: Option<World>,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    what: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("hull");
        Self { folder, home, world: None }
    }

    /// A host that can run VMs, in a world of its own; `None`, and says why, where there can be none.
    pub(crate) fn for_vms() -> Option<Self> {
        if !is_root() || !installed(&["qemu-system-x86_64", "nft", "ip", "nsenter"]) {
            return None;
        }
        let mut host = Self::new();
        host.world = Some(World::new()?);
        Some(host)
    }

    /// Its network.
    pub(crate) fn world(&self) -> &World {
        self.world.as_ref().expect("the host was made for VMs")
    }

    /// A folder that goes with the host.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `HULL_HOME`.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// `hull` with nothing of the test's environment but what is written here.
    pub(crate) fn hull<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        const HULL: &str = env!("CARGO_BIN_EXE_hull");
        let mut command = match &self.world {
            Some(world) => world.command(HULL, self.folder()),
            None => Command::new(HULL),
        };
        command.args(arguments).current_dir(self.folder());
        self.clean(&mut command);
        command
    }

    /// Gives `command` the environment of this host.
    pub(crate) fn clean(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("HOME", self.folder())
            .env("HULL_HOME", &self.home)
            .stdin(Stdio::null());
    }

    /// Runs `hull` to its end. `line` is split at spaces.
    pub(crate) fn run(&self, line: &str) -> Done {
        Done::of(&mut self.hull(line.split_ascii_whitespace()))
    }

    /// Runs `hull`, which succeeds, and returns what it wrote to stdout, trimmed.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    /// Runs `hull`, which succeeds and prints JSON.
    #[track_caller]
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(line)).unwrap()
    }

    /// The references in the local store, each with its digest.
    #[track_caller]
    pub(crate) fn references(&self) -> BTreeSet<(String, String)> {
        let images = self.json("images --json");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let images = images.as_array().unwrap().iter();
        images.map(|image| (text(&image["reference"]), text(&image["digest"]))).collect()
    }

    /// What a VM is and how it is, as `ps` tells it.
    #[track_caller]
    pub(crate) fn vm(&self, name: &str) -> Value {
        let vms = self.json("ps --all --json");
        let mut vms = vms.as_array().unwrap().iter();
        vms.find(|vm| vm["name"] == name).unwrap_or_else(|| panic!("no VM `{name}`")).clone()
    }

    /// Files in the store that are not whole yet: what a command must not leave behind.
    pub(crate) fn half_written(&self) -> Vec<PathBuf> {
        files(&self.home.join("store/tmp"))
    }

    /// Blobs in the store whose content is not what their names say.
    pub(crate) fn damaged(&self) -> Vec<PathBuf> {
        let blobs = files(&self.home.join("store/blobs/sha256"));
        let is_damaged = |path: &PathBuf| {
            let digest = appliance::Digest::sha256(&fs::read(path).unwrap());
            Some(digest.hex().as_str()) != path.file_name().and_then(OsStr::to_str)
        };
        blobs.into_iter().filter(is_damaged).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Ok(vms) = fs::read_dir(self.home.join("vms")) else { return };
        for vm in vms.flatten() {
            let name = vm.file_name();
            // Best effort: a test that failed has said what matters.
            let _ = self.hull([OsStr::new("rm"), OsStr::new("--force"), &name]).output();
        }
    }
}

impl Done {
    /// Runs `command` to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let what = format!("{command:?}");
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { what, code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// The command succeeded; returns what it wrote to stdout, trimmed.
    #[track_caller]
    pub(crate) fn ok(&self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.what, self.stderr);
        self.stdout.trim_end().to_owned()
    }

    /// The command failed with `code`, and said all of `words` and what to do, in plain text.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        let Self { what, stderr, .. } = self;
        assert_eq!(self.code, Some(code), "{what}\n{stderr}");
        for word in words {
            assert!(stderr.contains(word), "`{word}` is missing\n{what}\n{stderr}");
        }
        assert!(stderr.starts_with("error: ") || stderr.contains("\nerror: "), "{what}\n{stderr}");
        let advice = ["\nhint: ", "--help"];
        assert!(advice.iter().any(|advice| stderr.contains(advice)), "nothing to do\n{what}\n{stderr}");
        assert!(!stderr.contains("panicked"), "{what}\n{stderr}");
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!stderr.contains(control), "control characters\n{what}\n{stderr:?}");
    }
}

/// The files in `folder`; none where it is not there.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// True if this may do what only root may; else says that the test skips.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// True if all of `programs` are installed; else says that the test skips.
pub(crate) fn installed(programs: &[&str]) -> bool {
    let folders = || SEARCH_PATH.split(':').map(Path::new);
    let missing = programs.iter().find(|program| !folders().any(|folder| folder.join(program).exists()));
    if let Some(missing) = missing {
        eprintln!("skipped: `{missing}` is not installed");
    }
    missing.is_none()
}
