//! `inspect`: what an appliance is, what it asks for, and where its bytes are.

use appliance::policy::{Firewall, MachinePolicy};
use appliance::{Machine, Reference};
use packer::{Contents, Platform};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CommandError;
use crate::text::{self, plain, size};

/// Show an appliance's machines, disks, firewall, sizes and digests
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The appliance, as `[HOST[:PORT]/]NAME[:TAG|@DIGEST]`
    reference: Reference,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(context: &Context, args: &InspectArgs) -> Result<(), CommandError> {
    let store = context.store()?;
    let _hold = store.hold()?;
    let digest = store.resolve(&args.reference)?;
    let contents = Contents::read(&store, &digest)?;
    if args.json {
        let platforms: Vec<Value> = contents.platforms.iter().map(platform_json).collect();
        text::json(&json!({ "reference": args.reference, "digest": digest, "platforms": platforms }));
        return Ok(());
    }
    field("Reference", &args.reference.to_string());
    field("Digest", &digest.to_string());
    contents.platforms.iter().for_each(print_platform);
    Ok(())
}

fn platform_json(platform: &Platform) -> Value {
    let manifest = &platform.manifest;
    let blob = |blob: &appliance::Blob| json!({ "digest": blob.digest, "size": blob.size_bytes });
    let disks = manifest
        .disks
        .iter()
        .map(|disk| json!({ "name": disk.name, "index": blob(&disk.index), "root": blob(&disk.root) }));
    json!({
        "platform": platform.platform,
        "manifest": blob(&platform.manifest_blob),
        "config": serde_json::to_value(&platform.config).expect("a config serialises"),
        "configBlob": blob(&manifest.config),
        "policy": serde_json::to_value(&platform.policy).expect("a policy serialises"),
        "policyBlob": blob(&manifest.policy),
        "disks": disks.collect::<Vec<_>>(),
        "packs": manifest.packs.iter().map(blob).collect::<Vec<_>>(),
    })
}

fn print_platform(platform: &Platform) {
    let config = &platform.config;
    let packs = &platform.manifest.packs;
    field("Platform", &platform.platform);
    field("Manifest", &platform.manifest_blob.digest.to_string());
    field("Appliance", &format!("{} {}", config.name, config.version));
    if let Some(title) = &config.title {
        field("Title", title);
    }
    let bytes: u64 = platform.manifest.blobs().iter().map(|blob| blob.size_bytes).sum();
    field("Packed", &format!("{} in {}", size(bytes), text::count(packs.len() as u64, "pack")));
    if let Some(expires) = &platform.policy.expires {
        field("Expires", expires);
    }
    for machine in &config.machines {
        print_machine(machine, &platform.policy.machine(&machine.name), platform);
    }
    heading("Packs");
    let rows = packs.iter().map(|pack| vec![pack.digest.to_string(), size(pack.size_bytes)]);
    text::table(&["DIGEST", "SIZE"], rows.collect());
}

fn print_machine(machine: &Machine, policy: &MachinePolicy, platform: &Platform) {
    heading(&format!("Machine {}", machine.name));
    field("Architecture", machine.arch.as_str());
    field("Processors", &machine.vcpus.to_string());
    field("Memory", &size(machine.memory_bytes));
    field("Firmware", &json!(machine.firmware).as_str().unwrap_or_default().to_uppercase());
    if let Some(cpu) = &machine.cpu {
        field("CPU level", cpu);
    }
    if let Some(health) = &policy.health {
        field("Health", &health_text(health));
    }
    field("Restart", json!(policy.lifecycle.restart).as_str().unwrap_or_default());
    let nics: Vec<_> = machine.nics.iter().map(|nic| nic.name.as_str()).collect();
    field(
        "NICs",
        if nics.is_empty() { "none: no network at all".to_owned() } else { nics.join(", ") }.as_str(),
    );
    heading("Disks");
    let rows = machine.disks.iter().map(|disk| {
        let layer = platform.manifest.disks.iter().find(|layer| layer.name == disk.name);
        let index = layer.map_or_else(String::new, |layer| layer.index.digest.short());
        let mode = json!(disk.mode).as_str().unwrap_or_default().to_owned();
        vec![disk.name.clone(), size(disk.size_bytes), mode, index]
    });
    text::table(&["NAME", "SIZE", "MODE", "INDEX"], rows.collect());
    if !machine.volumes.is_empty() {
        heading("Volumes");
        let rows = machine.volumes.iter().map(|volume| vec![volume.name.clone(), size(volume.size_bytes)]);
        text::table(&["NAME", "SIZE"], rows.collect());
    }
    heading("Firewall");
    let rows = rule_rows(&policy.firewall);
    if rows.is_empty() {
        text::result("nothing in, nothing out");
        return;
    }
    text::table(&RULE_HEADINGS, rows);
    text::result("everything else is dropped");
}

/// What stands above the columns of [`rule_rows`].
pub(crate) const RULE_HEADINGS: [&str; 5] = ["DIRECTION", "RULE", "PORTS", "PEERS", "PUBLISHED AT"];

/// A firewall for people: a row for each rule.
pub(crate) fn rule_rows(firewall: &Firewall) -> Vec<Vec<String>> {
    let ports = |ports: &[appliance::policy::PortRange]| {
        ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let peers = |peers: &[appliance::policy::Peer]| {
        let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
        if peers.is_empty() { "nobody".to_owned() } else { peers.join(", ") }
    };
    let mut rows = Vec::new();
    for rule in &firewall.ingress {
        let published = rule.publish.map_or_else(String::new, |publish| {
            format!("{}", std::net::SocketAddr::new(publish.bind, publish.host_port))
        });
        let what = format!("{} {}", rule.proto.as_str(), ports(&rule.ports));
        rows.push(vec!["in".into(), rule.name.clone(), what, peers(&rule.from), published]);
    }
    for rule in &firewall.egress {
        let what = format!("{} {}", rule.proto.as_str(), ports(&rule.ports));
        rows.push(vec!["out".into(), rule.name.clone(), what, peers(&rule.to), String::new()]);
    }
    rows
}

fn health_text(health: &appliance::policy::Health) -> String {
    use appliance::policy::HealthCheck as C;
    let check = match &health.check {
        C::Http { port, path } => format!("GET http://:{port}{path}"),
        C::Tcp { port } => format!("connect to port {port}"),
        C::Ready => "the guest says so".to_owned(),
    };
    format!("{check}, every {}", text::duration(std::time::Duration::from_millis(health.interval_ms)))
}

fn heading(name: &str) {
    text::result("");
    text::result(format_args!("{}", plain(name)));
}

fn field(name: &str, value: &str) {
    text::result(format_args!("{:<13} {}", format!("{name}:"), plain(value)));
}
