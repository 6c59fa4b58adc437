//! `supervise`: the process that a VM has while it runs. Started by `run` and `start`, never by a
//! person.
//!
//! Its stdin is the VM's lock, its stdout is heard by whoever started it, its stderr is a log.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use packer::Platform;
use vm_runner::net::{NetError, ProgramError};
use vm_runner::{Launch, LaunchError, Qemu, SuperviseError, VmFolder};

use super::start::Told;
use crate::context::Context;
use crate::environment;
use crate::error::{CommandError, Exit, OrExit as _};

/// Run a VM until it has ended (started by `run` and `start`)
#[derive(Debug, clap::Args)]
pub(crate) struct SuperviseArgs {
    /// The VM's folder
    folder: PathBuf,
}

pub(crate) fn run(context: &Context, args: &SuperviseArgs) -> Result<ExitCode, CommandError> {
    vm_runner::close_inherited_files();
    // The terminal that started the VM may go; the VM stays. Refused only to a leader, who needs none.
    let _ = rustix::process::setsid();
    let supervised = prepare(context, args).and_then(|launch| {
        let qemu = Qemu::find(launch.machine.arch, &environment::search_path())
            .map_err(|error| CommandError::from_error(Exit::NotStarted, error).hint(INSTALL))?;
        vm_runner::supervise(launch, &qemu, |event| tell(&Told::Event(event.clone()))).map_err(Into::into)
    });
    match supervised {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            tell(&Told::Error { message: crate::text::chain(&error), hint: error.hint.clone() });
            Err(error)
        }
    }
}

fn prepare(context: &Context, args: &SuperviseArgs) -> Result<Launch, CommandError> {
    let (folder, spec) = VmFolder::open(&args.folder, &context.runtime)?;
    let store = context.store()?;
    let platform = Platform::open(&store, &spec.manifest)?;
    let machine = platform.config.machine(&spec.machine).cloned().ok_or_else(|| {
        CommandError::new(Exit::NotFound, format_args!("the appliance has no machine `{}`", spec.machine))
    })?;
    let mut policy = platform.policy.machine(&spec.machine);
    vm_runner::publish_at(&mut policy.firewall, &spec.publish).or_exit(Exit::Refused)?;
    let disks = machine
        .disks
        .iter()
        .map(|disk| registry_client::open_disk(&store, &platform.manifest, &disk.name).map(Arc::from))
        .collect::<Result<_, _>>()?;
    let volumes = context.home.join("volumes").join(&spec.name);
    Ok(Launch { folder, spec, machine, policy, disks, volumes })
}

/// What to do about a program that is missing.
const INSTALL: &str = "install it, or add the folder it is in to PATH";

/// Tells whoever listens. Once the VM is ready nobody does any more.
fn tell(told: &Told) {
    let line = serde_json::to_string(told).expect("our own types serialise");
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

impl From<SuperviseError> for CommandError {
    fn from(error: SuperviseError) -> Self {
        let hint = match &error {
            SuperviseError::Launch(LaunchError::Accel(_)) => {
                Some("`--accel auto` falls back to a translator")
            }
            SuperviseError::Launch(LaunchError::VolumeOwner { .. }) => {
                Some("choose another `--name`, or move the volumes away")
            }
            SuperviseError::Launch(LaunchError::VolumeSize { .. }) => {
                Some("`qemu-img resize` changes a volume's size")
            }
            SuperviseError::Launch(LaunchError::Network(error)) => match error {
                NetError::Publish(_) => Some("`--publish` chooses another address or port of this host"),
                NetError::NeedsRoot { .. } => {
                    Some("root has a store of its own, unless HULL_HOME says where this one is")
                }
                NetError::Program(ProgramError::Missing { .. }) => Some(INSTALL),
                _ => None,
            },
            _ => None,
        };
        let error = Self::from_error(Exit::NotStarted, error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
