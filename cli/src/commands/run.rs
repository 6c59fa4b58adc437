//! `run`: make a VM from an appliance and start it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;

use appliance::{Digest, Reference};
use packer::Contents;
use vm_runner::{
    AccelRequest, PublishAt, Spec, VmError, VmFolder, VmLock, Vms, free_name, new_id, unix_now_s,
};

use super::{pull, start};
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::host;
use crate::text;

/// Make a VM from an appliance and start it
///
/// An appliance that is not in the local store is pulled first. The VM's firewall is in force before
/// its first instruction. In the foreground, the terminal is the guest's console.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The appliance, as `[HOST[:PORT]/]NAME[:TAG|@DIGEST]`
    reference: Reference,
    /// Return when the appliance is ready
    #[arg(long, short)]
    detach: bool,
    /// The VM's name [default: the machine's, with a number if that is taken]
    #[arg(long)]
    name: Option<String>,
    /// The machine to run, of an appliance with several
    #[arg(long)]
    machine: Option<String>,
    /// What executes the guest
    #[arg(long, value_enum, default_value_t)]
    accel: AccelArg,
    /// Publish a port that the firewall lets in elsewhere than the image says
    #[arg(long, short, value_name = "[ADDR:]PORT:GUEST-PORT")]
    publish: Vec<PublishArg>,
    /// Remove the VM when it has ended
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
}

/// What executes the guest.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub(crate) enum AccelArg {
    /// The processor where KVM really works, else a translator
    #[default]
    Auto,
    /// The processor, by KVM; fails where there is none
    Kvm,
    /// A translator; slow, works everywhere
    Tcg,
}

/// `[ADDR:]PORT:GUEST-PORT`, as docker has it; the address is 127.0.0.1 unless written.
#[derive(Debug, Clone, Copy)]
struct PublishArg(PublishAt);

impl FromStr for PublishArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is not [ADDR:]PORT:GUEST-PORT, such as 8080:80 or 0.0.0.0:8080:80");
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wanted);
        let (host, guest_port) = text.rsplit_once(':').ok_or_else(wanted)?;
        let host = match host.rsplit_once(':') {
            Some((address, host_port)) => {
                let address = address.trim_start_matches('[').trim_end_matches(']');
                SocketAddr::new(address.parse::<IpAddr>().map_err(|_| wanted())?, port(host_port)?)
            }
            None => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port(host)?),
        };
        Ok(Self(PublishAt { host, guest_port: port(guest_port)? }))
    }
}

pub(crate) fn run(context: &Context, args: &RunArgs) -> Result<ExitCode, CommandError> {
    let vms = context.vms()?;
    let store = context.store()?;
    let hold = store.hold()?;
    let contents = Contents::read(&store, &resolve(context, &args.reference)?)?;
    let platform = contents.platform(&host::platform())?;
    let machine = choose_machine(platform, args.machine.as_deref())?;
    let publish: Vec<_> = args.publish.iter().map(|publish| publish.0).collect();
    host::admit(&platform.policy)?;
    // What cannot be is said now, not by a VM that has failed.
    let mut firewall = platform.policy.machine(machine).firewall;
    vm_runner::publish_at(&mut firewall, &publish).map_err(|error| {
        CommandError::from_error(Exit::Refused, error)
            .hint("`hull inspect` shows what the appliance's firewall lets in; nothing else can be published")
    })?;
    let mut spec = Spec {
        name: args.name.clone().unwrap_or_else(|| machine.to_owned()),
        id: new_id(),
        reference: args.reference.clone(),
        manifest: platform.manifest_blob.digest,
        machine: machine.to_owned(),
        accel: args.accel.into(),
        publish,
        created_unix_s: unix_now_s(),
    };
    let (folder, lock) = create(&vms, &mut spec, args.name.is_none())?;
    drop(hold);
    let started = start::start(context, &spec, &folder, lock, args.detach);
    if started.is_err() && folder.state().is_ok_and(|state| !state.has_run) {
        // Its guest never ran, so nothing is lost with it, and its name is free again. Whatever stops
        // its removal, the first error is the one to tell.
        let _ = vms.remove(&spec.name);
    }
    let exit = started?;
    if args.rm {
        vms.remove(&spec.name)?;
    }
    Ok(exit)
}

/// Makes the VM's folder; where nobody chose its name, under another one if that is taken.
fn create(vms: &Vms, spec: &mut Spec, may_rename: bool) -> Result<(VmFolder, VmLock), CommandError> {
    loop {
        match vms.create(spec) {
            Err(VmError::NameTaken { .. }) if may_rename => {
                spec.name = free_name(&spec.machine, &vms.list()?);
            }
            created => return Ok(created?),
        }
    }
}

/// The index that `reference` names; pulled if it is not here.
fn resolve(context: &Context, reference: &Reference) -> Result<Digest, CommandError> {
    let store = context.store()?;
    match store.resolve(reference) {
        Err(blob_store::LocalStoreError::UnknownReference { .. }) if reference.host().is_some() => {
            text::say(format_args!("{reference} is not in the local store; pulling it."));
            pull::pull(context, reference)?;
            Ok(store.resolve(reference)?)
        }
        resolved => Ok(resolved?),
    }
}

fn choose_machine<'a>(platform: &'a packer::Platform, wanted: Option<&str>) -> Result<&'a str, CommandError> {
    let machines = &platform.config.machines;
    let names: Vec<_> = machines.iter().map(|machine| machine.name.as_str()).collect();
    match (wanted, names.as_slice()) {
        (Some(wanted), names) => names.iter().find(|name| **name == wanted).copied().ok_or_else(|| {
            let message = format!("the appliance has no machine `{wanted}`; it has {}", names.join(", "));
            CommandError::new(Exit::NotFound, message).hint("choose one of them with `--machine`")
        }),
        (None, [only]) => Ok(only),
        (None, names) => {
            let message = format!("the appliance has several machines: {}", names.join(", "));
            Err(CommandError::new(Exit::Usage, message).hint("choose one with `--machine`"))
        }
    }
}

impl From<AccelArg> for AccelRequest {
    fn from(accel: AccelArg) -> Self {
        match accel {
            AccelArg::Auto => Self::Auto,
            AccelArg::Kvm => Self::Kvm,
            AccelArg::Tcg => Self::Tcg,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_published_on_loopback_unless_an_address_is_written() {
        for (text, want) in [
            ("8080:80", Some(("127.0.0.1:8080", 80))),
            ("0.0.0.0:8080:80", Some(("0.0.0.0:8080", 80))),
            ("[::1]:8080:80", Some(("[::1]:8080", 80))),
            ("80", None),
            ("0:80", None),
            ("8080:70000", None),
            ("host:8080:80", None),
        ] {
            let parsed = text
                .parse::<PublishArg>()
                .ok()
                .map(|publish| (publish.0.host.to_string(), publish.0.guest_port));
            assert_eq!(parsed, want.map(|(host, port)| (host.to_owned(), port)), "{text}");
        }
    }
}
