//! A VM's network: closed before it exists, opened as far as its policy says, gone with the VM.
//!
//! Each VM has a network namespace of its own, with the guest's tap, the policy's rules in nft, a DHCP
//! server for that one guest, and an uplink if the policy lets it reach anybody. Published ports
//! are relayed: the host listens, hull connects to the guest from inside the namespace.
//!
//! ```text
//! ports opened -> namespace -> deny all -> tap -> uplink -> policy loaded, read back -> tap up -> DHCP, relay
//!      `--------------------- an error anywhere undoes everything before it ----------------------'
//! ```
//!
//! Everything is named after the VM's id and lives in the kernel, so [`Network::cleanup`] can remove it after
//! whoever made it was killed. Never: a process inside the namespace, a guest's packet before the
//! policy is in force, a change to rules of the host that are not ours. For now this needs root.

mod connector;
mod dhcp;
mod error;
mod host;
mod layout;
mod namespace;
mod program;
mod relay;
mod services;
mod tap;
#[cfg(test)]
mod tests;
mod uplink;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use appliance::policy::{MachinePolicy, Mode};
use firewall::nft::{self, Counters, InterfaceName, Interfaces, MacAddress};
use firewall::{Compiled, Direction, Environment, Gate, Notice, Resolver};

pub use self::connector::GuestConnector;
pub use self::error::NetError;
use self::host::HostLock;
pub use self::layout::guest_mac;
use self::layout::{GATEWAY_MAC, Names, PREFIX, TAP, UPLINK};
use self::namespace::Namespace;
pub use self::program::ProgramError;
use self::relay::Ports;
pub use self::relay::{PublishError, PublishedCounters};
use self::services::{Services, offer};

/// What a VM's network is to be.
#[derive(Debug, Clone, Copy)]
pub struct NetworkSpec<'a> {
    /// The VM's id, unique on the host: 1 to 64 letters, digits, `-`, `_` and `.`, starting with a
    /// letter or digit.
    pub vm: &'a str,
    /// The hardware address of the guest's network card; no other is heard.
    pub mac: MacAddress,
    /// The name that DHCP offers to the guest: 1 to 63 letters, digits and `-`.
    pub host_name: Option<&'a str>,
    /// The machine's policy, already narrowed to what the host allows.
    pub policy: &'a MachinePolicy,
    /// Whether this host enforces the policy or only counts what it would drop.
    pub mode: Mode,
}

/// A VM's network, ready for the guest. Dropping it removes it.
#[derive(Debug)]
pub struct Network {
    tap: OwnedFd,
    namespace: Namespace,
    environment: Environment,
    compiled: Compiled,
    services: Services,
    // After everything that uses the namespace.
    place: Place,
}

/// Everything of a VM's that is in the kernel under a name; dropping this removes it.
#[derive(Debug)]
struct Place {
    names: Names,
    is_removed: bool,
}

impl Network {
    /// Sets up a network, in the order of the module's picture. When this returns, the policy is in
    /// force, and the tap waits for QEMU.
    ///
    /// # Errors
    ///
    /// [`NetError`]; then nothing is left of it.
    pub fn create(spec: &NetworkSpec<'_>) -> Result<Self, NetError> {
        check_host()?;
        let names = Names::of(spec.vm).ok_or_else(|| NetError::bad_id(spec.vm))?;
        let interfaces = host::interfaces()?;
        let environment = Environment {
            mode: spec.mode,
            host_addresses: host::addresses(&interfaces),
            ..Environment::for_machine(spec.policy)
        };
        let compiled = firewall::compile(&spec.policy.firewall, &environment).map_err(NetError::Policy)?;
        let ports = Ports::open(&spec.policy.firewall)?;
        let mtu = host::mtu_of_way_out()?;

        let place = Place::take(names)?;
        let namespace =
            Namespace::open(&place.names.namespace).map_err(NetError::io("open the network namespace"))?;
        let tap = inside(&namespace, close_and_plug_in)?;
        if reaches_out(spec, &compiled) {
            uplink::create(&place.names, &namespace, mtu)?;
        } else {
            uplink::create_dead_end(&namespace)?;
        }
        let interfaces = Interfaces { tap: name(TAP), uplink: name(UPLINK), guest_mac: spec.mac };
        inside(&namespace, || enforce(&compiled, &interfaces))?;
        inside(&namespace, || connect_guest(spec.mac, &environment, mtu))?;

        let offer = offer(spec, &environment, mtu);
        let gate = Gate::new(&spec.policy.firewall, &environment);
        let services = Services::start(&namespace, offer, ports, gate)?;
        Ok(Self { tap, namespace, environment, compiled, services, place })
    }

    /// The tap, for `-netdev tap,fd=N,vhost=off`. It carries virtio-net headers.
    pub fn tap(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    /// What the policy asks and this host does not do.
    pub fn notices(&self) -> &[Notice] {
        self.compiled.notices()
    }

    /// What the rules let pass and dropped since they were loaded.
    ///
    /// # Errors
    ///
    /// [`NetError::Program`] and [`NetError::Counters`] where nft does not say.
    pub fn counters(&self) -> Result<Counters, NetError> {
        let listing =
            inside(&self.namespace, || Ok(program::nft_query("list the counters", &nft::LIST_COUNTERS)?))?;
        nft::parse_counters(&listing).map_err(NetError::Counters)
    }

    /// A way to talk to the guest.
    pub fn connector(&self) -> GuestConnector {
        GuestConnector { namespace: self.namespace.clone(), guest: self.environment.network.guest }
    }

    /// What the published ports have let in and turned away, rule by rule.
    pub fn published(&self) -> Vec<PublishedCounters> {
        self.services.published()
    }

    /// Removes the network and says what went wrong, which dropping it cannot.
    ///
    /// # Errors
    ///
    /// [`NetError`] where something may be left; [`Network::cleanup`] can be tried later.
    pub fn remove(mut self) -> Result<(), NetError> {
        self.services.end();
        self.place.remove()
    }

    /// Removes whatever there is of the network of a VM that runs no more; all is well if there is
    /// nothing. Whoever calls it makes sure that no QEMU and no supervisor of that VM lives.
    ///
    /// # Errors
    ///
    /// [`NetError`] where something may be left.
    pub fn cleanup(vm: &str) -> Result<(), NetError> {
        remove(&Names::of(vm).ok_or_else(|| NetError::bad_id(vm))?)
    }

    /// The ids of all VMs on this host that have a network, running or not.
    ///
    /// # Errors
    ///
    /// Where `/run/netns` cannot be read.
    pub fn list() -> io::Result<Vec<String>> {
        let names = namespace::names()?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(PREFIX)).map(str::to_owned).collect())
    }
}

/// Tries every step, whatever became of those before it, and returns the first error.
fn remove(names: &Names) -> Result<(), NetError> {
    if let Ok(namespace) = Namespace::open(&names.namespace) {
        // A descriptor of the tap that somebody still holds would keep the device. Where it cannot be
        // deleted it is gone already, as a rule; if not, it goes with the namespace.
        let unplug = || drop(program::ip("unplug the guest", &["link", "delete", TAP]));
        drop(namespace.enter(unplug));
    }
    // Held from the first step to the last, so that whoever has the lock sees all of a network or nothing.
    let lock = HostLock::take().map_err(NetError::io("lock the host's network"));
    let uplink = uplink::remove(names).map_err(NetError::from);
    let namespace = namespace::delete(&names.namespace).map_err(NetError::from);
    let way_out = lock.and_then(|lock| lock.close_way_out_if_unused());
    uplink.and(namespace).and(way_out)
}

fn check_host() -> Result<(), NetError> {
    let user = rustix::process::geteuid();
    if !user.is_root() {
        return Err(NetError::NeedsRoot { uid: user.as_raw() });
    }
    if !Path::new(tap::DEVICE).exists() {
        return Err(NetError::NoTun);
    }
    Ok(program::check_installed()?)
}

/// True if the machine may reach anybody beyond its namespace.
fn reaches_out(spec: &NetworkSpec<'_>, compiled: &Compiled) -> bool {
    let to_others = compiled.allows(Direction::Egress).iter().any(|allow| !allow.peers.is_empty());
    to_others || spec.policy.firewall.icmp.ping_out || spec.mode == Mode::Audit
}

impl Place {
    /// Makes the namespace, under a name that nobody has.
    fn take(names: Names) -> Result<Self, NetError> {
        if namespace::exists(&names.namespace) {
            return Err(NetError::Exists { namespace: names.namespace });
        }
        namespace::create(&names.namespace)?;
        Ok(Self { names, is_removed: false })
    }

    fn remove(&mut self) -> Result<(), NetError> {
        self.is_removed = true;
        remove(&self.names)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_removed {
            // Nobody is left to tell; what stays behind is found by its name and removed by `Network::cleanup`.
            drop(self.remove());
        }
    }
}

/// Runs `work` in a namespace.
fn inside<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> Result<T, NetError> + Send,
) -> Result<T, NetError> {
    namespace.enter(work).map_err(NetError::io("enter the network namespace"))?
}

/// Closes the namespace of the calling thread, and makes the tap, which stays down.
fn close_and_plug_in() -> Result<OwnedFd, NetError> {
    program::nft_load("close the network namespace", &nft::deny_all())?;
    for family in ["all", "default"] {
        namespace::set_if_present(&format!("net/ipv6/conf/{family}/disable_ipv6"), "1")
            .map_err(NetError::io("keep IPv6 out of the network namespace"))?;
    }
    tap::create(TAP).map_err(NetError::io("create the tap device"))
}

/// Loads the policy into the namespace of the calling thread, and makes sure that it is there.
fn enforce(compiled: &Compiled, interfaces: &Interfaces) -> Result<(), NetError> {
    for (setting, value) in firewall::sysctls(interfaces) {
        namespace::set(&setting, value).map_err(NetError::io("configure the network namespace"))?;
    }
    program::nft_load("load the policy's rules", &nft::ruleset(compiled, interfaces))?;
    let listing = program::nft_query("list the rules", &nft::LIST_RULESET)?;
    nft::verify(compiled, interfaces, &listing).map_err(NetError::NotInForce)
}

/// Brings the tap up, in the namespace of the calling thread, with the gateway's addresses on it.
fn connect_guest(mac: MacAddress, environment: &Environment, mtu: u16) -> Result<(), NetError> {
    let firewall::Network { subnet, guest, gateway, resolver } = environment.network;
    let length = subnet.prefix_len();
    let mut commands = vec![
        format!("link set {TAP} address {GATEWAY_MAC} mtu {mtu}"),
        format!("address add {gateway}/{length} dev {TAP}"),
        format!("link set {TAP} up"),
        // Known for good, so that nothing has to be asked of the guest, and nothing it says is believed.
        format!("neighbour replace {guest} lladdr {mac} nud permanent dev {TAP}"),
    ];
    if environment.resolver != Resolver::Absent {
        commands.push(format!("address add {resolver}/{length} dev {TAP}"));
    }
    Ok(program::ip_batch("set up the guest's link", &commands.join("\n"))?)
}

fn name(interface: &str) -> InterfaceName {
    interface.parse().expect("our names are names of interfaces")
}
