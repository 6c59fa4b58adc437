//! What this host is, to an appliance: its platform, its name, its day.

use appliance::Policy;
use vm_runner::{Circumstances, unix_now_s};

use crate::error::{CommandError, Exit};

/// What this host's processor can run at speed, as OCI names it.
pub(crate) fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{arch}")
}

/// Asks the appliance's policy whether it may run here today.
pub(crate) fn admit(policy: &Policy) -> Result<(), CommandError> {
    let system = rustix::system::uname();
    let circumstances =
        Circumstances { host: &system.nodename().to_string_lossy(), today: &vm_runner::day_of(unix_now_s()) };
    vm_runner::admit(policy, circumstances).map_err(|refusal| {
        CommandError::from_error(Exit::Refused, refusal)
            .hint("its author wrote so, under `policy` in hull.toml; only another version of it can differ")
    })
}
