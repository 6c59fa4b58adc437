//! The certificate and the key of a server: read at its start, and again when they change.
//!
//! Tools that renew certificates replace two files, one after the other. A pair that does not fit is
//! said once and tried again; the server keeps what it has.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use registry::Tls;
use tokio::signal::unix::Signal;

use super::config::TlsPaths;
use super::log::{Level, Log};

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(60);

/// A pair of files, and the server's use of it.
#[derive(Debug)]
pub(super) struct TlsFiles {
    paths: TlsPaths,
    tls: Tls,
    /// The files as they were when they were read last, whether they could be used or not.
    seen: Seen,
}

/// What tells that a file has changed: inode, length, and time of change to the nanosecond. `None` while
/// it is not there.
type Seen = [Option<(u64, u64, i64, i64)>; 2];

impl TlsFiles {
    /// Reads the files.
    pub(super) fn open(paths: TlsPaths) -> anyhow::Result<Self> {
        let seen = look(&paths);
        let (certificate, key) = read(&paths)?;
        let tls = Tls::new(&certificate, &key).with_context(|| described(&paths))?;
        Ok(Self { paths, tls, seen })
    }

    /// What the server speaks TLS with. It changes with the files, once [`TlsFiles::watch`] runs.
    pub(super) fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// Reads the files again at each `hangup`, and when they have changed. Ends never.
    pub(super) async fn watch(mut self, mut hangup: Signal, log: Arc<Log>) {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            let is_asked = tokio::select! {
                signal = hangup.recv() => signal.is_some(),
                _ = ticks.tick() => false,
            };
            match self.refresh(is_asked) {
                None => {}
                Some(Ok(())) => log.say(Level::Info, "The certificate was read again."),
                Some(Err(error)) => {
                    let reasons = crate::text::chain_of(error.as_ref());
                    log.say(Level::Error, format_args!("{reasons}; the certificate before stays in use"));
                }
            }
        }
    }

    /// Reads the files again if they have changed, or if somebody asks for it.
    fn refresh(&mut self, is_asked: bool) -> Option<anyhow::Result<()>> {
        let seen = look(&self.paths);
        if !is_asked && seen == self.seen {
            return None;
        }
        self.seen = seen;
        let reload = |(certificate, key): (Vec<u8>, Vec<u8>)| {
            self.tls.reload(&certificate, &key).with_context(|| described(&self.paths))
        };
        Some(read(&self.paths).and_then(reload))
    }
}

fn described(TlsPaths { certificate, key }: &TlsPaths) -> String {
    format!("cannot use the certificate `{}` with the key `{}`", certificate.display(), key.display())
}

fn read(TlsPaths { certificate, key }: &TlsPaths) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("cannot read `{}`", path.display()));
    Ok((read(certificate)?, read(key)?))
}

fn look(TlsPaths { certificate, key }: &TlsPaths) -> Seen {
    let of = |path: &Path| -> io::Result<_> {
        let data = fs::metadata(path)?;
        Ok((data.ino(), data.len(), data.ctime(), data.ctime_nsec()))
    };
    [of(certificate).ok(), of(key).ok()]
}
