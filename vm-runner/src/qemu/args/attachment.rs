//! What drives and NICs are plugged into: virtio, or the controllers and cards that the appliance names, as QEMU 7.2
//! has them.
//!
//! What takes a place on the PCI bus takes the next one, in the order of the drives, so one more drive at the end
//! moves none.
//!
//! | bus | device | drives on each |
//! |---|---|---|
//! | `sata` | q35's own AHCI controller, then `ich9-ahci` | 6 |
//! | `ide` | `piix3-ide`, once: its ports are fixed | 4 |
//! | `nvme` | `nvme` | 1 |
//! | `lsi-logic`, `bus-logic` | `lsi53c895a` | 7 |
//! | `lsi-sas` | `mptsas1068` | 8 |
//! | `pvscsi` | `pvscsi` | 64 |
//! | `virtio` | `virtio-blk-pci` | 1 |

use appliance::{Arch, Bus, Devices, NicModel};
use serde_json::{Value, json};

use super::FIRST_DRIVE;
use crate::engine::{Drive, DriveContent, MachineSpec, Nic, StartError};

/// The devices for one drive.
#[derive(Debug)]
pub(super) struct Attachment {
    /// The controller, where the drive is the first one on it and does not find it on the board.
    pub(super) controller: Option<Value>,
    /// The drive's own device, without what is the same for all.
    pub(super) device: Value,
}

/// What a drive is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Virtio,
    Sata,
    Ide,
    Nvme,
    Lsi,
    LsiSas,
    Pvscsi,
}

impl Controller {
    fn of(devices: Devices, drive: &Drive) -> Self {
        let bus = match devices {
            Devices::Virtio => Bus::Virtio,
            Devices::Compat => drive.bus.unwrap_or(Bus::Sata),
        };
        match bus {
            Bus::Virtio => Controller::Virtio,
            Bus::Sata => Controller::Sata,
            Bus::Ide => Controller::Ide,
            Bus::Nvme => Controller::Nvme,
            Bus::LsiLogic | Bus::BusLogic => Controller::Lsi,
            Bus::LsiSas => Controller::LsiSas,
            Bus::Pvscsi => Controller::Pvscsi,
        }
    }

    /// How many drives one of them has places for.
    fn places(self) -> usize {
        match self {
            Controller::Virtio | Controller::Nvme => 1,
            Controller::Sata => 6,
            Controller::Ide => 4,
            Controller::Lsi => 7,
            Controller::LsiSas => 8,
            Controller::Pvscsi => 64,
        }
    }
}

/// Where one drive goes.
#[derive(Debug, Clone, Copy)]
struct Place {
    controller: Controller,
    /// Which controller of its kind.
    which: usize,
    /// Which place on it.
    at: usize,
    /// Whether the controller is on the board already.
    on_board: bool,
}

/// Whether the machine needs q35's own SATA controller.
pub(super) fn has_sata(spec: &MachineSpec) -> bool {
    spec.drives.iter().any(|drive| Controller::of(spec.devices, drive) == Controller::Sata)
}

/// Attaches all drives, in their order.
pub(super) fn attachments(spec: &MachineSpec) -> Result<Vec<Attachment>, StartError> {
    let places = places(spec)?;
    let on_pci = places.iter().filter(|place| place.takes_pci()).count();
    let mut next_on_pci = 0;
    let attach = |place: &Place| {
        let mut on_bus = |device| {
            next_on_pci += 1;
            FIRST_DRIVE.place(on_pci, next_on_pci - 1, device)
        };
        match place.devices() {
            (None, device) if place.takes_pci() => Attachment { controller: None, device: on_bus(device) },
            (controller, device) => Attachment { controller: controller.map(on_bus), device },
        }
    };
    Ok(places.iter().map(attach).collect())
}

fn places(spec: &MachineSpec) -> Result<Vec<Place>, StartError> {
    let mut places: Vec<Place> = Vec::with_capacity(spec.drives.len());
    for drive in &spec.drives {
        let controller = Controller::of(spec.devices, drive);
        let number = places.iter().filter(|place| place.controller == controller).count();
        match controller {
            Controller::Sata => check_writable(drive)?,
            Controller::Ide => check_ide(spec.arch, drive, number)?,
            _ => {}
        }
        let (which, at) = (number / controller.places(), number % controller.places());
        // The `virt` machine of arm64 has no SATA controller of its own.
        let on_board = controller == Controller::Sata && spec.arch == Arch::Amd64 && which == 0;
        places.push(Place { controller, which, at, on_board });
    }
    Ok(places)
}

impl Place {
    fn takes_pci(&self) -> bool {
        self.at == 0 && !self.on_board
    }

    /// The controller, if there must be one, and the drive's device.
    fn devices(&self) -> (Option<Value>, Value) {
        let Place { which, at, .. } = *self;
        let scsi = |driver, id: &str| {
            let id = format!("{id}{which}");
            let drive = json!({ "driver": "scsi-hd", "bus": format!("{id}.0"), "scsi-id": at, "lun": 0 });
            (json!({ "driver": driver, "id": id }), drive)
        };
        let (controller, device) = match self.controller {
            Controller::Virtio => return (None, json!({ "driver": "virtio-blk-pci" })),
            Controller::Nvme => return (None, json!({ "driver": "nvme" })),
            Controller::Sata => {
                let id = if self.on_board { "ide".to_owned() } else { format!("sata{which}") };
                let drive = json!({ "driver": "ide-hd", "bus": format!("{id}.{at}") });
                (json!({ "driver": "ich9-ahci", "id": id }), drive)
            }
            Controller::Ide => {
                let bus = format!("pata.{}", at / 2);
                let drive = json!({ "driver": "ide-hd", "bus": bus, "unit": at % 2 });
                (json!({ "driver": "piix3-ide", "id": "pata" }), drive)
            }
            Controller::Lsi => scsi("lsi53c895a", "lsi"),
            Controller::LsiSas => scsi("mptsas1068", "sas"),
            Controller::Pvscsi => scsi("pvscsi", "pvscsi"),
        };
        (self.takes_pci().then_some(controller), device)
    }
}

fn check_ide(arch: Arch, drive: &Drive, number: usize) -> Result<(), StartError> {
    if arch == Arch::Arm64 {
        return Err(StartError::Impossible {
            what: "an IDE controller on arm64".into(),
            wanted: "name another `bus`",
        });
    }
    if number >= Controller::Ide.places() {
        return Err(StartError::Impossible {
            what: format!("a drive number {} on IDE", number + 1),
            wanted: "there are places for 4; name another `bus` for the others",
        });
    }
    check_writable(drive)
}

fn check_writable(drive: &Drive) -> Result<(), StartError> {
    if matches!(drive.content, DriveContent::ReadOnly { .. }) {
        return Err(StartError::Impossible {
            what: format!("a read-only disk `{}` on SATA or IDE", drive.name.escape_debug()),
            wanted: "disks there can be written; use `ephemeral`, or name another `bus`",
        });
    }
    Ok(())
}

/// The device for a NIC.
pub(super) fn nic_driver(devices: Devices, nic: &Nic) -> &'static str {
    let model = match devices {
        Devices::Virtio => NicModel::Virtio,
        Devices::Compat => nic.model.unwrap_or(NicModel::E1000),
    };
    match model {
        NicModel::Virtio => "virtio-net-pci",
        NicModel::E1000 => "e1000",
        NicModel::E1000e => "e1000e",
        NicModel::Pcnet => "pcnet",
        NicModel::Rtl8139 => "rtl8139",
        NicModel::Vmxnet3 => "vmxnet3",
    }
}

/// What the guest finds in place of what the appliance names, for the person who runs it.
pub(super) fn replacements(spec: &MachineSpec) -> Vec<String> {
    if spec.devices != Devices::Compat {
        return Vec::new();
    }
    let replaced = |drive: &Drive| {
        let named = match drive.bus? {
            Bus::BusLogic => "a BusLogic controller",
            Bus::LsiLogic => "VMware's LSI Logic controller, a 53C1030",
            _ => return None,
        };
        Some(format!(
            "disk `{}` is attached to an LSI 53C895A, for QEMU has no model of {named}; \
             a guest without a driver for it (Linux: sym53c8xx) will not find the disk",
            drive.name.escape_debug()
        ))
    };
    spec.drives.iter().filter_map(replaced).collect()
}
