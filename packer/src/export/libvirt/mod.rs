//! libvirt: for each machine a domain and an nwfilter, one network for all, the disks as qcow2 beside them.
//!
//! The network is the appliance's own. That makes the addresses known that the filters need: the machine's, to which it
//! is pinned, and the host's in this network, which is closed unless a rule names the host.
//!
//! Source: libvirt's documentation, "Domain XML format", "Network XML format", "Network Filters"; its RNG schemas.

mod domain;
mod nwfilter;
mod xml;

use std::net::Ipv4Addr;
use std::path::Path;

use appliance::policy::DnsMode;
use appliance::{Digest, Machine, Nic};
use ipnet::Ipv4Net;

use super::loss::{Effect, LossReport};
use super::{Content, Plan, PlanError, Planned, PlannedDisk, Subject};
use formats::image::Target;
use xml::{Element, element};

/// Last octets, as every guest of hull knows them.
const GATEWAY: u8 = 2;
const FIRST_GUEST: u8 = 15;
const LAST_GUEST: u8 = 254;

/// Plans the export of `subject` to libvirt: a folder of documents for `virsh define` and its relatives, and disks,
/// written as `image`.
///
/// `folder` is where the folder will be, from the root: a domain names its disks by whole paths.
///
/// # Errors
///
/// [`PlanError::Folder`], [`PlanError::TooManyNics`].
pub fn libvirt(subject: &Subject<'_>, folder: &Path, image: Target) -> Result<Plan, PlanError> {
    let is_usable = |path: &&str| path.starts_with('/') && !path.contains(char::is_control);
    let folder =
        folder.to_str().filter(is_usable).ok_or_else(|| PlanError::Folder { path: folder.to_owned() })?;
    let mut report = LossReport::default();
    super::report_appliance(subject, &mut report);
    report_platform(&mut report);
    let network = Network::new(subject)?;
    let mut files = Vec::new();
    let mut add = |kind: &str, name: &str, root: &Element| {
        files.push((format!("{kind}-{name}.xml"), Content::Text(root.document())));
    };
    for root in network.documents() {
        add("network", &root.0, &root.1);
    }
    for machine in &subject.machines {
        let policy = subject.policy.machine(&machine.name);
        add("nwfilter", &machine.name, &nwfilter::of(subject, machine, &policy, &network, &mut report));
        add("domain", &machine.name, &domain::of(machine, &policy, &network, folder, &mut report));
    }
    for machine in &subject.machines {
        for disk in &machine.disks {
            let planned = PlannedDisk::OfAppliance { name: disk.name.clone() };
            files.push((domain::file_name(&disk.name), Content::Image { disk: planned, target: image }));
        }
        for volume in &machine.volumes {
            let planned = PlannedDisk::Empty { size_bytes: volume.size_bytes };
            files.push((domain::file_name(&volume.name), Content::Image { disk: planned, target: image }));
        }
    }
    Ok(Plan { output: Planned::Folder(files), report })
}

/// What libvirt does not promise, whatever a filter says.
///
/// Source: libvirt's `nwfilter_ebiptables_driver.c`: of the packets that go to a machine only bridged ones are matched.
fn report_platform(report: &mut LossReport) {
    for (effect, becomes) in [
        (
            Effect::Wider,
            "holds only where bridges ask iptables (sysctl net.bridge.bridge-nf-call-iptables=1), which libvirt does not see to",
        ),
        (
            Effect::Wider,
            "packets of the host, and those that it routes, get in whatever the rules say; answers to them do not get out",
        ),
        (
            Effect::Wider,
            "does not know the host's other addresses: an egress rule that covers one reaches the host's services there",
        ),
        (Effect::Narrower, "machines have IPv4 addresses only, and rules for IPv6 open nothing"),
    ] {
        report.notice(None, "firewall", effect, becomes);
    }
}

/// The appliance's networks.
#[derive(Debug)]
struct Network<'a> {
    appliance: &'a str,
    subnet: Ipv4Net,
    guests: Vec<Guest<'a>>,
    /// Networks between the machines, each once.
    private: Vec<&'a str>,
    asks_for_names: bool,
}

/// A NIC in the network that leads outside.
#[derive(Debug)]
struct Guest<'a> {
    machine: &'a str,
    nic: &'a str,
    address: Ipv4Addr,
}

impl<'a> Network<'a> {
    fn new(subject: &Subject<'a>) -> Result<Self, PlanError> {
        let appliance = subject.config.name.as_str();
        // Two appliances on one host should not ask for the same range.
        let hash = Digest::sha256(appliance.as_bytes()).hex();
        let octet = |n: usize| u8::from_str_radix(&hash[n..n + 2], 16).expect("a digest is hex digits");
        let base = [10, 128 | octet(0), octet(2), 0];
        let subnet = Ipv4Net::new_assert(base.into(), 24);
        let nics = |machine: &'a Machine| machine.nics.iter().map(move |nic| (machine, nic));
        let all: Vec<(&Machine, &Nic)> = subject.machines.iter().copied().flat_map(nics).collect();
        let outside = all.iter().filter(|(_, nic)| nic.network.is_none());
        let addresses =
            (FIRST_GUEST..=LAST_GUEST).map(|last| Ipv4Addr::from([base[0], base[1], base[2], last]));
        let guests: Vec<Guest<'_>> = outside
            .clone()
            .zip(addresses)
            .map(|((machine, nic), address)| Guest { machine: &machine.name, nic: &nic.name, address })
            .collect();
        let (count, most) = (outside.count(), usize::from(LAST_GUEST - FIRST_GUEST) + 1);
        if count > most {
            return Err(PlanError::TooManyNics { count, most });
        }
        let mut private: Vec<&str> = all.iter().filter_map(|(_, nic)| nic.network.as_deref()).collect();
        private.sort_unstable();
        private.dedup();
        let open =
            |machine: &&Machine| subject.policy.machine(&machine.name).firewall.dns.mode == DnsMode::Open;
        let asks_for_names = subject.machines.iter().any(open);
        Ok(Self { appliance, subnet, guests, private, asks_for_names })
    }

    /// What libvirt calls the network that leads outside, or the private one called `private`.
    fn name(&self, private: Option<&str>) -> String {
        match private {
            None => format!("hull-{}", self.appliance),
            Some(private) => format!("hull-{}-{private}", self.appliance),
        }
    }

    fn gateway(&self) -> Ipv4Addr {
        let [a, b, c, _] = self.subnet.network().octets();
        Ipv4Addr::from([a, b, c, GATEWAY])
    }

    fn address(&self, machine: &str, nic: &str) -> Option<Ipv4Addr> {
        self.guests
            .iter()
            .find(|guest| guest.machine == machine && guest.nic == nic)
            .map(|guest| guest.address)
    }

    /// The hardware address of a NIC: always the same, and in QEMU's range.
    fn mac(&self, machine: &str, nic: &str) -> String {
        let name = format!("{}/{machine}/{nic}", self.appliance);
        let hash = Digest::sha256(name.as_bytes()).hex();
        format!("52:54:00:{}:{}:{}", &hash[0..2], &hash[2..4], &hash[4..6])
    }

    /// Each network's short name and document.
    fn documents(&self) -> Vec<(String, Element)> {
        let mut documents = Vec::new();
        if !self.guests.is_empty() {
            documents.push((self.appliance.to_owned(), self.outside()));
        }
        documents.extend(self.private.iter().map(|private| {
            let root = element("network")
                .child(element("name").text(self.name(Some(private))))
                .child(element("bridge").with("stp", "on").with("delay", "0"));
            (format!("{}-{private}", self.appliance), root)
        }));
        documents
    }

    fn outside(&self) -> Element {
        let hosts = self.guests.iter().map(|guest| {
            element("host").with("mac", self.mac(guest.machine, guest.nic)).with("ip", guest.address)
        });
        let ip = element("ip")
            .with("address", self.gateway())
            .with("netmask", self.subnet.netmask())
            .child(element("dhcp").children(hosts));
        let dns = element("dns").with("enable", if self.asks_for_names { "yes" } else { "no" });
        element("network")
            .child(element("name").text(self.name(None)))
            .child(element("forward").with("mode", "nat"))
            .child(element("bridge").with("stp", "on").with("delay", "0"))
            .child(dns)
            .child(ip)
    }
}
