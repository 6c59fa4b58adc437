//! Where VMs are kept: one folder each, found by listing, alive if its lock is held.
//!
//! ```text
//! vms/<name>/
//!   lock            held by the supervisor for life; it inherits it, so there is no moment without
//!   spec.json       what the VM is
//!   state.json      how it is; replaced whole, by state.json.spare
//!   events.jsonl    what happened to it
//!   serial.log      what the guest wrote to its console
//!   supervisor.log  what the supervisor has to say when nobody listens
//!   <disk>.qcow2    what the guest wrote to a disk
//! vms/.<id>/        a VM that is being made or removed; left over if nobody holds `vms`
//! run/<id>/         sockets; gone when the VM has ended
//! ```
//!
//! There are no pid files and no daemon. A folder that says "running" while nobody holds its lock is
//! a VM whose supervisor was killed: whoever finds it cleans up after it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use blob_store::LocalStore;
use rustix::fs::{CWD, FlockOperation, RenameFlags};

use super::state::{Event, Spec, State, Status, unix_now_s};

/// How long a supervisor that has said that all is over may take to end.
const ENDING_TIME: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// All VMs of one user on this machine.
#[derive(Debug, Clone)]
pub struct Vms {
    folder: PathBuf,
    runtime: PathBuf,
    store: LocalStore,
}

/// One VM, as it was found.
#[derive(Debug, Clone)]
pub struct Vm {
    /// What it is.
    pub spec: Spec,
    /// How it is.
    pub state: State,
    /// Where its files are.
    pub folder: VmFolder,
}

/// All VMs, as they were found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those that can be told about, in order of their names.
    pub vms: Vec<Vm>,
    /// Names of those that cannot, with what is wrong with them.
    pub damaged: Vec<(String, VmError)>,
}

/// A VM's files.
#[derive(Debug, Clone)]
pub struct VmFolder {
    path: PathBuf,
    runtime: PathBuf,
}

/// The lock of a VM that nobody else holds. Whoever has it may change the folder.
#[derive(Debug)]
pub struct VmLock(File);

/// Why a VM could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// The name is taken.
    #[error("there is a VM `{name}` already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The name cannot be a VM's.
    #[error("`{name}` is not a name for a VM; expected 1 to 63 lower-case letters, digits and `-`")]
    BadName {
        /// The name, control characters escaped.
        name: String,
    },
    /// There is no such VM.
    #[error("there is no VM `{name}`")]
    Unknown {
        /// The name, control characters escaped.
        name: String,
    },
    /// It runs, and what was asked needs it stopped.
    #[error("the VM `{name}` is {status}", status = status.as_str())]
    Alive {
        /// Its name.
        name: String,
        /// How it is.
        status: Status,
    },
    /// A file of a VM is not what this hull writes.
    #[error("`{}` cannot be understood", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A pin in the store could not be set or taken back.
    #[error(transparent)]
    Store(#[from] blob_store::LocalStoreError),
    /// What a killed VM left behind could not be removed.
    #[error("what is left of the VM's network could not be removed")]
    Network(#[source] crate::net::NetError),
    /// Sockets in this folder would be at the mercy of whoever made it.
    #[error("`{}` is not a folder of this user's own; sockets in it would not be safe", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

trait Context<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, VmError>;
}

impl<T> Context<T> for io::Result<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, VmError> {
        self.map_err(|source| VmError::Io { action, path: path.to_owned(), source })
    }
}

impl Vms {
    /// The VMs whose folders are in `folder` and whose sockets are in `runtime`, a short path on this
    /// machine only. Both are made when the first VM is.
    pub fn new(folder: impl Into<PathBuf>, runtime: impl Into<PathBuf>, store: LocalStore) -> Self {
        Self { folder: folder.into(), runtime: runtime.into(), store }
    }

    /// Makes the folder of a VM that does not run yet. The caller holds its lock.
    ///
    /// The appliance is pinned in the store until the VM is removed.
    ///
    /// # Errors
    ///
    /// [`VmError::BadName`], [`VmError::NameTaken`], [`VmError::Io`]; nothing is then left of it.
    pub fn create(&self, spec: &Spec) -> Result<(VmFolder, VmLock), VmError> {
        check_name(&spec.name)?;
        make_private(&self.folder)?;
        let _changing = self.changing(FlockOperation::LockShared)?;
        // Everything is in place before the folder has its name, so that nobody finds half a VM.
        let unnamed = VmFolder { path: self.folder.join(format!(".{}", spec.id)), runtime: PathBuf::new() };
        make_private(&unnamed.path)?;
        let made = unnamed.fill(spec).and_then(|lock| {
            self.store.pin(&spec.id, &spec.manifest)?;
            let path = self.folder.join(&spec.name);
            match fs::rename(&unnamed.path, &path) {
                Err(error) if is_taken(&error) => Err(VmError::NameTaken { name: spec.name.clone() }),
                renamed => renamed.during("name", &path).map(|()| (self.folder_of(spec), lock)),
            }
        });
        if made.is_err() {
            // Best effort: the error that led here is what the caller hears of.
            let _ = fs::remove_dir_all(&unnamed.path);
            let _ = self.store.unpin(&spec.id);
        }
        made
    }

    /// All VMs. Cleans up after those whose supervisor was killed. One that cannot be told about does
    /// not hide the others.
    ///
    /// # Errors
    ///
    /// [`VmError::Io`] where the folder of all VMs cannot be read.
    pub fn list(&self) -> Result<Listing, VmError> {
        self.remove_left_over()?;
        let mut listing = Listing::default();
        for name in self.entries()? {
            if name.starts_with('.') {
                continue;
            }
            match self.get(&name) {
                Ok(vm) => listing.vms.push(vm),
                // It was removed meanwhile.
                Err(VmError::Unknown { .. }) => {}
                Err(error) => listing.damaged.push((name, error)),
            }
        }
        Ok(listing)
    }

    /// The VM called `name`. Cleans up after it if its supervisor was killed.
    ///
    /// # Errors
    ///
    /// [`VmError::Unknown`], and as [`Vms::list`].
    pub fn get(&self, name: &str) -> Result<Vm, VmError> {
        let unknown = || VmError::Unknown { name: name.escape_debug().to_string() };
        check_name(name).map_err(|_| unknown())?;
        let path = self.folder.join(name);
        if !path.is_dir() {
            return Err(unknown());
        }
        let spec: Spec = match read(&path.join("spec.json")) {
            // It was removed between the two looks.
            Err(VmError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound && !path.exists() => {
                return Err(unknown());
            }
            spec => spec?,
        };
        let folder = self.folder_of(&spec);
        let mut state = folder.state()?;
        if state.status.is_alive()
            && let Some(lock) = folder.try_lock()?
        {
            // It may have ended between the two looks.
            state = folder.state()?;
            if state.status.is_alive() {
                state = self.clean_up(&spec, &folder, state)?;
            }
            drop(lock);
        }
        Ok(Vm { spec, state, folder })
    }

    /// Removes a VM that does not run: its folder, and everything the guest wrote.
    ///
    /// # Errors
    ///
    /// [`VmError::Alive`] where it runs, [`VmError::Unknown`], [`VmError::Io`].
    pub fn remove(&self, name: &str) -> Result<(), VmError> {
        let vm = match self.get(name) {
            Err(VmError::Malformed { .. }) => return self.remove_damaged(name),
            vm => vm?,
        };
        let _lock = self.lock(&vm)?;
        vm.folder.remove_runtime()?;
        self.remove_folder(&vm.folder.path, &vm.spec.id)?;
        Ok(self.store.unpin(&vm.spec.id)?)
    }

    /// Removes a VM of which nobody can tell any more what it was. What it pins in the store stays.
    fn remove_damaged(&self, name: &str) -> Result<(), VmError> {
        let folder = VmFolder { path: self.folder.join(name), runtime: PathBuf::new() };
        let alive = || VmError::Alive { name: name.to_owned(), status: Status::Running };
        let _lock = folder.try_lock()?.ok_or_else(alive)?;
        self.remove_folder(&folder.path, &new_id())
    }

    /// Hidden first, so that nobody finds half a VM should this be interrupted.
    fn remove_folder(&self, path: &Path, id: &str) -> Result<(), VmError> {
        let _changing = self.changing(FlockOperation::LockShared)?;
        let hidden = self.folder.join(format!(".{id}"));
        fs::rename(path, &hidden).during("remove", path)?;
        fs::remove_dir_all(&hidden).during("remove", &hidden)
    }

    /// Takes the lock of a VM that does not run, to start it again.
    ///
    /// # Errors
    ///
    /// [`VmError::Alive`] where it runs.
    pub fn lock(&self, vm: &Vm) -> Result<VmLock, VmError> {
        let deadline = Instant::now() + ENDING_TIME;
        loop {
            if let Some(lock) = vm.folder.try_lock()? {
                return Ok(lock);
            }
            // Its supervisor says that all is over while it still has the lock: until its process ends.
            let status = vm.folder.state()?.status;
            let is_ending = matches!(status, Status::Stopped | Status::Failed);
            if !is_ending || Instant::now() >= deadline {
                return Err(VmError::Alive { name: vm.spec.name.clone(), status });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Removes VMs whose making or removal was killed. Where somebody makes or removes one just now,
    /// whoever comes next does it.
    fn remove_left_over(&self) -> Result<(), VmError> {
        let names = self.entries()?;
        let is_id = |text: &&str| text.len() == 8 && text.bytes().all(|c| c.is_ascii_hexdigit());
        let hidden = names.iter().filter_map(|name| Some((name, name.strip_prefix('.').filter(is_id)?)));
        let mut left_over = hidden.peekable();
        if left_over.peek().is_none() {
            return Ok(());
        }
        let Ok(_alone) = self.changing(FlockOperation::NonBlockingLockExclusive) else { return Ok(()) };
        for (name, id) in left_over {
            let path = self.folder.join(name);
            fs::remove_dir_all(&path).during("remove", &path)?;
            self.store.unpin(id)?;
        }
        Ok(())
    }

    /// Held shared by whoever makes or removes a VM, exclusively by whoever removes what is left over.
    fn changing(&self, operation: FlockOperation) -> Result<File, VmError> {
        let folder = File::open(&self.folder).during("open", &self.folder)?;
        rustix::fs::flock(&folder, operation).map_err(io::Error::from).during("lock", &self.folder)?;
        Ok(folder)
    }

    /// The names in the VMs' folder, in order.
    fn entries(&self) -> Result<Vec<String>, VmError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.during("list", &self.folder)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.during("list", &self.folder)?.file_name();
            names.extend(name.into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Removes whatever a killed supervisor could not: QEMU (should it have outlived it), the
    /// namespace with all that is in it, the sockets. The caller holds the VM's lock.
    fn clean_up(&self, spec: &Spec, folder: &VmFolder, state: State) -> Result<State, VmError> {
        if let Some(qemu) = state.qemu {
            qemu.kill();
        }
        // Only root makes networks, so nobody else's VM has one.
        if rustix::process::geteuid().is_root() {
            crate::net::Network::cleanup(&spec.id).map_err(VmError::Network)?;
        }
        folder.remove_runtime()?;
        let reason = match state.status {
            Status::Starting => "its supervisor was killed while it started",
            _ => "its supervisor was killed; QEMU and its network were cleaned up",
        };
        let state = State {
            status: Status::Failed,
            reason: Some(reason.to_owned()),
            since_unix_s: unix_now_s(),
            qemu: None,
            ports: Vec::new(),
            ..state
        };
        // Where it cannot be written down it is true all the same, and the next one to look finds it out anew.
        let _ = folder.record(&state);
        Ok(state)
    }

    fn folder_of(&self, spec: &Spec) -> VmFolder {
        VmFolder { path: self.folder.join(&spec.name), runtime: self.runtime.join(&spec.id) }
    }
}

impl VmFolder {
    /// Opens the folder of a VM by its path; for the supervisor, which is told it.
    ///
    /// # Errors
    ///
    /// [`VmError::Io`], [`VmError::Malformed`].
    pub fn open(path: &Path, runtime: &Path) -> Result<(Self, Spec), VmError> {
        let spec: Spec = read(&path.join("spec.json"))?;
        Ok((Self { path: path.to_owned(), runtime: runtime.join(&spec.id) }, spec))
    }

    /// Where the VM's files are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its sockets are while it runs.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// What the guest wrote to its console.
    pub fn serial_log(&self) -> PathBuf {
        self.path.join("serial.log")
    }

    /// The socket behind which the guest's console is.
    pub fn console_socket(&self) -> PathBuf {
        self.runtime.join("console")
    }

    /// The socket behind which the supervisor is.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("control")
    }

    /// What the supervisor said.
    pub fn supervisor_log(&self) -> PathBuf {
        self.path.join("supervisor.log")
    }

    /// Where what the guest writes to a disk is kept.
    pub fn overlay(&self, disk: &str) -> PathBuf {
        self.path.join(format!("{disk}.qcow2"))
    }

    /// How the VM is.
    ///
    /// # Errors
    ///
    /// [`VmError::Io`], [`VmError::Malformed`].
    pub fn state(&self) -> Result<State, VmError> {
        read(&self.path.join("state.json"))
    }

    /// Writes down how the VM is, whole and durably; also on a full disk, once it was written before.
    ///
    /// There are two files, each with blocks of its own: the spare one is overwritten in place, then they
    /// exchange their names.
    ///
    /// # Errors
    ///
    /// [`VmError::Io`]; what was written before is then still there.
    pub fn record(&self, state: &State) -> Result<(), VmError> {
        let (path, spare) = (self.path.join("state.json"), self.path.join("state.json.spare"));
        let mut bytes = serde_json::to_vec_pretty(state).expect("our own types serialise");
        // White space after the document is none of its content, and keeps the file's blocks its own.
        bytes.resize(bytes.len().next_multiple_of(STATE_FILE_BYTES), b'\n');
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&spare);
        let file = opened.during("open", &spare)?;
        file.write_all_at(&bytes, 0)
            .and_then(|()| file.set_len(bytes.len() as u64))
            .and_then(|()| file.sync_all())
            .during("write", &spare)?;
        let exchange = rustix::fs::renameat_with(CWD, &spare, CWD, &path, RenameFlags::EXCHANGE);
        match exchange {
            Ok(()) => Ok(()),
            // The first time there is nothing to exchange it with, and not every file system can.
            Err(_) => fs::rename(&spare, &path).during("replace", &path),
        }
    }

    /// Adds a line to the VM's events.
    ///
    /// # Errors
    ///
    /// [`VmError::Io`].
    pub fn record_event(&self, event: &Event) -> Result<(), VmError> {
        const MAX_EVENTS_BYTES: u64 = 1 << 20;
        let path = self.path.join("events.jsonl");
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() >= MAX_EVENTS_BYTES) {
            fs::rename(&path, path.with_extension("jsonl.1")).during("rename", &path)?;
        }
        let mut line = serde_json::to_vec(event).expect("an event serialises");
        line.push(b'\n');
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&path).during("open", &path)?;
        file.write_all(&line).during("write", &path)
    }

    /// Makes the folder for the sockets, empty.
    ///
    /// # Errors
    ///
    /// [`VmError::NotOurs`], [`VmError::Io`].
    pub fn make_runtime(&self) -> Result<(), VmError> {
        let all = self.runtime.parent().expect("each VM's sockets are in a folder of their own");
        make_private(all)?;
        // Its name can be foreseen, so somebody else may have made it first, to sit between us and a VM.
        let found = fs::symlink_metadata(all).during("examine", all)?;
        if found.uid() != rustix::process::geteuid().as_raw() || !found.is_dir() {
            return Err(VmError::NotOurs { path: all.to_owned() });
        }
        self.remove_runtime()?;
        make_private(&self.runtime)
    }

    /// Removes the sockets.
    ///
    /// # Errors
    ///
    /// [`VmError::Io`].
    pub fn remove_runtime(&self) -> Result<(), VmError> {
        match fs::remove_dir_all(&self.runtime) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.during("remove", &self.runtime),
        }
    }

    fn fill(&self, spec: &Spec) -> Result<VmLock, VmError> {
        let lock = self.try_lock()?.expect("nobody else knows of a folder without a name");
        write(&self.path.join("spec.json"), spec)?;
        self.record(&State { since_unix_s: unix_now_s(), ..State::default() })?;
        Ok(lock)
    }

    fn try_lock(&self) -> Result<Option<VmLock>, VmError> {
        let path = self.path.join("lock");
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.during("open", &path)?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(VmLock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()).during("lock", &path),
        }
    }
}

impl VmLock {
    /// The lock as a file, for the supervisor to inherit: it holds as long as any process has it open.
    pub fn into_file(self) -> File {
        self.0
    }
}

/// A name for a VM that does not clash with one of `taken`: `wanted`, or `wanted-2` and so on.
pub fn free_name(wanted: &str, taken: &Listing) -> String {
    let is_taken = |name: &str| {
        taken.vms.iter().any(|vm| vm.spec.name == name)
            || taken.damaged.iter().any(|(damaged, _)| damaged == name)
    };
    let numbered = (2_u32..).map(|number| format!("{wanted}-{number}"));
    std::iter::once(wanted.to_owned())
        .chain(numbered)
        .find(|name| !is_taken(name))
        .expect("numbers do not end")
}

/// The files that hold the state have a multiple of this size: what file systems give out at a time.
const STATE_FILE_BYTES: usize = 4096;

/// Eight random hex digits.
///
/// # Panics
///
/// If the kernel has no random numbers to give.
pub fn new_id() -> String {
    let mut bytes = [0_u8; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .expect("the kernel has randomness");
    format!("{:08x}", u32::from_ne_bytes(bytes))
}

fn check_name(name: &str) -> Result<(), VmError> {
    if appliance::is_label(name) {
        Ok(())
    } else {
        Err(VmError::BadName { name: name.escape_debug().to_string() })
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// Makes `path` and what leads to it, for this user only.
fn make_private(path: &Path) -> Result<(), VmError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).during("make the folder", path)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, VmError> {
    let bytes = fs::read(path).during("read", path)?;
    serde_json::from_slice(&bytes).map_err(|source| VmError::Malformed { path: path.to_owned(), source })
}

fn write<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), VmError> {
    let bytes = serde_json::to_vec_pretty(value).expect("our own types serialise");
    let new = path.with_extension("json.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .during("create", &new)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).during("write", &new)?;
    fs::rename(&new, path).during("replace", path)
}

#[cfg(test)]
mod tests {
    use super::super::state::ProcessId;
    use super::*;

    fn vms() -> (tempfile::TempDir, Vms) {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path().join("store")).unwrap();
        let vms = Vms::new(folder.path().join("vms"), folder.path().join("run"), store);
        (folder, vms)
    }

    fn spec(name: &str) -> Spec {
        Spec {
            name: name.into(),
            id: new_id(),
            reference: "web".parse().unwrap(),
            manifest: appliance::Digest::sha256(b"manifest"),
            machine: "web".into(),
            accel: crate::AccelRequest::Auto,
            publish: Vec::new(),
            created_unix_s: 1,
        }
    }

    /// Gives a lock back at once. Closing it may take until a child that another test's thread has just
    /// forked closes its copy.
    fn release(lock: VmLock) {
        rustix::fs::flock(&lock.0, rustix::fs::FlockOperation::Unlock).unwrap();
    }

    fn names(vms: &Vms) -> Vec<String> {
        vms.list().unwrap().vms.into_iter().map(|vm| vm.spec.name).collect()
    }

    #[test]
    fn a_vm_is_found_until_it_is_removed() {
        let (folder, vms) = vms();
        assert_eq!(names(&vms), [] as [&str; 0]);
        let made = spec("web");
        let (_, lock) = vms.create(&made).unwrap();
        vms.create(&spec("app")).unwrap();
        assert_eq!(names(&vms), ["app", "web"]);
        assert_eq!(vms.get("web").unwrap().spec, made);
        assert!(matches!(vms.remove("web"), Err(VmError::Alive { .. })), "somebody holds its lock");
        release(lock);
        vms.remove("web").unwrap();
        assert!(matches!(vms.get("web"), Err(VmError::Unknown { .. })));
        assert_eq!(fs::read_dir(folder.path().join("store/pins")).unwrap().count(), 1, "app is still pinned");
    }

    #[test]
    fn names_are_unique_and_harmless() {
        let (folder, vms) = vms();
        vms.create(&spec("web")).unwrap();
        assert!(matches!(vms.create(&spec("web")), Err(VmError::NameTaken { .. })));
        for name in ["", "../web", "-x", "Web", "a/b", &"x".repeat(64)] {
            assert!(matches!(vms.create(&spec(name)), Err(VmError::BadName { .. })), "{name}");
            assert!(matches!(vms.get(name), Err(VmError::Unknown { .. })), "{name}");
        }
        assert_eq!(fs::read_dir(folder.path().join("vms")).unwrap().count(), 1, "nothing else is left");
        assert_eq!(free_name("web", &vms.list().unwrap()), "web-2");
        assert_eq!(free_name("app", &vms.list().unwrap()), "app");
    }

    #[test]
    fn a_vm_that_says_it_runs_while_nobody_holds_its_lock_has_failed() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: what is left of a network can be looked for by root only");
            return;
        }
        let (_folder, vms) = vms();
        let (folder, lock) = vms.create(&spec("web")).unwrap();
        let running = State { status: Status::Starting, ..State::default() };
        folder.record(&running).unwrap();
        folder.make_runtime().unwrap();
        assert_eq!(vms.get("web").unwrap().state, running, "its lock is held");
        release(lock);
        let found = vms.get("web").unwrap();
        assert_eq!(found.state.status, Status::Failed);
        assert_eq!(found.state.reason.as_deref(), Some("its supervisor was killed while it started"));
        assert!(!folder.runtime().exists());
        assert_eq!(vms.get("web").unwrap().state, found.state);
    }

    #[test]
    fn sockets_are_kept_in_no_folder_that_somebody_else_made() {
        let (folder, vms) = vms();
        let (made, _lock) = vms.create(&spec("web")).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("run")).unwrap();
        assert!(matches!(made.make_runtime(), Err(VmError::NotOurs { .. })));
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        fs::remove_file(folder.path().join("run")).unwrap();
        made.make_runtime().unwrap();
    }

    #[test]
    fn a_damaged_vm_hides_no_other_and_can_be_removed() {
        let (folder, vms) = vms();
        release(vms.create(&spec("web")).unwrap().1);
        release(vms.create(&spec("bad")).unwrap().1);
        fs::write(folder.path().join("vms/bad/spec.json"), "{").unwrap();
        let listing = vms.list().unwrap();
        assert_eq!(listing.vms.len(), 1);
        assert_eq!(listing.damaged[0].0, "bad");
        assert_eq!(free_name("bad", &listing), "bad-2");
        vms.remove("bad").unwrap();
        assert_eq!(fs::read_dir(folder.path().join("vms")).unwrap().count(), 1);
    }

    #[test]
    fn the_state_is_always_one_that_was_recorded() {
        let (_folder, vms) = vms();
        let (folder, _lock) = vms.create(&spec("web")).unwrap();
        let reasons = [None, Some("x".repeat(9000)), Some("short".to_owned())];
        for reason in reasons {
            let state = State { reason, ..State::default() };
            folder.record(&state).unwrap();
            assert_eq!(folder.state().unwrap(), state);
        }
    }

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let me = ProcessId::of(std::process::id().cast_signed()).unwrap();
        assert!(me.is_alive());
        let other = ProcessId { start_ticks: me.start_ticks + 1, ..me };
        assert!(!other.is_alive());
        // Had it been taken for us, this test would not end.
        other.kill();
    }
}
