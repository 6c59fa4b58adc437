//! `rm`: remove VMs and everything their guests wrote to overlay disks.

use vm_runner::control::Request;

use crate::context::Context;
use crate::error::CommandError;
use crate::text;

/// Remove VMs, and what their guests wrote to disks of the image
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// The VMs' names
    #[arg(required = true)]
    names: Vec<String>,
    /// End VMs that run
    #[arg(long, short)]
    force: bool,
}

pub(crate) fn run(context: &Context, args: &RmArgs) -> Result<(), CommandError> {
    let vms = context.vms()?;
    for name in &args.names {
        let vm = vms.get(name)?;
        if args.force && vm.state.status.is_alive() {
            super::end(&vms, &vm, &Request::Kill)?;
        }
        vms.remove(name)?;
        text::result(name);
    }
    Ok(())
}
