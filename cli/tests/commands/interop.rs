//! Other programs' clients at our registry, and `hull` at another's registry.
//!
//! skopeo, podman, buildah and umoci are Debian's. Which versions were tried, and how each is told of a
//! registry, is written in docs/interop.md.

mod appliances;
mod artifacts;
mod images;
mod indexes;
mod machine;
mod push_and_pull;
mod tls;
mod users;

use crate::support::Host;
use crate::support::cable::Cable;
use crate::support::registry::Registry;

/// Our registry, and a cable to it that counts.
#[derive(Debug)]
struct Served {
    _registry: Registry,
    _host: Host,
    cable: Cable,
}

impl Served {
    fn start() -> Self {
        let host = Host::new();
        let registry = Registry::start(&host);
        let cable = Cable::to(&registry.address);
        Self { _registry: registry, _host: host, cable }
    }

    /// Where it is reached, as in references.
    fn address(&self) -> &str {
        &self.cable.address
    }

    /// How many bytes are sent to it during `work`.
    fn sent_by<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        let before = self.cable.sent();
        let done = work();
        (done, self.cable.sent() - before)
    }

    /// How many bytes come from it during `work`.
    fn carried_by<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        let before = self.cable.carried();
        let done = work();
        (done, self.cable.carried() - before)
    }
}
