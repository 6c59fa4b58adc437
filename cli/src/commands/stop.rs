//! `stop`: let guests shut down.

use vm_runner::control::{Answer, Request};

use crate::context::Context;
use crate::error::CommandError;
use crate::text;

/// Shut VMs down
///
/// Presses the guest's power button; a guest that has not shut down in time is ended.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// The VMs' names
    #[arg(required = true)]
    names: Vec<String>,
    /// Time for the guest, in seconds
    #[arg(long, short, default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=86_400))]
    time: u64,
}

pub(crate) fn run(context: &Context, args: &StopArgs) -> Result<(), CommandError> {
    let vms = context.vms()?;
    for name in &args.names {
        let vm = vms.get(name)?;
        if vm.state.status.is_alive() {
            let answer = super::end(&vms, &vm, &Request::Stop { timeout_s: args.time })?;
            if answer == (Answer::Ended { by_itself: false }) {
                text::say(format_args!("{name} did not shut down in {} s and was ended", args.time));
            }
        }
        text::result(name);
    }
    Ok(())
}
