//! Registries that end with the test: our own, and Debian's with users.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Host, wait};

/// A program that is killed when this goes.
#[derive(Debug)]
pub(crate) struct Guard(pub(crate) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `hull registry serve`.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Guard,
    /// Where it listens, as in references.
    pub(crate) address: String,
}

impl Registry {
    /// Serves the folder `registry` of `host` at a free port.
    pub(crate) fn start(host: &Host) -> Self {
        Self::start_with(host, &[])
    }

    /// As [`Registry::start`], with more options.
    pub(crate) fn start_with(host: &Host, options: &[&str]) -> Self {
        let data = host.folder().join("registry");
        let mut command = host.hull(["registry", "serve", "--listen", "127.0.0.1:0", "--data"]);
        let child =
            command.arg(data).args(options).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut process = Guard(child);
        let mut address = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { process, address: address.trim_end().to_owned() }
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(self) {
        drop(self.process);
    }
}

/// Debian's `docker-registry` for the user `alice`, whose password is `correct horse`.
#[derive(Debug)]
pub(crate) struct WithUsers {
    _process: Guard,
    pub(crate) address: String,
}

impl WithUsers {
    /// `bcrypt` at its lowest cost.
    const HTPASSWD: &str = "alice:$2b$04$YlWwkcqNFMeH9Mo5ijp/8eHyPTfJkfgpFiSoXogNVcqwxb5XPhHHm\n";

    pub(crate) fn start(folder: &Path) -> Self {
        // It cannot say which port it chose, so one is chosen for it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let htpasswd = folder.join("htpasswd");
        std::fs::write(&htpasswd, Self::HTPASSWD).unwrap();
        let config = folder.join("docker-registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{inmemory: {{}}}}\nhttp: {{addr: \"{address}\"}}\n\
             auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            htpasswd.display(),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Guard(command.spawn().unwrap());
        wait::until("docker-registry listens", || {
            assert_eq!(process.0.try_wait().unwrap(), None, "docker-registry has ended");
            TcpStream::connect(&address).ok()
        });
        Self { _process: process, address }
    }
}
