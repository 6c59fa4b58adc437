//! `kill`: end VMs at once.

use vm_runner::control::Request;

use crate::context::Context;
use crate::error::CommandError;
use crate::text;

/// End VMs at once, like pulling the plug
#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// The VMs' names
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) fn run(context: &Context, args: &KillArgs) -> Result<(), CommandError> {
    let vms = context.vms()?;
    for name in &args.names {
        let vm = vms.get(name)?;
        if vm.state.status.is_alive() {
            super::end(&vms, &vm, &Request::Kill)?;
        }
        text::result(name);
    }
    Ok(())
}
