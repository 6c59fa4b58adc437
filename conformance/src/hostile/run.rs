//! Giving a hostile file to hull, and watching what it does, takes and leaves behind.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use wait4::{ResourceUsage, Wait4 as _};

use super::{Hostile, Want};

/// After this long hull is ended, and the answer is that there was none.
const PATIENCE: Duration = Duration::from_secs(120);
const NAP: Duration = Duration::from_millis(1);
/// As much of what was said as is kept.
const MAX_SAID_BYTES: u64 = 4096;

/// What hull answered, and what it took.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The file's name in the table.
    pub name: &'static str,
    /// What the file is.
    pub what: &'static str,
    /// What hull must say where it must refuse.
    pub wanted: Option<&'static str>,
    /// The exit code; `None` where a signal ended it.
    pub exit: Option<i32>,
    /// What was said on stderr, escaped, on one line.
    pub said: String,
    /// Processor time.
    pub cpu: Duration,
    /// The most memory it had at one time.
    pub peak_bytes: u64,
    /// What is wrong with that; nothing where all is right.
    pub wrong: Vec<String>,
}

/// Gives the file to the program at `hull`, in the empty folder `folder`.
pub(super) fn run(hostile: &Hostile, hull: &Path, folder: &Path) -> io::Result<Answer> {
    for (name, content) in &hostile.files {
        content.write(&folder.join(name))?;
    }
    let out = folder.join("out");
    fs::create_dir(&out)?;
    let said = folder.join("said");
    let mut command = Command::new(hull);
    let scratch = folder.join("scratch");
    fs::create_dir(&scratch)?;
    command.args(hostile.arguments()).current_dir(folder);
    command.env("HULL_HOME", folder.join("home")).env("TMPDIR", &scratch);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said)?);
    let (status, taken) = wait(command.spawn()?)?;
    let left = fs::read_dir(&out)?.chain(fs::read_dir(&scratch)?);
    let left = left.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let left = left.collect::<io::Result<Vec<_>>>()?;
    let mut text = Vec::new();
    File::open(&said)?.take(MAX_SAID_BYTES).read_to_end(&mut text)?;
    Ok(judge(hostile, status, &text, taken, &left))
}

/// Waits for the end, or makes one.
fn wait(mut child: Child) -> io::Result<(ExitStatus, ResourceUsage)> {
    let begin = Instant::now();
    loop {
        if let Some(ended) = child.try_wait4()? {
            return Ok((ended.status, ended.rusage));
        }
        if begin.elapsed() > PATIENCE {
            child.kill()?;
            let ended = child.wait4()?;
            return Ok((ended.status, ended.rusage));
        }
        std::thread::sleep(NAP);
    }
}

fn judge(
    hostile: &Hostile,
    status: ExitStatus,
    said: &[u8],
    taken: ResourceUsage,
    left: &[String],
) -> Answer {
    let said = String::from_utf8_lossy(said);
    let mut wrong = Vec::new();
    if let Some(signal) = status.signal() {
        wrong.push(format!("ended by signal {signal}"));
    }
    if said.chars().any(|c| c.is_control() && c != '\n') || said.contains('\u{fffd}') {
        wrong.push("control characters reached the terminal".to_owned());
    }
    if said.contains("panicked at") {
        wrong.push("it panicked".to_owned());
    }
    match (hostile.want, status.code()) {
        (Want::Accepted, Some(0)) => {
            if left != ["disk"] {
                wrong.push(format!("left {left:?}, wanted the disk"));
            }
        }
        (Want::Refused { says }, Some(1)) => {
            if !said.contains(says) {
                wrong.push(format!("does not say `{}`", says.escape_debug()));
            }
            if !left.is_empty() {
                wrong.push(format!("left {left:?} behind"));
            }
        }
        (_, Some(code)) => wrong.push(format!("exit code {code}")),
        (_, None) => {}
    }
    Answer {
        name: hostile.name,
        what: hostile.what,
        wanted: match hostile.want {
            Want::Accepted => None,
            Want::Refused { says } => Some(says),
        },
        exit: status.code(),
        said: printable(&said),
        cpu: taken.utime + taken.stime,
        peak_bytes: taken.maxrss,
        wrong,
    }
}

/// The text on one line, without anything that a terminal obeys.
fn printable(said: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    said.trim().replace('\n', "; ").chars().map(escape).collect()
}
