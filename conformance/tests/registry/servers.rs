//! Registries that end with the test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use conformance::registry::User;

/// A registry, as long as this lives.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Debian's `docker-registry` with an empty folder, where deletion is switched on.
    pub(crate) fn docker_registry(more: &str) -> Option<Self> {
        let folder = folder();
        // It cannot say which port it chose, so one is chosen for it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: \"{address}\"}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n{more}",
            folder.path().join("data").display(),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => Some(Self { child, address, _folder: folder }.listening()),
            Err(error) => {
                eprintln!("skipped: cannot run docker-registry: {error}");
                None
            }
        }
    }

    fn listening(mut self) -> Self {
        let began = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended instead of listening");
            assert!(began.elapsed() < Duration::from_secs(60), "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        self
    }

    /// `hull registry serve`, where `hull` lies beside this test. With a user, nobody else may do anything.
    pub(crate) fn hull(user: Option<&User>) -> Option<Self> {
        let (hull, folder) = (hull()?, folder());
        let registry = |arguments: &[&str]| {
            let mut command = Command::new(&hull);
            command.arg("registry").args(arguments).env("HULL_HOME", folder.path());
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        if let Some(User { name, password }) = user {
            let mut child = registry(&["user", "add", name, "--grant", "*:admin", "--password-stdin"]);
            child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success());
        }
        let mut child = registry(&["serve", "--listen", "127.0.0.1:0"]);
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { child, address: address.trim_end().to_owned(), _folder: folder })
    }
}

/// In memory where that can be had: what is judged here is not how well a disk keeps it.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The program that `cargo build --bin hull` made beside this test.
fn hull() -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join("hull")).find(|hull| hull.is_file());
    if found.is_none() {
        eprintln!("skipped: no `hull` beside this test; `cargo build --bin hull` makes it");
    }
    found
}
