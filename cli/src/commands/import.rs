//! `import`: what another platform made, as an appliance or as a folder to make one from.

use std::path::{Path, PathBuf};

use appliance::policy::Firewall;
use appliance::{Arch, Devices, Firmware, Machine, Reference};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use packer::ImageWriteError;
use packer::hull_toml::parse_size;
use packer::import::{
    ContainerImage, Import, ImportError, ImportRequest, Origin, Wishes, WriteFolderError, import,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::commands::inspect::{RULE_HEADINGS, rule_rows};
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::image::{IMAGES, ImageArgs, LARGER, hand_over};
use crate::packing::{Bar, PackingArgs, check_tag};
use crate::text::{self, plain, size};
use crate::transfer::{TransferArgs, block_on};

/// Make an appliance of what another platform made
///
/// FILE is a disk image of any format that hull reads, a tar archive of one with its parts or backing files, an OVA, an
/// OVF or the folder with one, a Vagrant box for libvirt or VirtualBox, or an archive of a container image with a disk for KubeVirt; its content says which. `docker://HOST/NAME:TAG`
/// is such a container image in a registry. Nothing passes the firewall of what is imported until its author allows it: `--init`
/// writes a folder with hull.toml and the disks, where rules can be added before `hull pack` packs it.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("result").required(true).args(["reference", "init"])))]
pub(crate) struct ImportArgs {
    /// What to import: a file, a folder with an OVF in it, or `docker://HOST/NAME[:TAG]`
    file: PathBuf,
    /// Pack it at once, under this name: `[HOST[:PORT]/]NAME[:TAG]`
    #[arg(long = "tag", short = 't', value_name = "REF")]
    reference: Option<Reference>,
    /// Write a folder with hull.toml and the disks instead; it must be empty, or not there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["base", "no_base", "output"])]
    init: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    packing: PackingArgs,
    #[command(flatten)]
    transfer: TransferArgs,
    /// Which of the configurations that an OVF offers is taken [default: its own default]
    #[arg(long, value_name = "ID")]
    configuration: Option<String>,
    /// Print what came of it as JSON
    #[arg(long)]
    json: bool,
}

/// What is to be otherwise than the file says, or is said by nothing. Holds for all machines in it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What the file does not say, or should not decide")]
struct MachineArgs {
    /// The appliance's name
    #[arg(long)]
    name: Option<String>,
    /// The appliance's version
    #[arg(long)]
    version: Option<String>,
    /// The processors' architecture
    #[arg(long, value_parser = words::<Arch>(&["amd64", "arm64"]))]
    arch: Option<Arch>,
    /// How many processors
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1024))]
    vcpus: Option<u32>,
    /// How much memory, such as 2GiB
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// What starts the boot loader
    #[arg(long, value_parser = words::<Firmware>(&["bios", "uefi", "uefi-secure"]))]
    firmware: Option<Firmware>,
    /// Which devices the guest has drivers for
    #[arg(long, value_parser = words::<Devices>(&["virtio", "compat"]))]
    devices: Option<Devices>,
}

pub(crate) fn run(context: &Context, args: &ImportArgs) -> Result<(), CommandError> {
    args.reference.as_ref().map_or(Ok(()), check_tag)?;
    let store = context.store()?;
    let _hold = store.hold()?;
    let bar = Bar::new();
    let request = ImportRequest {
        origin: Origin::Path(&args.file),
        image: args.image.options(),
        wishes: args.machine.wishes(),
        configuration: args.configuration.as_deref(),
        max_disk_bytes: args.image.max_size_bytes(),
        scratch: &store.root().join("tmp"),
        progress: &bar,
    };
    let imported = match registry_name(&args.file)? {
        None => import(&request),
        Some(reference) => {
            let image = fetch(&reference, args, &request)?;
            let origin = Origin::Container { name: &reference.to_string(), image: &image };
            import(&ImportRequest { origin, ..request })
        }
    };
    bar.finish();
    let imported = imported?;
    show(&imported, &args.file);
    let mut result = json!({
        "kind": imported.kind.describe(),
        "config": imported.appliance.config(),
        "policy": imported.appliance.policy(),
        "notices": imported.notices.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "eulas": imported.eulas,
    });
    let line = if let Some(folder) = &args.init {
        let bar = Bar::new();
        let written = imported.write_folder(folder, &origin(&args.file), &bar);
        bar.finish();
        written?;
        result["folder"] = json!(folder);
        plain(&folder.display().to_string())
    } else {
        let reference = args.reference.as_ref().expect("clap asks for one of the two");
        let packed = args.packing.pack(&imported.appliance, reference, &store)?;
        result["reference"] = json!(reference);
        result["digest"] = json!(packed.index.digest);
        packed.index.digest.to_string()
    };
    show_firewall(&imported, args);
    if args.json {
        text::json(&result)
    } else {
        text::result(line)
    }
    Ok(())
}

/// What comes after `docker://`, which is how skopeo writes that something is in a registry.
fn registry_name(file: &Path) -> Result<Option<Reference>, CommandError> {
    let Some(name) = file.to_str().and_then(|file| file.strip_prefix("docker://")) else { return Ok(None) };
    let reference = name.parse().map_err(|error: appliance::ReferenceError| {
        CommandError::from_error(Exit::Usage, error)
            .hint("write it as docker://HOST[:PORT]/NAME[:TAG|@DIGEST]")
    })?;
    Ok(Some(reference))
}

fn fetch(
    reference: &Reference,
    args: &ImportArgs,
    request: &ImportRequest<'_>,
) -> Result<ContainerImage, CommandError> {
    let client = args.transfer.client()?;
    let architecture = request.wishes.arch.unwrap_or(Arch::Amd64).as_str();
    let bar = crate::transfer::Bar::new();
    let bounds = (request.scratch, request.max_disk_bytes);
    let fetched = block_on(client.fetch_image(reference, architecture, bounds, &bar))?;
    bar.finish();
    let fetched = fetched?;
    text::say(format_args!("Fetched {reference}, {}.", fetched.manifest));
    Ok(ContainerImage::new(fetched.config, fetched.layers)?)
}

impl MachineArgs {
    fn wishes(&self) -> Wishes {
        Wishes {
            name: self.name.clone(),
            version: self.version.clone(),
            arch: self.arch,
            vcpus: self.vcpus,
            memory_bytes: self.memory,
            firmware: self.firmware,
            devices: self.devices,
        }
    }
}

/// Says what was found and what became of it.
fn show(imported: &Import, file: &Path) {
    let config = imported.appliance.config();
    text::say(format_args!("{} is {}.", plain(&file.display().to_string()), imported.kind.describe()));
    text::say(format_args!("Appliance {} {}", config.name, plain(&config.version)));
    config.machines.iter().for_each(show_machine);
    for notice in &imported.notices {
        text::say(format_args!("note: {}", plain(&notice.to_string())));
    }
}

fn show_machine(machine: &Machine) {
    text::say(format_args!(
        "Machine {}: {}, {} memory, {}, {} devices",
        machine.name,
        text::count(u64::from(machine.vcpus), "processor"),
        size(machine.memory_bytes),
        word(&machine.firmware),
        word(&machine.devices)
    ));
    for disk in &machine.disks {
        let bus = disk.bus.map(|bus| format!(", {}", word(&bus))).unwrap_or_default();
        text::say(format_args!("  disk {}: {}{bus}", disk.name, size(disk.size_bytes)));
    }
    for volume in &machine.volumes {
        text::say(format_args!("  volume {}: {}", volume.name, size(volume.size_bytes)));
    }
    for nic in &machine.nics {
        let model = nic.model.map(|model| format!("{}, ", word(&model))).unwrap_or_default();
        let network = nic.network.as_deref().unwrap_or("the outside");
        text::say(format_args!("  NIC {}: {model}{network}", nic.name));
    }
}

/// Says, last and where nobody overlooks it, what passes; and where nothing does, what to do about it.
fn show_firewall(imported: &Import, args: &ImportArgs) {
    let policy = imported.appliance.policy();
    let is_closed = |machine: &&Machine| policy.machine(&machine.name).firewall == Firewall::default();
    let machines = &imported.appliance.config().machines;
    for machine in machines.iter().filter(|machine| !is_closed(machine)) {
        text::say(format_args!("FIREWALL: as the OVF brings it. What passes to and from {}:", machine.name));
        text::say_table(&RULE_HEADINGS, rule_rows(&policy.machine(&machine.name).firewall));
    }
    let closed: Vec<_> = machines.iter().filter(is_closed).map(|machine| machine.name.as_str()).collect();
    if closed.is_empty() {
        return;
    }
    let closed = closed.join(", ");
    text::say(format_args!("FIREWALL: deny all. Nothing reaches {closed}, and {closed} reaches nothing."));
    match &args.init {
        Some(folder) => {
            let folder = plain(&folder.display().to_string());
            text::say(format_args!(
                "Write rules under [firewall] in {folder}/hull.toml, then `hull pack {folder} -t REF`."
            ));
        }
        None => {
            let file = plain(&args.file.display().to_string());
            text::say(format_args!(
                "To allow something: `hull import {file} --init DIR`, write rules in DIR/hull.toml, `hull pack DIR -t REF`."
            ));
        }
    }
}

/// How comments call the file: by its own name, without the folders that lead to it.
fn origin(file: &Path) -> String {
    file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

/// The word that a value has in documents.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        other => unreachable!("these values are written as words, not as {other:?}"),
    }
}

/// Accepts the words that documents have for a value, which are all of `words`.
fn words<T>(words: &[&'static str]) -> impl TypedValueParser<Value = T> + use<T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words.iter().copied())
        .map(|word| serde_json::from_value(word.into()).expect("documents have these words"))
}

fn memory(text: &str) -> Result<u64, String> {
    let size = parse_size(text).filter(|size| (1 << 20..=1 << 44).contains(size));
    size.ok_or_else(|| "expected a size from 1MiB to 16TiB, such as 512MiB or 2GiB".to_owned())
}

impl From<ImportError> for CommandError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::File { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::from_error(Exit::NotFound, error).hint("check the path")
            }
            error if error.is_too_large() => Self::from_error(Exit::Failed, error).hint(LARGER),
            ImportError::Image(_) | ImportError::Read { .. } => {
                let hint = error.missing().map_or(IMAGES, hand_over);
                Self::from_error(Exit::Failed, error).hint(hint)
            }
            ImportError::NotAnOvf { .. } => Self::from_error(Exit::Usage, error)
                .hint("leave it out: nothing but an OVF offers configurations"),
            ImportError::NotAnImage { .. } => Self::from_error(Exit::Usage, error)
                .hint("leave it out: an archive or a package says which of its files belong together"),
            ImportError::Appliance => Self::from_error(Exit::Failed, error).hint(
                "`skopeo copy --all oci-archive:FILE docker://REGISTRY/NAME:TAG` and `hull pull REGISTRY/NAME:TAG` take it",
            ),
            ImportError::NotOneImage { .. } => Self::from_error(Exit::Failed, error)
                .hint("unpack it and name the disk, with `--backing` and `--parts` for what belongs to it"),
            ImportError::Config(_) => Self::from_error(Exit::Usage, error).hint(
                "`--name`, `--vcpus`, `--memory`, `--firmware` and `--arch` overrule what the file says",
            ),
            error => Self::from_error(Exit::Failed, error).hint(
                "docs/import.md says what is imported; do not give a stranger's file to tools that guess",
            ),
        }
    }
}

impl From<WriteFolderError> for CommandError {
    fn from(error: WriteFolderError) -> Self {
        match error {
            WriteFolderError::Occupied { .. } => Self::from_error(Exit::Usage, error)
                .hint("name another folder; nothing in this one was touched"),
            WriteFolderError::Disk { source: ImageWriteError::Read(_), .. } => {
                Self::from_error(Exit::Failed, error).hint(IMAGES)
            }
            WriteFolderError::Unwritable(_) => {
                Self::from_error(Exit::Failed, error).hint("`-t REF` packs it without a hull.toml")
            }
            error => Self::at_output(
                error,
                "`--init` names a folder to be made, in one that is there, may be written to and has room",
            ),
        }
    }
}
