//! `console`: attach to a VM's serial console.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;

use rustix::termios::{self, OptionalActions, Termios};
use vm_runner::Vm;

use super::logs::Printer;
use crate::context::Context;
use crate::error::CommandError;
use crate::text;

/// Ctrl-], as telnet and virsh have it.
const DETACH: u8 = 0x1d;

/// Attach to a VM's serial console
///
/// On a terminal every key goes to the guest but Ctrl-], which detaches. What the guest writes then
/// reaches your terminal as it is, escape sequences included.
#[derive(Debug, clap::Args)]
pub(crate) struct ConsoleArgs {
    /// The VM's name
    name: String,
}

pub(crate) fn run(context: &Context, args: &ConsoleArgs) -> Result<(), CommandError> {
    let vm = super::running(context, &args.name)?;
    attach(&vm).map(drop)
}

/// How an attachment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attachment {
    /// The VM has ended.
    Ended,
    /// The person has detached.
    Detached,
}

/// Connects this terminal, or this pipe, to the guest's console until one of them ends it.
pub(super) fn attach(vm: &Vm) -> Result<Attachment, CommandError> {
    let mut output = UnixStream::connect(vm.folder.console_socket())?;
    let input = output.try_clone()?;
    let terminal = RawTerminal::enter()?;
    if terminal.is_some() {
        text::say("Attached; Ctrl-] detaches.\r");
    }
    let (sender, ended) = mpsc::channel();
    let on_detach = sender.clone();
    let is_terminal = terminal.is_some();
    // Blocked in a read of stdin when the VM ends, it goes with the process.
    thread::spawn(move || {
        if type_in(input, is_terminal) {
            let _ = on_detach.send(Ok(Attachment::Detached));
        }
    });
    thread::spawn(move || {
        let mut printer = Printer::new(is_terminal && io::stdout().is_terminal());
        let mut piece = [0; 16 << 10];
        let shown = loop {
            match output.read(&mut piece) {
                Ok(0) | Err(_) => break Ok(Attachment::Ended),
                Ok(read) => {
                    if let Err(error) = printer.print(&piece[..read]) {
                        break Err(error);
                    }
                }
            }
        };
        let _ = sender.send(shown);
    });
    let ended = ended.recv().expect("the printing thread reports before it ends");
    drop(terminal);
    Ok(ended?)
}

/// Sends what is typed to the guest. True if the person wants to detach.
fn type_in(mut guest: UnixStream, is_terminal: bool) -> bool {
    let mut keys = [0; 1024];
    let mut stdin = io::stdin().lock();
    while let Ok(read @ 1..) = stdin.read(&mut keys) {
        let keys = &keys[..read];
        let detach = if is_terminal { keys.iter().position(|key| *key == DETACH) } else { None };
        if guest.write_all(&keys[..detach.unwrap_or(keys.len())]).is_err() {
            return false;
        }
        if detach.is_some() {
            return true;
        }
    }
    false
}

/// The terminal in raw mode; back to what it was when this is dropped.
#[derive(Debug)]
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` where stdin is no terminal.
    fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing is left to do about a terminal that does not take it.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
