//! `export`: an appliance for other platforms, and what it loses on the way.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use appliance::{Reference, Version};
use clap::ValueEnum;
use packer::export::{
    ExportError, ExportOptions, Limits, Loss, LossReport, Plan, PlanError, Subject, container_disks, images,
    kubevirt, libvirt, ova,
};
use packer::{Compression, Contents, Platform, Target};
use serde_json::json;

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::packing::Bar;
use crate::target::{self, OUTPUT, TargetArgs, TargetFormat, name};
use crate::text::{self, size};

/// The longest OVF that is read.
const MAX_OVF_BYTES: u64 = 16 << 20;

/// Write an appliance for another platform
///
/// What the other platform cannot express is listed, and nothing is written unless `--lossy` agrees to that. A rule
/// of the firewall that it cannot express is left out, so that nothing becomes wider; a disk alone has no firewall at all.
/// docs/export.md says what becomes of each key.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// The appliance, as `[HOST[:PORT]/]NAME[:TAG|@DIGEST]`
    reference: Reference,
    /// What to write
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: To,
    /// Where to write it: a file, or a folder where there are several
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// Only this disk [default: all disks]
    #[arg(long, value_name = "NAME")]
    disk: Option<String>,
    /// Only this machine [default: all machines]
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// Go on although something is lost
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "narrower")]
    lossy: Option<Lossy>,
    #[command(flatten)]
    target: TargetArgs,
    /// Where a registry has a disk's containerDisk, with `--to kubevirt` [default: NAME-DISK:TAG]
    #[arg(long = "image", value_name = "[DISK=]REF")]
    images: Vec<String>,
    /// The platform, where the appliance is there for several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Threads that read, decompress and compress [default: one for each processor]
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// Print what is lost as JSON
    #[arg(long)]
    json: bool,
}

/// What can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// A file for VMware and VirtualBox: machines and disks, the policy carried along
    Ova,
    /// Disks: QEMU's format, version 3
    Qcow2,
    /// Disks: the bytes, with holes where they are zero
    Raw,
    /// Disks: VMware's
    Vmdk,
    /// Disks: Virtual PC's, Azure's and Hyper-V's older one
    Vhd,
    /// Disks: Hyper-V's
    Vhdx,
    /// Disks: VirtualBox's
    Vdi,
    /// Disks: each in a container image that KubeVirt boots, as an OCI archive
    Containerdisk,
    /// A folder for `kubectl apply`: VirtualMachines, NetworkPolicies, volumes; containerDisks beside them
    Kubevirt,
    /// A folder for `virsh define`: domains, nwfilters, networks; disks beside them
    Libvirt,
}

/// How much may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lossy {
    /// Rules whose rate or number of connections cannot be limited are left out
    Narrower,
    /// Such rules hold without their limits
    Wider,
}

pub(crate) fn run(context: &Context, args: &ExportArgs) -> Result<(), CommandError> {
    let store = context.store()?;
    let _hold = store.hold()?;
    let contents = Contents::read(&store, &store.resolve(&args.reference)?)?;
    let platform = args.platform.clone().unwrap_or_else(crate::host::platform);
    let platform = contents.platform(&platform)?;
    let limits = if args.lossy == Some(Lossy::Wider) { Limits::Dropped } else { Limits::Respected };
    let subject = Subject::new(&platform.config, &platform.policy, args.machine.as_deref(), limits)?;
    let ovf = platform.manifest.ovf.map(|ovf| store.read(&ovf.digest, MAX_OVF_BYTES)).transpose()?;
    let plan = args.plan(&subject, platform, ovf.as_deref())?;
    let written = match plan.report.losses.len() {
        lost if lost > 0 && args.lossy.is_none() => None,
        _ => {
            let mut disks = BTreeMap::new();
            for name in plan.disks() {
                disks.insert(name.to_owned(), registry_client::open_disk(&store, &platform.manifest, name)?);
            }
            let start = Instant::now();
            let mut options = ExportOptions::new(platform.manifest_blob.digest);
            options.threads = args.threads.unwrap_or(options.threads);
            let bar = Bar::new();
            let written = plan.write(&args.output, &disks, &options, &bar);
            bar.finish();
            Some((written?, start.elapsed()))
        }
    };
    report(args, &plan.report, written.is_some());
    let Some((bytes, time)) = written else {
        let lost = text::count(plan.report.losses.len() as u64, "thing");
        let message = format!("{lost} of {} cannot be expressed as {}", args.reference, name(args.to));
        return Err(CommandError::new(Exit::Refused, message).hint(
            "nothing was written; `--lossy` writes what can be expressed, once you agree to the list above",
        ));
    };
    let output = text::plain(&args.output.display().to_string());
    text::say(format_args!("Wrote {output} ({}) in {}.", size(bytes), text::duration(time)));
    if args.to == To::Kubevirt {
        say_what_a_registry_needs(&plan.disks(), &args.image_references(platform)?, &output);
    }
    if !args.json {
        text::result(output);
    }
    Ok(())
}

impl To {
    /// The format of an image file; `None` where there is more to it than that.
    fn image_format(self) -> Option<TargetFormat> {
        Some(match self {
            Self::Qcow2 => TargetFormat::Qcow2,
            Self::Raw => TargetFormat::Raw,
            Self::Vmdk => TargetFormat::Vmdk,
            Self::Vhd => TargetFormat::Vhd,
            Self::Vhdx => TargetFormat::Vhdx,
            Self::Vdi => TargetFormat::Vdi,
            Self::Ova | Self::Containerdisk | Self::Kubevirt | Self::Libvirt => return None,
        })
    }
}

impl ExportArgs {
    fn plan(
        &self,
        subject: &Subject<'_>,
        platform: &Platform,
        ovf: Option<&[u8]>,
    ) -> Result<Plan, CommandError> {
        self.check_options()?;
        let tag = match self.reference.version() {
            Version::Tag(tag) => tag.as_str(),
            Version::Digest(_) => "latest",
        };
        let disk = self.disk.as_deref();
        if let Some(format) = self.to.image_format() {
            return Ok(images(subject, disk, self.target.target(format)?, &name(self.to))?);
        }
        Ok(match self.to {
            To::Ova => ova(subject, ovf),
            To::Containerdisk => container_disks(subject, disk, tag),
            To::Kubevirt => {
                let references = self.image_references(platform)?;
                kubevirt(subject, &|disk| references.get(disk).cloned().unwrap_or_default(), tag)
            }
            To::Libvirt => {
                // A domain names its disks from the root.
                let folder = std::path::absolute(&self.output)?;
                libvirt(subject, &folder, Target::Qcow2(Compression::None))
            }
            To::Qcow2 | To::Raw | To::Vmdk | To::Vhd | To::Vhdx | To::Vdi => unreachable!("an image format"),
        }?)
    }

    /// Each option belongs to some formats; elsewhere it would do nothing.
    fn check_options(&self) -> Result<(), CommandError> {
        self.target.check(self.to.image_format(), &name(self.to))?;
        let documents = [To::Ova, To::Kubevirt, To::Libvirt].contains(&self.to);
        for (is_wrong, option, wanted) in [
            (!self.images.is_empty() && self.to != To::Kubevirt, "--image", "`--to kubevirt`"),
            (self.disk.is_some() && documents, "--disk", "formats of disks"),
        ] {
            if is_wrong {
                let message = format!("`{option}` cannot be used with `--to {}`", name(self.to));
                return Err(CommandError::new(Exit::Usage, message).hint(format!("it goes with {wanted}")));
            }
        }
        Ok(())
    }

    /// Where a registry has each disk's containerDisk.
    fn image_references(&self, platform: &Platform) -> Result<BTreeMap<String, String>, CommandError> {
        let disks: Vec<&str> = platform.manifest.disks.iter().map(|disk| disk.name.as_str()).collect();
        let tag = self.reference.tag().unwrap_or("latest");
        let usual = |disk: &&str| format!("{}-{disk}:{tag}", self.reference.repository());
        let mut references: BTreeMap<String, String> =
            disks.iter().map(|disk| ((*disk).to_owned(), usual(disk))).collect();
        for image in &self.images {
            let usage = |message: String| {
                CommandError::new(Exit::Usage, message)
                    .hint("write it as DISK=REF, such as root=registry.example/web-root:1.4")
            };
            let (disk, reference) = match (image.split_once('='), disks.as_slice()) {
                (Some((disk, reference)), disks) if disks.contains(&disk) => (disk, reference),
                (Some((disk, _)), _) => {
                    let message = format!("there is no disk `{disk}`; there is {}", disks.join(", "));
                    return Err(usage(message));
                }
                (None, [disk]) => (*disk, image.as_str()),
                (None, _) => return Err(usage(format!("`{image}` does not say for which disk it is"))),
            };
            if let Err(error) = reference.parse::<Reference>() {
                return Err(usage(format!("`{reference}` is no reference: {error}")));
            }
            references.insert(disk.to_owned(), reference.to_owned());
        }
        Ok(references)
    }
}

/// Says how a registry gets the containerDisks, which the machines in `output` are looking for there.
fn say_what_a_registry_needs(disks: &[&str], images: &BTreeMap<String, String>, output: &str) {
    text::say("Before `kubectl apply`, a registry needs the containerDisks:");
    for disk in disks {
        let image = &images[*disk];
        text::say(format_args!(
            "  skopeo copy oci-archive:{output}/containerdisk-{disk}.tar docker://{image}"
        ));
    }
    let has_no_host = |image: &&String| image.parse::<Reference>().is_ok_and(|image| image.host().is_none());
    if let Some(image) = disks.iter().map(|disk| &images[*disk]).find(has_no_host) {
        text::say(format_args!(
            "`{image}` names no registry: clusters ask a public one for it. `--image` names yours."
        ));
    }
}

/// Says what is lost, and what the other platform promises to nobody.
fn report(args: &ExportArgs, report: &LossReport, written: bool) {
    if args.json {
        let all = |losses: &[Loss]| losses.iter().map(Loss::to_json).collect::<Vec<_>>();
        text::json(&json!({
            "reference": args.reference, "format": name(args.to), "output": args.output, "written": written,
            "losses": all(&report.losses), "notices": all(&report.notices),
        }));
        return;
    }
    for (losses, heading) in [
        (&report.notices, format!("What no export to {} can promise:", name(args.to))),
        (&report.losses, format!("What cannot be expressed as {}:", name(args.to))),
    ] {
        if losses.is_empty() {
            continue;
        }
        text::say(heading);
        let row = |loss: &Loss| {
            let machine = loss.machine.clone().unwrap_or_default();
            vec![machine, loss.key.clone(), loss.effect.to_string(), loss.becomes.clone()]
        };
        text::say_table(
            &["MACHINE", "KEY", "ACCESS", "WHAT BECOMES OF IT"],
            losses.iter().map(row).collect(),
        );
    }
}

impl From<PlanError> for CommandError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::NoSuchMachine { .. } | PlanError::NoSuchDisk { .. } => {
                Self::from_error(Exit::NotFound, error).hint("`hull inspect` lists machines and disks")
            }
            PlanError::Folder { .. } => {
                Self::from_error(Exit::Usage, error).hint("choose another folder with `--output`")
            }
            PlanError::Ovf(_) | PlanError::Descriptor(_) => Self::from_error(Exit::Failed, error)
                .hint("other formats need no OVF: `--to libvirt`, or `--to vmdk` for the disks alone"),
            error => Self::from_error(Exit::Failed, error)
                .hint("`--machine` exports one machine; names and NICs are in hull.toml"),
        }
    }
}

impl From<ExportError> for CommandError {
    fn from(error: ExportError) -> Self {
        let hint = match &error {
            ExportError::NotAFile { .. } | ExportError::NotFree { .. } => {
                return Self::from_error(Exit::Usage, error).hint(
                    "`--output` is a file where one disk is written, and else an empty folder or nothing yet",
                );
            }
            ExportError::Image { source, .. } => {
                target::hint(source, "`hull rmi` the appliance, then `hull pull` or `hull pack` it anew")
            }
            _ => OUTPUT,
        };
        Self::at_output(error, hint)
    }
}
