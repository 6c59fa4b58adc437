//! Disks alone: an image file of any format, or an OCI archive with a containerDisk in it.
//!
//! A disk is content and no machine: nothing of the policy comes along, its denials neither. That is the largest loss
//! there is, and it is reported whatever the policy says.

use appliance::Arch;
use formats::image::{Compression, Target};

use super::loss::{Effect, LossReport};
use super::{Content, Plan, PlanError, Planned, PlannedDisk, Subject};

/// Plans the export of the disk called `disk`, or of all disks of `subject`, each as a file of its own: as `target`, with
/// `extension` in its name where there are several.
///
/// # Errors
///
/// [`PlanError::NoSuchDisk`].
pub fn images(
    subject: &Subject<'_>,
    disk: Option<&str>,
    target: Target,
    extension: &str,
) -> Result<Plan, PlanError> {
    plan(subject, disk, extension, |disk| Content::Image { disk, target })
}

/// Plans the export of the disk called `disk`, or of all disks of `subject`, each as an OCI archive of a containerDisk,
/// tagged `tag`.
///
/// # Errors
///
/// [`PlanError::NoSuchDisk`].
pub fn container_disks(subject: &Subject<'_>, disk: Option<&str>, tag: &str) -> Result<Plan, PlanError> {
    plan(subject, disk, "tar", |disk| container_disk(subject, disk, tag))
}

/// A disk as KubeVirt boots it.
pub(super) fn container_disk(subject: &Subject<'_>, disk: PlannedDisk, tag: &str) -> Content {
    let arch = subject.config.machines.first().map_or(Arch::Amd64, |machine| machine.arch);
    Content::ContainerDisk { disk, image: Target::Qcow2(Compression::Zstd), arch, tag: tag.to_owned() }
}

fn plan(
    subject: &Subject<'_>,
    wanted: Option<&str>,
    extension: &str,
    content: impl Fn(PlannedDisk) -> Content,
) -> Result<Plan, PlanError> {
    let disks = subject.machines.iter().flat_map(|machine| &machine.disks);
    let all: Vec<&str> = disks.map(|disk| disk.name.as_str()).collect();
    let is_wanted = |name: &&str| wanted.is_none_or(|wanted| *name == wanted);
    let names: Vec<&str> = all.iter().copied().filter(is_wanted).collect();
    let content_of = |name: &str| content(PlannedDisk::OfAppliance { name: name.to_owned() });
    let output = match names.as_slice() {
        [] => {
            let name = wanted.unwrap_or_default().to_owned();
            return Err(PlanError::NoSuchDisk { name, disks: all.into_iter().map(str::to_owned).collect() });
        }
        [name] => Planned::File(content_of(name)),
        names => Planned::Folder(
            names.iter().map(|name| (format!("{name}.{extension}"), content_of(name))).collect(),
        ),
    };
    Ok(Plan { output, report: report(subject, &names) })
}

/// What is lost of the machines whose disks are exported.
fn report(subject: &Subject<'_>, disks: &[&str]) -> LossReport {
    let mut report = LossReport::default();
    let exported = subject
        .machines
        .iter()
        .filter(|machine| machine.disks.iter().any(|disk| disks.contains(&disk.name.as_str())));
    for machine in exported {
        let name = Some(machine.name.as_str());
        report.lose(
            name,
            "firewall",
            Effect::Wider,
            "nothing of it is in a disk: whoever boots it has to close what hull closes",
        );
        report.lose(name, "policy", Effect::Wider, "nothing of it is in a disk: no limits, no checks");
        report.notice(
            name,
            "machine",
            Effect::Other,
            "nothing of it is in a disk: processors, memory, firmware, devices",
        );
        for volume in &machine.volumes {
            let key = format!("volume.{}", volume.name);
            report.notice(name, key, Effect::Other, "it is not written: it is empty until somebody uses it");
        }
    }
    report
}
