//! Whose programs read and write: hull's, which are judged, or QEMU's, which prove the suite.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::SuiteError;
use super::compare::Difference;
use super::nbd::Client;
use super::recipes::Made;
use super::workshop::{Workshop, said, text};

/// How long a server may take until it listens, and a little sleep between attempts.
const PATIENCE: Duration = Duration::from_secs(60);
const NAP: Duration = Duration::from_millis(1);

/// Whose programs they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The `hull` binary at this path: `hull nbd --image` and `hull convert`.
    Hull(PathBuf),
    /// `qemu-nbd -r` and `qemu-img convert`.
    Qemu,
}

/// A format that a random disk is written to.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// By QEMU's name.
    format: &'static str,
    /// What `hull convert` is told.
    hull: &'static [&'static str],
    /// What `qemu-img convert` is told.
    qemu: &'static [&'static str],
    /// `qemu-img check` knows the format.
    is_checked: bool,
}

pub(crate) const TARGETS: [Target; 10] = [
    target("raw", "raw", &["--to", "raw"], &[], false),
    target("qcow2", "qcow2", &["--to", "qcow2", "--compression", "none"], &[], true),
    target("qcow2 zlib", "qcow2", &["--to", "qcow2", "--compression", "zlib"], &["-c"], true),
    target(
        "qcow2 zstd",
        "qcow2",
        &["--to", "qcow2", "--compression", "zstd"],
        &["-c", "-o", "compression_type=zstd"],
        true,
    ),
    target("vmdk stream", "vmdk", &["--to", "vmdk"], &["-o", "subformat=streamOptimized"], true),
    target(
        "vmdk sparse",
        "vmdk",
        &["--to", "vmdk", "--subformat", "sparse"],
        &["-o", "subformat=monolithicSparse"],
        true,
    ),
    target(
        "vhd fixed",
        "vpc",
        &["--to", "vhd", "--subformat", "fixed"],
        &["-o", "subformat=fixed,force_size=on"],
        false,
    ),
    target("vhd", "vpc", &["--to", "vhd"], &["-o", "force_size=on"], false),
    target("vhdx", "vhdx", &["--to", "vhdx"], &[], true),
    target("vdi", "vdi", &["--to", "vdi"], &[], true),
];

const fn target(
    name: &'static str,
    format: &'static str,
    hull: &'static [&'static str],
    qemu: &'static [&'static str],
    is_checked: bool,
) -> Target {
    Target { name, format, hull, qemu, is_checked }
}

/// A program that serves an image over NBD; it is ended with this.
#[derive(Debug)]
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already is only waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Subject {
    /// Serves the image, and calls `look` with a connection to it.
    pub(crate) fn with_disk<T>(
        &self,
        made: &Made,
        shop: &Workshop,
        look: impl FnOnce(&mut Client) -> Result<T, SuiteError>,
    ) -> Result<Result<T, Difference>, SuiteError> {
        let socket = shop.path("socket");
        let mut command = self.server(made, &socket);
        let program = command.get_program().to_string_lossy().into_owned();
        command.current_dir(shop.path("")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.env("HULL_HOME", shop.path("home"));
        let child = command.spawn().map_err(|source| SuiteError::NotStarted { program, source })?;
        let mut server = Server(child);
        match connect(&mut server.0, &socket) {
            Ok(mut client) => look(&mut client).map(Ok),
            Err(said) => Ok(Err(Difference::NotOpened { said })),
        }
    }

    fn server(&self, made: &Made, socket: &Path) -> Command {
        let mut command;
        match self {
            Self::Hull(hull) => {
                command = Command::new(hull);
                command.args(["nbd", "--image", &made.file, "--socket"]).arg(socket).args(surroundings(made));
            }
            Self::Qemu => {
                command = Command::new("qemu-nbd");
                command.args(["-r", "-k"]).arg(socket).args(["-f", made.format, &made.file]);
            }
        }
        command
    }

    /// Writes the image to `target`, and lets QEMU compare the result with `reference` and check it.
    pub(crate) fn write(
        &self,
        made: &Made,
        target: &Target,
        shop: &mut Workshop,
    ) -> Result<Result<(), Difference>, SuiteError> {
        let (out, name) = ("written", target.name);
        let output = match self {
            Self::Hull(hull) => {
                let mut arguments = vec!["convert", &made.file, "-o", out];
                arguments.extend(target.hull);
                let surroundings = surroundings(made);
                arguments.extend(surroundings.iter().map(String::as_str));
                shop.attempt(text(hull), &arguments)?
            }
            Self::Qemu => {
                let mut arguments = vec!["convert", "-f", made.format, "-O", target.format];
                arguments.extend(target.qemu);
                arguments.extend([&*made.file, out]);
                shop.attempt("qemu-img", &arguments)?
            }
        };
        if !output.status.success() {
            return Ok(Err(Difference::NotWritten { target: name, said: said(&output) }));
        }
        let badly = |judge, output| Difference::BadlyWritten { target: name, judge, said: said(&output) };
        // A format that cannot say every size may go on with zeros.
        let compared =
            shop.attempt("qemu-img", &["compare", "-f", "raw", "-F", target.format, "reference.raw", out])?;
        if !compared.status.success() {
            return Ok(Err(badly("qemu-img compare", compared)));
        }
        if target.is_checked {
            let checked = shop.attempt("qemu-img", &["check", "-f", target.format, out])?;
            if !checked.status.success() {
                return Ok(Err(badly("qemu-img check", checked)));
            }
        }
        Ok(Ok(()))
    }
}

/// What hull is told of an image besides its name. Only a raw one is named: it may begin with anything.
fn surroundings(made: &Made) -> Vec<String> {
    let mut arguments = Vec::new();
    if made.format == "raw" {
        arguments.extend(["--format".to_owned(), "raw".to_owned()]);
    }
    arguments.extend(made.backing.iter().flat_map(|(file, _)| ["--backing".to_owned(), file.clone()]));
    if made.has_parts {
        arguments.extend(["--parts".to_owned(), ".".to_owned()]);
    }
    arguments
}

/// A connection, as soon as there is one; otherwise what the server says.
fn connect(server: &mut Child, socket: &Path) -> Result<Client, String> {
    let begin = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Client::connect(stream).map_err(|error| error.to_string());
        }
        let ended = server.try_wait().map_err(|error| error.to_string())?;
        if let Some(status) = ended {
            let stderr = server.stderr.take().map(io::read_to_string).transpose().unwrap_or_default();
            return Err(format!("{status}: {}", stderr.unwrap_or_default().trim().escape_debug()));
        }
        if begin.elapsed() > PATIENCE {
            return Err("it did not listen for a minute".to_owned());
        }
        std::thread::sleep(NAP);
    }
}
