//! A service that speaks as S3 does, started for a test and gone with it: moto, from `.cache/s3-server`, where
//! `scripts/fetch-s3-server` puts it. All it holds is in its memory, and it accepts any credentials.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running service. Dropping it ends the process; so does the end of this process, however it comes.
#[derive(Debug)]
pub struct S3Server {
    process: Child,
    port: u16,
}

/// Why there is no S3 service on this machine: a reason to skip.
#[derive(Debug, thiserror::Error)]
#[error("no S3 service: {reason}")]
pub struct NoS3Server {
    reason: String,
}

impl S3Server {
    /// The region that clients should name.
    pub const REGION: &str = "us-east-1";

    /// Starts the service, and returns when it listens.
    ///
    /// # Errors
    ///
    /// [`NoS3Server`] where it was not fetched or does not start.
    pub fn start() -> Result<Self, NoS3Server> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let python = workspace.join(".cache/s3-server/bin/python");
        if !python.exists() {
            return Err(NoS3Server { reason: "scripts/fetch-s3-server has not been run".to_owned() });
        }
        let failed = |error: io::Error| NoS3Server { reason: format!("{}: {error}", python.display()) };
        let mut process = Command::new(&python)
            .arg(workspace.join("testkit/s3-server.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let mut line = String::new();
        let said = process.stdout.take().expect("the output is a pipe");
        let said = BufReader::new(said).read_line(&mut line);
        let mut server = Self { process, port: 0 };
        said.map_err(failed)?;
        server.port =
            line.trim().parse().map_err(|_| NoS3Server { reason: "it did not start".to_owned() })?;
        Ok(server)
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes an empty bucket. Its name has at least three characters.
    ///
    /// # Panics
    ///
    /// If the service does not make it.
    pub fn create_bucket(&self, name: &str) {
        let answer = self.request(&format!("PUT /{name}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// What the service answers to a request without content, such as `GET /bucket/key`.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn request(&self, request: &str) -> String {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).expect("the service listens");
        let head = format!(
            "{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).expect("the service reads");
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).expect("the service answers");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
