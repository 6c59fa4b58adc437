//! Appliances for other platforms: the documents hold against the published schemas, let no packet pass that hull
//! would not, and what is lost is said.

#![expect(clippy::print_stderr, reason = "a test that skips says so")]

mod kubevirt;
mod libvirt;
mod ova;
mod packets;

use std::path::{Path, PathBuf};

use appliance::{ApplianceConfig, Policy};
use packer::export::{Content, Limits, Loss, LossReport, Plan, Planned, Subject};
use packer::hull_toml::HullToml;

/// A machine with everything that every target can express.
const PLAIN: &str = r#"
[appliance]
name = "shop"
version = "1.4.0"

[machine]
vcpus = 2
memory = "1GiB"
cpu = "x86-64-v2"

[[disk]]
name = "root"
source = "root.raw"

[[volume]]
name = "data"
size = "10GiB"

[[nic]]
name = "eth0"

[policy.lifecycle]
restart = "on-failure"

[firewall]
dns = { mode = "open" }
[[firewall.ingress]]
name = "http"
proto = "tcp"
ports = [80, "8000-8010"]
from = [{ cidr = "0.0.0.0/0", except = ["198.51.100.0/24"] }]
[[firewall.ingress]]
name = "nobody"
proto = "tcp"
ports = [22]
from = []
[[firewall.egress]]
name = "packages"
proto = "tcp"
ports = [443]
to = ["0.0.0.0/0"]
[[firewall.egress]]
name = "inside"
proto = "udp"
ports = ["5000-5010"]
to = [{ cidr = "10.0.0.0/8", except = ["10.1.0.0/16"] }, "10.1.2.0/24"]
"#;

/// Two machines that ask for everything that can be asked for.
const DEMANDING: &str = r#"
[appliance]
name = "on"
version = "1"

[machines.no]
memory = "3001MiB"
firmware = "uefi-secure"
devices = "compat"
start-order = 1
[[machines.no.disk]]
name = "0755"
source = "a.raw"
mode = "read-only"
bus = "pvscsi"
[[machines.no.disk]]
name = "1e3"
source = "b.raw"
mode = "ephemeral"
bus = "nvme"
[[machines.no.nic]]
name = "y"
model = "vmxnet3"
[[machines.no.nic]]
name = "inside"
network = "back"
[machines.no.policy.resources]
disk = { iops = 2000, mbps = 100 }
[machines.no.policy.health]
check = { http = "http://:80/healthz?a=b" }
interval = "1500ms"
start-period = "90s"
retries = 4
[machines.no.policy.lifecycle]
restart = "always"
max-restarts = 5
rollback = "on-unhealthy"
[machines.no.firewall]
icmp = { ping-in = true, ping-out = true }
dns = { mode = "proxy", names = ["ntp.example.org"] }
limits = { flows = 100, egress-mbit = 8 }
[[machines.no.firewall.ingress]]
name = "published"
proto = "tcp"
ports = [80]
from = ["0.0.0.0/0", "::/0", "host", "peer:null"]
publish = { host-port = 8080 }
log = "new"
[[machines.no.firewall.ingress]]
name = "rated"
proto = "tcp"
ports = [81]
from = ["0.0.0.0/0"]
rate = { new-per-second = 50 }
max-connections = 500
[[machines.no.firewall.egress]]
name = "names"
proto = "tcp"
ports = [443]
to = ["fqdn:packages.example.org", "host", "169.254.169.254", "fe80::/10"]
[[machines.no.firewall.egress]]
name = "rated"
proto = "udp"
ports = [53]
to = ["192.0.2.0/24"]
rate = { new-per-second = 5 }

[machines.null]
memory = "512MiB"
console = "none"
[[machines.null.disk]]
name = "true"
source = "c.raw"
[machines.null.policy.health]
check = "ready"

[policy.trust]
signatures = { require = 1, keys = ["ed25519:AAAAC3NzaC1lZDI1NTE5AAAAIEVTVGFtcGxlZXhhbXBsZWV4YW1wbGVleGFtcGxlZXhhbXA"] }
[policy.placement]
hosts = ["*.prod.example.org"]
"#;

/// An appliance as its author wrote it.
struct Author {
    config: ApplianceConfig,
    policy: Policy,
}

impl Author {
    #[track_caller]
    fn of(hull_toml: &str) -> Self {
        let mut author = HullToml::parse(hull_toml).unwrap();
        let disks = author.config.machines.iter_mut().flat_map(|machine| &mut machine.disks);
        disks.for_each(|disk| disk.size_bytes = 1 << 20);
        author.config.check().unwrap();
        Self { config: author.config, policy: author.policy }
    }

    fn subject(&self, limits: Limits) -> Subject<'_> {
        Subject::new(&self.config, &self.policy, None, limits).unwrap()
    }
}

/// The plan's documents whose names end with `.` and `extension`.
fn documents<'a>(plan: &'a Plan, extension: &str) -> Vec<(&'a str, &'a str)> {
    let Planned::Folder(files) = &plan.output else { panic!("a folder was expected") };
    let documents = files.iter().filter_map(|(name, content)| match content {
        Content::Text(text) if name.ends_with(&format!(".{extension}")) => {
            Some((name.as_str(), text.as_str()))
        }
        _ => None,
    });
    documents.collect()
}

fn document<'a>(plan: &'a Plan, wanted: &str) -> &'a str {
    let (_, extension) = wanted.rsplit_once('.').unwrap();
    documents(plan, extension).into_iter().find(|(name, _)| *name == wanted).unwrap().1
}

/// Writes documents to a folder of their own.
fn written(documents: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let write = |(name, text): &(&str, &str)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let paths = documents.iter().map(write).collect();
    (folder, paths)
}

/// One line per loss: machine, key, effect.
fn lines(losses: &[Loss]) -> Vec<String> {
    let line =
        |loss: &Loss| format!("{} {} {}", loss.machine.as_deref().unwrap_or("-"), loss.key, loss.effect);
    losses.iter().map(line).collect()
}

#[track_caller]
fn check_losses(report: &LossReport, want: &[&str]) {
    let (mut found, mut want) = (lines(&report.losses), want.to_vec());
    found.sort();
    want.sort_unstable();
    assert_eq!(found, want);
}

/// A schema or program that `scripts/setup test` brings; else says that the test skips.
fn schemas(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/schemas").join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no schemas; run scripts/setup test");
    None
}

/// A program that is installed; else says that the test skips.
fn is_installed(program: &str) -> bool {
    let found = std::process::Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: `{program}` is not installed");
    }
    found
}
