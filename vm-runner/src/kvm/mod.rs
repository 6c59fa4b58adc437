//! Whether `/dev/kvm` can run a guest, and so which accelerator a machine gets.
//!
//! That the device opens proves nothing: there are hosts where it does, where virtual machines and
//! processors can be made, and where a stock guest is interpreted or stops at its first breakpoint.
//! So the [`probe`] runs a small program that does what every operating system does, and believes
//! nothing else. The guest has 100 ms and is stopped then; a kernel that is slow to set a machine up, on
//! an overloaded host, is waited for longer. It never needs more rights than to open the device.

#[cfg(target_arch = "x86_64")]
mod guest;
mod probe;

use appliance::Arch;
use serde::{Deserialize, Serialize};

use crate::engine::Accel;

pub use probe::{KvmUnusable, open, probe};

/// Which accelerator the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelRequest {
    /// KVM where the probe passes, TCG otherwise.
    #[default]
    Auto,
    /// KVM, whatever the probe would say.
    Kvm,
    /// TCG.
    Tcg,
}

/// An accelerator, and why this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccelChoice {
    /// The accelerator.
    pub accel: Accel,
    /// One clause for people, such as `the guest is arm64 and this host amd64`.
    pub reason: String,
}

/// Picks the accelerator for a guest of architecture `guest`.
///
/// # Errors
///
/// [`KvmUnusable`], and only for [`AccelRequest::Kvm`]: the device cannot be opened, or the guest is
/// of another architecture.
pub fn choose(request: AccelRequest, guest: Arch) -> Result<AccelChoice, KvmUnusable> {
    let host = host_arch();
    let foreign = KvmUnusable::ForeignGuest { guest: guest.as_str(), host: std::env::consts::ARCH };
    let chosen = |accel, reason: &str| AccelChoice { accel, reason: reason.into() };
    match request {
        AccelRequest::Tcg => Ok(chosen(Accel::Tcg, "as asked for")),
        AccelRequest::Kvm if host != Some(guest) => Err(foreign),
        AccelRequest::Kvm => open().map(|_| chosen(Accel::Kvm, "as asked for, without a test")),
        AccelRequest::Auto if host != Some(guest) => Ok(chosen(Accel::Tcg, &foreign.to_string())),
        AccelRequest::Auto => Ok(match probe() {
            Ok(()) => chosen(Accel::Kvm, "a test guest ran on /dev/kvm"),
            Err(unusable) => chosen(Accel::Tcg, &unusable.to_string()),
        }),
    }
}

/// The architecture this program was built for; `None` for one that no appliance has.
const fn host_arch() -> Option<Arch> {
    if cfg!(target_arch = "x86_64") {
        Some(Arch::Amd64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Arch::Arm64)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_guest_is_never_run_on_kvm() {
        let foreign = match host_arch() {
            Some(Arch::Amd64) => Arch::Arm64,
            _ => Arch::Amd64,
        };
        let choice = choose(AccelRequest::Auto, foreign).unwrap();
        assert_eq!(choice.accel, Accel::Tcg);
        assert!(choice.reason.starts_with("the guest is "), "{}", choice.reason);
        assert!(matches!(choose(AccelRequest::Kvm, foreign), Err(KvmUnusable::ForeignGuest { .. })));
    }

    #[test]
    fn what_is_asked_for_is_given_with_a_reason() {
        let Some(host) = host_arch() else { return };
        let tcg = choose(AccelRequest::Tcg, host).unwrap();
        assert_eq!((tcg.accel, tcg.reason.as_str()), (Accel::Tcg, "as asked for"));
        assert_eq!(choose(AccelRequest::Kvm, host).is_ok(), open().is_ok());
        let auto = choose(AccelRequest::Auto, host).unwrap();
        assert_eq!(auto.accel == Accel::Kvm, auto.reason == "a test guest ran on /dev/kvm", "{auto:?}");
    }
}
