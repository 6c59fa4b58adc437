//! What an OVF descriptor says, without its XML: the one model that the reader gives and the writer takes.
//!
//! Nothing here is checked against the files of a package, and no name in it is a path. What neither the reader nor the
//! writer understands is carried as text ([`ForeignSection`]).
//!
//! Source: DMTF DSP0243 1.1.0 and 2.1.1; CIM_ResourceAllocationSettingData for what an `Item` says.

/// One descriptor, for the configuration that was chosen of those it offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// The files of the package (`References`).
    pub files: Vec<FileReference>,
    /// The virtual disks (`DiskSection`). Those that no drive uses are here too, if their size is known.
    pub disks: Vec<VirtualDisk>,
    /// The networks that NICs name (`NetworkSection`).
    pub networks: Vec<Network>,
    /// The configurations that a deployer may choose from (`DeploymentOptionSection`). Never written: what is
    /// written is one of them.
    pub options: Vec<DeploymentOption>,
    /// The configuration that all else here is for; `None` where the descriptor offers none. Never written.
    pub configuration: Option<String>,
    /// What holds the machines together; `None` where one machine stands alone.
    pub collection: Option<Collection>,
    /// The machines, in the order of the document. Collections in collections are flattened.
    pub systems: Vec<VirtualSystem>,
    /// Sections of the envelope itself that are not understood.
    pub foreign: Vec<ForeignSection>,
    /// What a person should know of what was left out or guessed. Never written.
    pub warnings: Vec<super::Warning>,
}

/// A file of the package (`File`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileReference {
    /// How disks and drives name it.
    pub id: String,
    /// Its name in the package as it stands in the descriptor, where it may be percent-encoded. Never a path.
    pub href: String,
    /// Its length in bytes, all chunks together.
    pub size_bytes: Option<u64>,
    /// How it is packed.
    pub compression: Compression,
    /// It is cut into files of this many bytes (the last one may be shorter) called `href.000000000`,
    /// `href.000000001` and so on.
    pub chunk_bytes: Option<u64>,
}

/// How a file of the package is packed (`ovf:compression`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    Identity,
    /// As one gzip stream.
    Gzip,
}

/// A virtual disk (`Disk`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VirtualDisk {
    /// How drives name it.
    pub id: String,
    /// The size that the guest sees, in bytes.
    pub capacity_bytes: u64,
    /// The id of the file that holds it; a disk without one starts as zeros.
    pub file: Option<String>,
    /// The id of the disk that this one is a difference to.
    pub parent: Option<String>,
    /// The URI that names the file's format.
    pub format: Option<String>,
    /// The bytes of the disk that are in use, as an estimate.
    pub populated_bytes: Option<u64>,
}

/// The URI that VMware and VirtualBox know a stream-optimised VMDK by.
pub const FORMAT_VMDK_STREAM: &str =
    "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

/// A network that NICs name (`Network`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// For a person.
    pub description: Option<String>,
}

/// A configuration that a deployer may choose (`Configuration`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeploymentOption {
    /// How it is chosen.
    pub id: String,
    /// Its title.
    pub label: Option<String>,
    /// For a person.
    pub description: Option<String>,
    /// Whether it is taken when nobody chooses. If none says so, it is the first.
    pub is_default: bool,
}

/// A `VirtualSystemCollection`. What nested ones say is added to the outermost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collection {
    /// Its identifier in the descriptor.
    pub id: String,
    /// Its title.
    pub name: Option<String>,
    /// Notes for a person.
    pub annotation: Option<String>,
    /// The products, whose properties all the machines see.
    pub products: Vec<Product>,
    /// The licences to be agreed to.
    pub eulas: Vec<String>,
    /// Limits for all the machines together (`ResourceAllocationSection`).
    pub allocations: Vec<ResourceAllocation>,
    /// Sections of the collection that are not understood.
    pub foreign: Vec<ForeignSection>,
}

/// A limit or promise for all the machines of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceAllocation {
    /// As in CIM: 3 is the processor, 4 the memory.
    pub resource_type: u16,
    /// The unit of the numbers, as it stands in the descriptor.
    pub units: Option<String>,
    /// What is set aside.
    pub reservation: Option<u64>,
    /// What is not exceeded.
    pub limit: Option<u64>,
    /// The share against others.
    pub weight: Option<u64>,
}

/// One virtual machine (`VirtualSystem`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VirtualSystem {
    /// Its identifier in the descriptor.
    pub id: String,
    /// Its title.
    pub name: Option<String>,
    /// Notes for a person.
    pub annotation: Option<String>,
    /// The guest's operating system.
    pub operating_system: Option<OperatingSystem>,
    /// The products in it, with the properties that a deployer may set.
    pub products: Vec<Product>,
    /// The licences to be agreed to.
    pub eulas: Vec<String>,
    /// The machine itself.
    pub hardware: Hardware,
    /// When it starts among the machines of its collection. Written only where there is one.
    pub start: Option<Start>,
    /// Sections of the machine that are not understood, `vbox:Machine` among them.
    pub foreign: Vec<ForeignSection>,
}

/// When a machine starts (an `Item` of `StartupSection`).
///
/// Where collections are nested, `order` counts the machines through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// Machines start in ascending order; those with the same number may start at once.
    pub order: u16,
    /// How long the next one waits for this one, in seconds.
    pub delay_s: u32,
    /// Whether the next one may start as soon as the guest says that it is up.
    pub waits_for_guest: bool,
}

/// The guest's operating system (`OperatingSystemSection`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatingSystem {
    /// As in `CIM_OperatingSystem.OsType`: 36 is Linux, 94 is Ubuntu 64-bit, 96 is Debian 64-bit, 101 is Linux 64-bit.
    pub id: u16,
    /// Its version.
    pub version: Option<String>,
    /// For a person. VirtualBox writes its own type's name here.
    pub description: Option<String>,
    /// VMware's name for the type, as `debian12_64Guest` (`vmw:osType`).
    pub vmware_type: Option<String>,
}

/// A product that the guest holds (`ProductSection`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Product {
    /// The first part of its properties' full keys.
    pub class: Option<String>,
    /// The last part of its properties' full keys.
    pub instance: Option<String>,
    /// Its name (`Product`).
    pub name: Option<String>,
    /// Who makes it.
    pub vendor: Option<String>,
    /// Its version, short.
    pub version: Option<String>,
    /// Its version, in full.
    pub full_version: Option<String>,
    /// Where to read of it.
    pub product_url: Option<String>,
    /// Where to read of its vendor.
    pub vendor_url: Option<String>,
    /// Where to reach it when it runs.
    pub app_url: Option<String>,
    /// What a deployer may set.
    pub properties: Vec<Property>,
}

/// Something that a deployer may set (`Property`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Property {
    /// Its name in the product.
    pub key: String,
    /// `string`, `boolean`, `int` and so on, as it stands in the descriptor.
    pub kind: String,
    /// Its default in the chosen configuration.
    pub value: Option<String>,
    /// Whether the deployer may change it.
    pub user_configurable: bool,
    /// Whether it must not be shown.
    pub password: bool,
    /// Bounds on the value, as they stand in the descriptor.
    pub qualifiers: Option<String>,
    /// Its title.
    pub label: Option<String>,
    /// For a person.
    pub description: Option<String>,
    /// The heading that it stands under.
    pub category: Option<String>,
}

/// The machine that a guest was made for (`VirtualHardwareSection`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// The families of virtual hardware that it was made for, as `vmx-13` or `virtualbox-2.2`.
    pub kinds: Vec<String>,
    /// How properties reach the guest, as `iso` or `com.vmware.guestInfo`.
    pub transports: Vec<String>,
    /// Its processors, all cores counted.
    pub vcpus: Option<u32>,
    /// Of those, how many share a socket.
    pub cores_per_socket: Option<u32>,
    /// Its memory in bytes.
    pub memory_bytes: Option<u64>,
    /// What its firmware is, if the descriptor says.
    pub firmware: Option<Firmware>,
    /// Whether it starts only what is signed, if the descriptor says.
    pub secure_boot: Option<bool>,
    /// What its drives are attached to.
    pub controllers: Vec<Controller>,
    /// Its disks, CD-ROM and floppy drives, in the order of the document.
    pub drives: Vec<Drive>,
    /// Its network cards, in the order of the document.
    pub nics: Vec<Nic>,
    /// The other devices that are known by their type: serial ports, sound and so on.
    pub others: Vec<OtherDevice>,
    /// VMware's settings of the whole machine, without those that are told above.
    pub settings: Vec<Setting>,
    /// Elements of the section that are not understood.
    pub foreign: Vec<ForeignSection>,
}

/// What starts the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// A PC BIOS.
    Bios,
    /// UEFI.
    Efi,
}

/// What drives are attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// How drives name it (`InstanceID`).
    pub instance: String,
    /// What it is.
    pub kind: ControllerKind,
    /// Its place among the controllers of its kind, from 0 on.
    pub address: Option<u32>,
}

/// The kinds of controllers. `ResourceType` and `ResourceSubType` say which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControllerKind {
    /// IDE: PIIX3, PIIX4, ICH6.
    Ide,
    /// Parallel SCSI that is not named any further; VMware and VirtualBox take it for [`ControllerKind::LsiLogic`].
    Scsi,
    /// SCSI, LSI 53C1030.
    LsiLogic,
    /// SAS, LSI 53C1068.
    LsiLogicSas,
    /// SCSI, BusLogic BT-958.
    BusLogic,
    /// SCSI, VMware's paravirtual one.
    PvScsi,
    /// SCSI over virtio.
    VirtioScsi,
    /// Block devices over virtio, without a bus between.
    VirtioBlock,
    /// SATA, as AHCI.
    Ahci,
    /// NVM Express.
    Nvme,
}

/// A disk, CD-ROM or floppy drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Its own `InstanceID`.
    pub instance: String,
    /// What it is.
    pub kind: DriveKind,
    /// Its title.
    pub name: Option<String>,
    /// What lies in it; `None` is an empty drive.
    pub medium: Option<Medium>,
    /// The instance of the controller it is attached to. One that is named here is in
    /// [`Hardware::controllers`].
    pub controller: Option<String>,
    /// Its place on the controller, from 0 on: on IDE 0 is the master and 1 the slave.
    pub address: Option<u32>,
}

/// The kinds of drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveKind {
    /// A disk.
    Disk,
    /// A CD-ROM or DVD drive.
    CdRom,
    /// A floppy drive.
    Floppy,
}

/// What lies in a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Medium {
    /// The virtual disk with this id (`ovf:/disk/ID`), which is in [`Descriptor::disks`].
    Disk(String),
    /// The file with this id (`ovf:/file/ID`), which is in [`Descriptor::files`].
    File(String),
    /// A new disk of zeros, which only the drive itself describes.
    Blank {
        /// Its size.
        capacity_bytes: u64,
    },
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its `InstanceID`.
    pub instance: String,
    /// What it is; `None` where the descriptor does not say, or says what is not known.
    pub kind: Option<NicKind>,
    /// Its title.
    pub name: Option<String>,
    /// The name of the network it is attached to.
    pub network: Option<String>,
    /// Its MAC address.
    pub mac: Option<[u8; 6]>,
    /// Its place among the cards; VMware counts from 7 on.
    pub address: Option<u32>,
    /// Whether it is attached when the machine starts.
    pub connected: bool,
}

/// The kinds of network cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NicKind {
    /// AMD PCnet: PCNet32, VMware's vlance, VirtualBox's Am79C970A and Am79C973.
    PcNet,
    /// Intel 8254x.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// Realtek 8139.
    Rtl8139,
    /// VMware's paravirtual one, versions 1 and 2.
    VmxNet,
    /// VMware's paravirtual one, version 3.
    VmxNet3,
    /// virtio.
    Virtio,
}

/// A device that no part of the model describes further.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherDevice {
    /// Its `InstanceID`.
    pub instance: String,
    /// As in CIM: 1 is anything, 21 a serial port, 23 a USB controller, 24 graphics.
    pub resource_type: u16,
    /// What it is exactly, as `vmware.soundcard.hdaudio`.
    pub sub_type: Option<String>,
    /// Its title.
    pub name: Option<String>,
}

/// One of VMware's settings (`vmw:Config`, `vmw:ExtraConfig`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Which element it is.
    pub kind: SettingKind,
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Which element a setting is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    /// `vmw:Config`.
    Config,
    /// `vmw:ExtraConfig`.
    ExtraConfig,
}

/// A section that is not understood, as it stands in the document.
///
/// The struct that holds it says where it stood. The text is well-formed, and takes the meaning it had anywhere
/// where [`ForeignSection::namespaces`] are declared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignSection {
    /// The namespace of its element; empty where there is none.
    pub namespace: String,
    /// The name of its element, without a prefix.
    pub name: String,
    /// All of the element, from `<` to `>`.
    pub xml: String,
    /// What the text relies on being declared around it, sorted by prefix.
    pub namespaces: Vec<NamespaceBinding>,
}

/// A prefix and the namespace that it stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamespaceBinding {
    /// The prefix; empty for names without one.
    pub prefix: String,
    /// The namespace's URI.
    pub uri: String,
}

/// Where in the document something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// In the envelope.
    Envelope,
    /// In the collection of machines.
    Collection,
    /// In the machine with this id.
    System(&'a str),
    /// In the hardware section of the machine with this id.
    Hardware(&'a str),
}

impl Descriptor {
    /// The file with this id.
    pub fn file(&self, id: &str) -> Option<&FileReference> {
        self.files.iter().find(|file| file.id == id)
    }

    /// The virtual disk with this id.
    pub fn disk(&self, id: &str) -> Option<&VirtualDisk> {
        self.disks.iter().find(|disk| disk.id == id)
    }

    /// The machines in the order in which they start.
    pub fn start_order(&self) -> Vec<&VirtualSystem> {
        let mut systems: Vec<_> = self.systems.iter().collect();
        systems.sort_by_key(|system| system.start.as_ref().map_or(0, |start| start.order));
        systems
    }

    /// Everything that is carried without being understood, and where it stood.
    pub fn foreign_sections(&self) -> impl Iterator<Item = (Place<'_>, &ForeignSection)> {
        let envelope = self.foreign.iter().map(|section| (Place::Envelope, section));
        let collection = self.collection.iter().flat_map(|collection| &collection.foreign);
        let systems = self.systems.iter().flat_map(|system| {
            let own = system.foreign.iter().map(|section| (Place::System(&system.id), section));
            own.chain(system.hardware.foreign.iter().map(|section| (Place::Hardware(&system.id), section)))
        });
        envelope.chain(collection.map(|section| (Place::Collection, section))).chain(systems)
    }
}

impl Product {
    /// The key by which the guest knows `property`: class, key and instance with full stops between.
    ///
    /// Source: DSP0243 1.1.0, 9.5.
    pub fn full_key(&self, property: &Property) -> String {
        let parts = [self.class.as_deref(), Some(property.key.as_str()), self.instance.as_deref()];
        parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
    }
}

impl Hardware {
    /// The controller that `drive` is attached to.
    pub fn controller_of(&self, drive: &Drive) -> Option<&Controller> {
        let instance = drive.controller.as_ref()?;
        self.controllers.iter().find(|controller| controller.instance == *instance)
    }
}
