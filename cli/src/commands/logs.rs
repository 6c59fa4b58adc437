//! `logs`: what a VM's guest wrote to its console.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use rustix::fs::inotify;
use vm_runner::Vm;

use crate::context::Context;
use crate::error::CommandError;

/// Print what a VM's guest wrote to its console
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The VM's name
    name: String,
    /// Go on as the guest writes more, until it ends
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines
    #[arg(long, short = 'n', value_name = "LINES")]
    tail: Option<usize>,
    /// Print control characters as the guest wrote them; they may drive your terminal
    #[arg(long)]
    raw: bool,
    /// What the supervisor said instead of the guest
    #[arg(long, conflicts_with = "follow")]
    supervisor: bool,
}

pub(crate) fn run(context: &Context, args: &LogsArgs) -> Result<(), CommandError> {
    let vms = context.vms()?;
    let vm = vms.get(&args.name)?;
    let path = if args.supervisor { vm.folder.supervisor_log() } else { vm.folder.serial_log() };
    let mut log = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut printer = Printer::new(args.raw);
    let mut content = Vec::new();
    log.read_to_end(&mut content)?;
    printer.print(last_lines(&content, args.tail))?;
    if args.follow {
        follow(&vm, &mut log, &mut printer)?;
    }
    Ok(())
}

/// The part of `content` that holds its last `lines` lines.
fn last_lines(content: &[u8], lines: Option<usize>) -> &[u8] {
    let Some(lines) = lines else { return content };
    let body = content.strip_suffix(b"\n").unwrap_or(content);
    let newlines = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match (lines, newlines.map(|(at, _)| at + 1).nth(lines.saturating_sub(1))) {
        (0, _) => &[],
        (_, Some(start)) => &content[start..],
        (_, None) => content,
    }
}

/// Prints what is added to the log, until the VM has ended.
fn follow(vm: &Vm, log: &mut File, printer: &mut Printer) -> Result<(), CommandError> {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
    // The state file is replaced when the VM ends; the log grows or is replaced by a new one.
    let interesting =
        inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CREATE;
    inotify::add_watch(&inotify, vm.folder.path(), interesting).map_err(io::Error::from)?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&inotify, &mut buffer);
    loop {
        let ended = !vm.folder.state()?.status.is_alive();
        let mut added = Vec::new();
        log.read_to_end(&mut added)?;
        printer.print(&added)?;
        if std::fs::metadata(vm.folder.serial_log())?.len() < log.stream_position()? {
            *log = File::open(vm.folder.serial_log())?;
            log.seek(SeekFrom::Start(0))?;
            continue;
        }
        if ended {
            return Ok(());
        }
        events.next().map_err(io::Error::from)?;
    }
}

/// Prints a guest's output, without what would drive the terminal unless that is wanted.
#[derive(Debug)]
pub(super) struct Printer {
    raw: bool,
    state: State,
}

/// Where in an escape sequence the output is. ECMA-48, sections 5.3 and 5.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    Escape,
    Control,
    String,
}

impl Printer {
    /// A printer that leaves escape sequences and control characters out, unless `raw`.
    pub(super) fn new(raw: bool) -> Self {
        Self { raw, state: State::Text }
    }

    /// Prints the next piece of the output.
    pub(super) fn print(&mut self, output: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.raw {
            stdout.write_all(output)?;
        } else {
            let kept: Vec<u8> = output.iter().copied().filter(|byte| self.keeps(*byte)).collect();
            stdout.write_all(&kept)?;
        }
        stdout.flush()
    }

    fn keeps(&mut self, byte: u8) -> bool {
        let (state, keep) = match (self.state, byte) {
            (State::Text, 0x1b) => (State::Escape, false),
            (State::Text, b'\n' | b'\t') => (State::Text, true),
            (State::Text, _) => (State::Text, byte >= 0x20 && byte != 0x7f),
            (State::Escape, b'[') => (State::Control, false),
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (State::String, false),
            (State::Escape, 0x20..=0x2f) => (State::Escape, false),
            (State::Control, 0x20..=0x3f) => (State::Control, false),
            (State::String, 0x1b) => (State::Escape, false),
            (State::String, byte) if byte != 0x07 && byte != b'\n' => (State::String, false),
            _ => (State::Text, byte == b'\n'),
        };
        self.state = state;
        keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(output: &[u8], want: &str) {
        let mut printer = Printer::new(false);
        let kept = output.iter().copied().filter(|byte| printer.keeps(*byte)).collect();
        assert_eq!(String::from_utf8(kept).unwrap(), want);
    }

    #[test]
    fn escape_sequences_are_left_out() {
        check(b"a\x1b[31mred\x1b[0m b\r\n", "ared b\n");
        check(b"\x1b]0;title\x07text", "text");
        check(b"\x1b]52;c;AAAA\x1b\\text", "text");
        check(b"\x1bcgone \x1b(Btext", "gone text");
        check(b"bell\x07 back\x08 del\x7f", "bell back del");
        check("grüße\n".as_bytes(), "grüße\n");
    }

    #[test]
    fn the_tail_is_whole_lines() {
        for (lines, want) in [
            (None, "a\nb\nc\n"),
            (Some(0), ""),
            (Some(1), "c\n"),
            (Some(2), "b\nc\n"),
            (Some(9), "a\nb\nc\n"),
        ] {
            assert_eq!(last_lines(b"a\nb\nc\n", lines), want.as_bytes());
        }
    }
}
