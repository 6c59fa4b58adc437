//! QEMU's command line, from a machine's specification.
//!
//! Pure: nothing is opened or started here. Values that came from an appliance reach QEMU as JSON or
//! as numbers wherever QEMU takes them so, and are names only where a comma in them is escaped.
//!
//! Where devices sit on the PCI bus follows from their own position alone: guests name network
//! interfaces by slot, and one more disk in a new version must not rename the interface.
//!
//! ```text
//! slot 1        what every machine has: serial ports for messages, random numbers
//! slots 2-9     NICs      (the ninth and later: functions 1 to 7 of the same slots)
//! slots 10-29   drives, or their controllers    (the twenty-first and later likewise)
//! ```

mod attachment;

use std::ffi::OsString;
use std::os::fd::{AsRawFd, RawFd};

use appliance::Arch;
use serde_json::{Value, json};

use self::attachment::Attachment;
use crate::engine::{
    Accel, Cpu, Drive, DriveContent, DriveLimits, Firmware, MachineSpec, Nic, READY_PORT, SecureBoot,
    StartError, X86Level,
};

/// Everything a guest could use to get at the host through QEMU's own system calls.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

const FIRST_NIC: PciRange = PciRange { first_slot: 2, slots: 8 };
const FIRST_DRIVE: PciRange = PciRange { first_slot: 10, slots: 20 };

/// What virtio-blk takes as a serial number.
const MAX_SERIAL_CHARS: usize = 20;

/// The descriptors that QEMU talks to us through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    pub(super) qmp: RawFd,
    pub(super) serial: RawFd,
    pub(super) ready: RawFd,
}

/// How to call QEMU, and which descriptors it must find open under their own numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CommandLine {
    pub(super) args: Vec<OsString>,
    pub(super) inherited: Vec<RawFd>,
    /// Where the machine is not what was asked for, for the person who runs it.
    pub(super) notices: Vec<String>,
}

/// The program and the Debian package that has it.
pub(super) const fn program(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Arch::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
    }
}

/// The command line for `spec`.
///
/// # Errors
///
/// [`StartError::Impossible`] for combinations that QEMU does not have.
pub(super) fn command_line(spec: &MachineSpec, lines: Lines) -> Result<CommandLine, StartError> {
    let notices = attachment::replacements(spec);
    let mut line = CommandLine { args: Vec::new(), inherited: Vec::new(), notices };
    line.machine(spec)?;
    line.firmware(spec)?;
    line.connections(lines);
    for (index, (drive, attachment)) in spec.drives.iter().zip(attachment::attachments(spec)?).enumerate() {
        line.drive(index, drive, attachment);
    }
    for (index, nic) in spec.nics.iter().enumerate() {
        line.nic(spec, index, nic);
    }
    line.json("-object", &json!({ "qom-type": "rng-builtin", "id": "random" }));
    line.json("-device", &json!({ "driver": "virtio-rng-pci", "rng": "random", "addr": "01.1" }));
    if spec.arch == Arch::Amd64 {
        line.json("-device", &json!({ "driver": "pvpanic" }));
    }
    line.option("-sandbox", SANDBOX);
    Ok(line)
}

/// The node on top of the drive at `index`, by which events and statistics name it. The drive's own
/// name will not do: QEMU allows 31 characters and no digit in front.
pub(super) fn node_name(index: usize) -> String {
    format!("drive{index}")
}

/// The index behind such a name.
pub(super) fn node_index(node: &str) -> Option<usize> {
    node.strip_prefix("drive")?.parse().ok()
}

impl CommandLine {
    fn machine(&mut self, spec: &MachineSpec) -> Result<(), StartError> {
        self.option("-name", format!("guest={},debug-threads=on", spec.name.replace(',', ",,")));
        self.flag("-nodefaults");
        self.flag("-no-user-config");
        self.option("-display", "none");
        self.flag("-S");
        self.option("-msg", "timestamp=on");
        self.option("-machine", machine_type(spec));
        self.option("-accel", spec.accel.to_string());
        if let Some(model) = cpu_model(spec)? {
            self.option("-cpu", model);
        }
        self.option("-smp", format!("cpus={0},sockets=1,cores={0},threads=1", spec.vcpus));
        self.option("-m", format!("{}M", spec.memory_bytes.div_ceil(1 << 20)));
        self.option("-boot", "strict=on");
        Ok(())
    }

    fn firmware(&mut self, spec: &MachineSpec) -> Result<(), StartError> {
        match &spec.firmware {
            Firmware::Bios if spec.arch == Arch::Arm64 => Err(StartError::Impossible {
                what: "a PC BIOS on arm64".into(),
                wanted: "arm64 machines start with `uefi`",
            }),
            Firmware::Bios => Ok(()),
            Firmware::Rom(path) => {
                self.flag("-bios");
                self.args.push(path.into());
                Ok(())
            }
            Firmware::Uefi { code, variables, secure_boot } => {
                let Some(code) = code.to_str() else {
                    return Err(StartError::Impossible {
                        what: format!("firmware at `{}`", code.display()),
                        wanted: "its path must be UTF-8",
                    });
                };
                let code = json!({ "driver": "file", "filename": code, "read-only": true });
                self.block_node(&json!({
                    "driver": "raw", "node-name": "firmware-code", "read-only": true, "file": code
                }));
                let variables = self.file_node(variables.as_raw_fd());
                self.block_node(
                    &json!({ "driver": "raw", "node-name": "firmware-variables", "file": variables }),
                );
                if *secure_boot == SecureBoot::Enforced {
                    self.option("-global", "driver=cfi.pflash01,property=secure,value=on");
                }
                Ok(())
            }
        }
    }

    /// QMP, the serial port and the port on which the guest says that it is ready.
    fn connections(&mut self, lines: Lines) {
        for (id, fd) in [("qmp", lines.qmp), ("serial", lines.serial), ("ready", lines.ready)] {
            self.option("-chardev", format!("socket,id={id},fd={fd}"));
            self.inherited.push(fd);
        }
        self.option("-mon", "chardev=qmp,mode=control");
        self.option("-serial", "chardev:serial");
        self.json(
            "-device",
            &json!({ "driver": "virtio-serial-pci", "id": "ports", "addr": "01.0", "multifunction": true }),
        );
        self.json(
            "-device",
            &json!({ "driver": "virtserialport", "bus": "ports.0", "chardev": "ready", "name": READY_PORT }),
        );
    }

    /// From the bottom up: image, overlay, throttle, device.
    fn drive(&mut self, index: usize, drive: &Drive, attachment: Attachment) {
        let top = node_name(index);
        let limited = drive.limits != DriveLimits::default();
        let content = if limited { format!("{top}-content") } else { top.clone() };
        match &drive.content {
            DriveContent::ReadOnly { image } => {
                self.image(&content, &drive.name, image.as_raw_fd());
            }
            DriveContent::Overlay { image, overlay } => {
                let beneath = format!("{top}-image");
                self.image(&beneath, &drive.name, image.as_raw_fd());
                self.qcow2(&content, overlay.as_raw_fd(), json!(beneath));
            }
            DriveContent::Volume { file } => self.qcow2(&content, file.as_raw_fd(), Value::Null),
        }
        if limited {
            self.throttle(&top, &content, drive.limits);
        }
        let Attachment { controller, device } = attachment;
        if let Some(controller) = controller {
            self.json("-device", &controller);
        }
        let serial: String = drive.name.chars().take(MAX_SERIAL_CHARS).collect();
        self.json("-device", &merged(device, json!({ "drive": top, "serial": serial, "bootindex": index })));
    }

    fn image(&mut self, node: &str, export: &str, fd: RawFd) {
        self.inherited.push(fd);
        self.block_node(&json!({
            "driver": "nbd", "node-name": node, "read-only": true, "export": export,
            "server": { "type": "fd", "str": fd.to_string() },
        }));
    }

    /// `beneath` is given here and `null` where there is nothing: QEMU then heeds no name in the file.
    fn qcow2(&mut self, node: &str, fd: RawFd, beneath: Value) {
        let file = self.file_node(fd);
        self.block_node(&json!({
            "driver": "qcow2", "node-name": node, "discard": "unmap", "file": file, "backing": beneath,
        }));
    }

    /// An open file, as QEMU's file driver finds it.
    fn file_node(&mut self, fd: RawFd) -> Value {
        self.inherited.push(fd);
        self.option("-add-fd", format!("fd={fd},set={fd}"));
        json!({ "driver": "file", "filename": format!("/dev/fdset/{fd}"), "discard": "unmap" })
    }

    fn throttle(&mut self, node: &str, beneath: &str, limits: DriveLimits) {
        let group = format!("{node}-limits");
        let mut numbers = json!({});
        for (key, limit) in [("iops-total", limits.iops), ("bps-total", limits.bytes_per_second)] {
            if let Some(limit) = limit {
                numbers[key] = json!(limit);
            }
        }
        self.json("-object", &json!({ "qom-type": "throttle-group", "id": group, "limits": numbers }));
        self.block_node(&json!({
            "driver": "throttle", "node-name": node, "throttle-group": group, "file": beneath,
        }));
    }

    fn nic(&mut self, spec: &MachineSpec, index: usize, nic: &Nic) {
        let fd = nic.tap.as_raw_fd();
        self.inherited.push(fd);
        let id = format!("nic{index}");
        self.json("-netdev", &json!({ "type": "tap", "id": id, "fd": fd.to_string() }));
        let driver = attachment::nic_driver(spec.devices, nic);
        let [a, b, c, d, e, f] = nic.mac;
        // No option ROM: nobody boots over the network, and it is a program that guests can read.
        let device = json!({
            "driver": driver, "netdev": id, "romfile": "",
            "mac": format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        });
        self.json("-device", &FIRST_NIC.place(spec.nics.len(), index, device));
    }

    fn block_node(&mut self, node: &Value) {
        self.json("-blockdev", node);
    }

    fn json(&mut self, name: &str, value: &Value) {
        self.option(name, value.to_string());
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.flag(name);
        self.args.push(value.into());
    }

    fn flag(&mut self, name: &str) {
        self.args.push(name.into());
    }
}

fn machine_type(spec: &MachineSpec) -> String {
    let mut machine = match spec.arch {
        Arch::Amd64 => "q35,vmport=off,dump-guest-core=off".to_owned(),
        Arch::Arm64 => "virt,gic-version=max,dump-guest-core=off".to_owned(),
    };
    if spec.arch == Arch::Amd64 && !attachment::has_sata(spec) {
        machine.push_str(",sata=off");
    }
    if let Firmware::Uefi { secure_boot, .. } = &spec.firmware {
        machine.push_str(",pflash0=firmware-code,pflash1=firmware-variables");
        if spec.arch == Arch::Amd64 && *secure_boot == SecureBoot::Enforced {
            machine.push_str(",smm=on");
        }
    }
    machine
}

/// A model that is the same on every host: QEMU's plainest, with what the level adds. `enforce` makes
/// QEMU refuse a host that lacks some of it, where a guest would have crashed later.
fn cpu_model(spec: &MachineSpec) -> Result<Option<String>, StartError> {
    let level = match (spec.cpu, spec.arch, spec.accel) {
        (Cpu::Native, _, Accel::Kvm) => return Ok(Some("host".into())),
        (Cpu::Native, Arch::Amd64, Accel::Tcg) => return Ok(None),
        (Cpu::Native, Arch::Arm64, Accel::Tcg) => return Ok(Some("max,pauth-impdef=on".into())),
        (Cpu::X86Level(_), Arch::Arm64, _) => {
            return Err(StartError::Impossible {
                what: "an x86-64 level on arm64".into(),
                wanted: "leave `cpu` out for arm64 machines",
            });
        }
        (Cpu::X86Level(level), Arch::Amd64, _) => level,
    };
    let mut model = "qemu64".to_owned();
    if level >= X86Level::V2 {
        model.push_str(",+popcnt,+pni,+sse4.1,+sse4.2,+ssse3");
    }
    if level >= X86Level::V3 {
        model.push_str(",+aes,+abm,+avx,+avx2,+bmi1,+bmi2,+f16c,+fma,+movbe,+xsave");
    }
    if level >= X86Level::V4 {
        model.push_str(",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl");
    }
    model.push_str(",enforce");
    Ok(Some(model))
}

/// Some slots of the PCI bus, filled one function at a time.
struct PciRange {
    first_slot: usize,
    slots: usize,
}

impl PciRange {
    /// `device` with the address of the `index`th of `count`.
    fn place(&self, count: usize, index: usize, device: Value) -> Value {
        let (slot, function) = (self.first_slot + index % self.slots, index / self.slots);
        let mut place = json!({ "addr": format!("{slot:02x}.{function}") });
        // Said only where needed: guests put the function into the interface's name when they see it.
        if function == 0 && index + self.slots < count {
            place["multifunction"] = json!(true);
        }
        merged(device, place)
    }
}

/// The members of both objects.
fn merged(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use appliance::{Bus, Devices, NicModel};

    use super::*;

    const LINES: Lines = Lines { qmp: 9003, serial: 9004, ready: 9005 };

    fn spec() -> MachineSpec {
        MachineSpec {
            name: "web,1".into(),
            arch: Arch::Amd64,
            vcpus: 2,
            memory_bytes: (1 << 30) + 1,
            firmware: Firmware::Bios,
            cpu: Cpu::X86Level(X86Level::V2),
            accel: Accel::Kvm,
            devices: Devices::Virtio,
            drives: Vec::new(),
            nics: Vec::new(),
        }
    }

    fn open_file() -> File {
        tempfile::tempfile().unwrap()
    }

    fn image() -> UnixStream {
        UnixStream::pair().unwrap().0
    }

    fn overlay_drive(name: &str) -> Drive {
        let content = DriveContent::Overlay { image: image(), overlay: open_file() };
        Drive { name: name.into(), content, limits: DriveLimits::default(), bus: None }
    }

    fn tap() -> OwnedFd {
        open_file().into()
    }

    /// One option per line, with descriptors as `%0`, `%1` ... in the order in which they are inherited.
    fn shown(spec: &MachineSpec) -> String {
        let line = command_line(spec, LINES).unwrap();
        let mut text = String::new();
        for arg in &line.args {
            let arg = arg.to_str().unwrap();
            text.push_str(if arg.starts_with('-') { "\n" } else { " " });
            text.push_str(arg);
        }
        text.remove(0);
        for (index, fd) in line.inherited.iter().enumerate() {
            for pattern in ["fd=@", "set=@", "/dev/fdset/@\"", "\"str\":\"@\"", "\"fd\":\"@\""] {
                let shown = pattern.replace('@', &format!("%{index}"));
                text = text.replace(&pattern.replace('@', &fd.to_string()), &shown);
            }
        }
        text
    }

    /// The lines of [`shown`] that hold `part`.
    fn lines_with(spec: &MachineSpec, part: &str) -> String {
        shown(spec).lines().filter(|line| line.contains(part)).collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    fn check_impossible(spec: &MachineSpec, want: &str) {
        assert_eq!(command_line(spec, LINES).unwrap_err().to_string(), want);
    }

    #[test]
    fn a_web_server_gets_what_it_needs_and_nothing_else() {
        let mut spec = spec();
        spec.drives.push(overlay_drive("root"));
        spec.drives.push(Drive {
            name: "a-volume-with-a-very-long-name".into(),
            content: DriveContent::Volume { file: open_file() },
            bus: None,
            limits: DriveLimits { iops: Some(2000), bytes_per_second: Some(100_000_000) },
        });
        spec.drives.push(Drive {
            name: "docs".into(),
            content: DriveContent::ReadOnly { image: image() },
            limits: DriveLimits::default(),
            bus: None,
        });
        spec.nics.push(Nic {
            name: "eth0".into(),
            mac: [0x52, 0x54, 0, 1, 2, 0xff],
            tap: tap(),
            model: None,
        });
        insta::assert_snapshot!(shown(&spec), @r#"
        -name guest=web,,1,debug-threads=on
        -nodefaults
        -no-user-config
        -display none
        -S
        -msg timestamp=on
        -machine q35,vmport=off,dump-guest-core=off,sata=off
        -accel kvm
        -cpu qemu64,+popcnt,+pni,+sse4.1,+sse4.2,+ssse3,enforce
        -smp cpus=2,sockets=1,cores=2,threads=1
        -m 1025M
        -boot strict=on
        -chardev socket,id=qmp,fd=%0
        -chardev socket,id=serial,fd=%1
        -chardev socket,id=ready,fd=%2
        -mon chardev=qmp,mode=control
        -serial chardev:serial
        -device {"addr":"01.0","driver":"virtio-serial-pci","id":"ports","multifunction":true}
        -device {"bus":"ports.0","chardev":"ready","driver":"virtserialport","name":"dev.hullvm.ready"}
        -blockdev {"driver":"nbd","export":"root","node-name":"drive0-image","read-only":true,"server":{"str":"%3","type":"fd"}}
        -add-fd fd=%4,set=%4
        -blockdev {"backing":"drive0-image","discard":"unmap","driver":"qcow2","file":{"discard":"unmap","driver":"file","filename":"/dev/fdset/%4"},"node-name":"drive0"}
        -device {"addr":"0a.0","bootindex":0,"drive":"drive0","driver":"virtio-blk-pci","serial":"root"}
        -add-fd fd=%5,set=%5
        -blockdev {"backing":null,"discard":"unmap","driver":"qcow2","file":{"discard":"unmap","driver":"file","filename":"/dev/fdset/%5"},"node-name":"drive1-content"}
        -object {"id":"drive1-limits","limits":{"bps-total":100000000,"iops-total":2000},"qom-type":"throttle-group"}
        -blockdev {"driver":"throttle","file":"drive1-content","node-name":"drive1","throttle-group":"drive1-limits"}
        -device {"addr":"0b.0","bootindex":1,"drive":"drive1","driver":"virtio-blk-pci","serial":"a-volume-with-a-very"}
        -blockdev {"driver":"nbd","export":"docs","node-name":"drive2","read-only":true,"server":{"str":"%6","type":"fd"}}
        -device {"addr":"0c.0","bootindex":2,"drive":"drive2","driver":"virtio-blk-pci","serial":"docs"}
        -netdev {"fd":"%7","id":"nic0","type":"tap"}
        -device {"addr":"02.0","driver":"virtio-net-pci","mac":"52:54:00:01:02:ff","netdev":"nic0","romfile":""}
        -object {"id":"random","qom-type":"rng-builtin"}
        -device {"addr":"01.1","driver":"virtio-rng-pci","rng":"random"}
        -device {"driver":"pvpanic"}
        -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        "#);
    }

    #[test]
    fn processors_are_named_by_what_they_promise() {
        let mut spec = spec();
        for (cpu, accel, want) in [
            (Cpu::Native, Accel::Kvm, "-cpu host"),
            (Cpu::Native, Accel::Tcg, ""),
            (Cpu::X86Level(X86Level::V1), Accel::Tcg, "-cpu qemu64,enforce"),
            (
                Cpu::X86Level(X86Level::V2),
                Accel::Tcg,
                "-cpu qemu64,+popcnt,+pni,+sse4.1,+sse4.2,+ssse3,enforce",
            ),
        ] {
            (spec.cpu, spec.accel) = (cpu, accel);
            assert_eq!(lines_with(&spec, "-cpu"), want);
        }
    }

    #[test]
    fn a_disk_more_does_not_move_the_network_interface() {
        let mut spec = spec();
        for count in 0..30 {
            spec.nics = vec![Nic { name: "eth0".into(), mac: [0; 6], tap: tap(), model: None }];
            assert!(lines_with(&spec, "virtio-net").contains(r#""addr":"02.0""#));
            assert!(!lines_with(&spec, "virtio-net").contains("multifunction"));
            spec.drives.push(overlay_drive(&format!("disk{count}")));
        }
        let drives = lines_with(&spec, "virtio-blk");
        assert!(drives.contains(
            r#"{"addr":"0a.0","bootindex":0,"drive":"drive0","driver":"virtio-blk-pci","multifunction":true"#
        ));
        assert!(drives.contains(r#"{"addr":"0a.1","bootindex":20,"drive":"drive20""#), "{drives}");
    }

    #[test]
    fn guests_without_virtio_get_what_they_know() {
        let mut spec = spec();
        spec.devices = Devices::Compat;
        spec.nics.push(Nic { name: "eth0".into(), mac: [2; 6], tap: tap(), model: None });
        for index in 0..6 {
            spec.drives.push(overlay_drive(&format!("disk{index}")));
        }
        insta::assert_snapshot!(lines_with(&spec, "drive5"), @r#"
        -blockdev {"driver":"nbd","export":"disk5","node-name":"drive5-image","read-only":true,"server":{"str":"%13","type":"fd"}}
        -blockdev {"backing":"drive5-image","discard":"unmap","driver":"qcow2","file":{"discard":"unmap","driver":"file","filename":"/dev/fdset/%14"},"node-name":"drive5"}
        -device {"bootindex":5,"bus":"ide.5","drive":"drive5","driver":"ide-hd","serial":"disk5"}
        "#);
        insta::assert_snapshot!(lines_with(&spec, "e1000"), @r#"-device {"addr":"02.0","driver":"e1000","mac":"02:02:02:02:02:02","netdev":"nic0","romfile":""}"#);
        insta::assert_snapshot!(lines_with(&spec, "-machine"), @r#"-machine q35,vmport=off,dump-guest-core=off"#);
    }

    /// A machine with `compat` devices whose drives are on `buses`.
    fn on_buses(buses: &[Option<Bus>]) -> MachineSpec {
        let mut spec = spec();
        spec.devices = Devices::Compat;
        for (index, &bus) in buses.iter().enumerate() {
            spec.drives.push(Drive { bus, ..overlay_drive(&format!("disk{index}")) });
        }
        spec
    }

    #[test]
    fn disks_are_attached_to_what_the_appliance_names() {
        let buses = [
            None,
            Some(Bus::Virtio),
            Some(Bus::Ide),
            Some(Bus::LsiLogic),
            Some(Bus::Nvme),
            Some(Bus::Ide),
            Some(Bus::LsiSas),
            Some(Bus::Pvscsi),
            Some(Bus::BusLogic),
            Some(Bus::Sata),
            Some(Bus::Ide),
        ];
        insta::assert_snapshot!(lines_with(&on_buses(&buses), "-device"), @r#"
        -device {"addr":"01.0","driver":"virtio-serial-pci","id":"ports","multifunction":true}
        -device {"bus":"ports.0","chardev":"ready","driver":"virtserialport","name":"dev.hullvm.ready"}
        -device {"bootindex":0,"bus":"ide.0","drive":"drive0","driver":"ide-hd","serial":"disk0"}
        -device {"addr":"0a.0","bootindex":1,"drive":"drive1","driver":"virtio-blk-pci","serial":"disk1"}
        -device {"addr":"0b.0","driver":"piix3-ide","id":"pata"}
        -device {"bootindex":2,"bus":"pata.0","drive":"drive2","driver":"ide-hd","serial":"disk2","unit":0}
        -device {"addr":"0c.0","driver":"lsi53c895a","id":"lsi0"}
        -device {"bootindex":3,"bus":"lsi0.0","drive":"drive3","driver":"scsi-hd","lun":0,"scsi-id":0,"serial":"disk3"}
        -device {"addr":"0d.0","bootindex":4,"drive":"drive4","driver":"nvme","serial":"disk4"}
        -device {"bootindex":5,"bus":"pata.0","drive":"drive5","driver":"ide-hd","serial":"disk5","unit":1}
        -device {"addr":"0e.0","driver":"mptsas1068","id":"sas0"}
        -device {"bootindex":6,"bus":"sas0.0","drive":"drive6","driver":"scsi-hd","lun":0,"scsi-id":0,"serial":"disk6"}
        -device {"addr":"0f.0","driver":"pvscsi","id":"pvscsi0"}
        -device {"bootindex":7,"bus":"pvscsi0.0","drive":"drive7","driver":"scsi-hd","lun":0,"scsi-id":0,"serial":"disk7"}
        -device {"bootindex":8,"bus":"lsi0.0","drive":"drive8","driver":"scsi-hd","lun":0,"scsi-id":1,"serial":"disk8"}
        -device {"bootindex":9,"bus":"ide.1","drive":"drive9","driver":"ide-hd","serial":"disk9"}
        -device {"bootindex":10,"bus":"pata.1","drive":"drive10","driver":"ide-hd","serial":"disk10","unit":0}
        -device {"addr":"01.1","driver":"virtio-rng-pci","rng":"random"}
        -device {"driver":"pvpanic"}
        "#);
    }

    /// The last of `count` drives on `bus` has `parts` among its arguments.
    #[track_caller]
    fn check_last(bus: Bus, count: usize, parts: &[&str]) {
        let shown = lines_with(&on_buses(&vec![Some(bus); count]), "-device");
        let last: Vec<&str> = shown.lines().skip_while(|line| !line.contains("\"drive0\"")).collect();
        for part in parts {
            assert!(last.iter().any(|line| line.contains(part)), "{part} in\n{shown}");
        }
    }

    #[test]
    fn a_full_controller_is_followed_by_another_one_but_for_ide() {
        check_last(Bus::Sata, 6, &[r#""bus":"ide.5""#]);
        check_last(
            Bus::Sata,
            7,
            &[r#""addr":"0a.0","driver":"ich9-ahci","id":"sata1""#, r#""bus":"sata1.0""#],
        );
        check_last(
            Bus::Ide,
            4,
            &[r#""bus":"pata.1","drive":"drive3","driver":"ide-hd","serial":"disk3","unit":1"#],
        );
        check_last(
            Bus::LsiLogic,
            8,
            &[r#""addr":"0b.0","driver":"lsi53c895a","id":"lsi1""#, r#""bus":"lsi1.0""#],
        );
        check_last(
            Bus::LsiSas,
            9,
            &[r#""addr":"0b.0","driver":"mptsas1068","id":"sas1""#, r#""bus":"sas1.0""#],
        );
        check_last(Bus::Pvscsi, 30, &[r#""bus":"pvscsi0.0","drive":"drive29""#, r#""scsi-id":29"#]);
        check_last(Bus::Nvme, 21, &[r#""addr":"0a.1","bootindex":20,"drive":"drive20","driver":"nvme""#]);
        check_impossible(
            &on_buses(&[Some(Bus::Ide); 5]),
            "a drive number 5 on IDE is not possible; there are places for 4; name another `bus` for the others",
        );
    }

    #[test]
    fn read_only_disks_are_not_on_sata_or_ide() {
        for (bus, possible) in [
            (None, false),
            (Some(Bus::Ide), false),
            (Some(Bus::Nvme), true),
            (Some(Bus::LsiSas), true),
            (Some(Bus::Virtio), true),
        ] {
            let mut spec = on_buses(&[bus]);
            spec.drives[0].content = DriveContent::ReadOnly { image: image() };
            if possible {
                assert!(command_line(&spec, LINES).is_ok(), "{bus:?}");
                continue;
            }
            check_impossible(
                &spec,
                "a read-only disk `disk0` on SATA or IDE is not possible; disks there can be written; use `ephemeral`, \
                 or name another `bus`",
            );
        }
    }

    #[test]
    fn a_controller_that_qemu_has_not_is_replaced_and_the_person_told() {
        let mut spec = on_buses(&[Some(Bus::BusLogic), Some(Bus::Sata), Some(Bus::LsiLogic)]);
        let notices = |spec: &MachineSpec| command_line(spec, LINES).unwrap().notices.join("\n");
        insta::assert_snapshot!(notices(&spec), @"
        disk `disk0` is attached to an LSI 53C895A, for QEMU has no model of a BusLogic controller; a guest without a driver for it (Linux: sym53c8xx) will not find the disk
        disk `disk2` is attached to an LSI 53C895A, for QEMU has no model of VMware's LSI Logic controller, a 53C1030; a guest without a driver for it (Linux: sym53c8xx) will not find the disk
        ");
        spec.devices = Devices::Virtio;
        assert_eq!(notices(&spec), "");
    }

    #[test]
    fn buses_and_models_hold_with_compat_devices_only() {
        let mut spec = on_buses(&[Some(Bus::Ide)]);
        spec.devices = Devices::Virtio;
        spec.nics.push(Nic { name: "eth0".into(), mac: [2; 6], tap: tap(), model: Some(NicModel::Pcnet) });
        assert!(lines_with(&spec, "drive0").contains(r#""driver":"virtio-blk-pci""#));
        assert!(lines_with(&spec, "nic0").contains(r#""driver":"virtio-net-pci""#));
    }

    #[test]
    fn nics_are_the_cards_that_the_appliance_names() {
        for (model, driver) in [
            (None, "e1000"),
            (Some(NicModel::E1000), "e1000"),
            (Some(NicModel::E1000e), "e1000e"),
            (Some(NicModel::Pcnet), "pcnet"),
            (Some(NicModel::Rtl8139), "rtl8139"),
            (Some(NicModel::Vmxnet3), "vmxnet3"),
            (Some(NicModel::Virtio), "virtio-net-pci"),
        ] {
            let mut spec = on_buses(&[]);
            spec.nics.push(Nic { name: "eth0".into(), mac: [2; 6], tap: tap(), model });
            let want = format!(r#""addr":"02.0","driver":"{driver}","mac""#);
            assert!(lines_with(&spec, "-device").contains(&want), "{model:?}");
        }
    }

    #[test]
    fn arm64_has_no_ide_and_no_sata_controller_of_its_own() {
        let mut spec = on_buses(&[Some(Bus::Sata)]);
        (spec.arch, spec.cpu, spec.firmware) = (Arch::Arm64, Cpu::Native, Firmware::Rom("/rom".into()));
        let shown = lines_with(&spec, "sata0");
        assert!(shown.contains(r#"{"addr":"0a.0","driver":"ich9-ahci","id":"sata0"}"#), "{shown}");
        assert!(shown.contains(r#""bus":"sata0.0""#), "{shown}");
        spec.drives[0].bus = Some(Bus::Ide);
        check_impossible(&spec, "an IDE controller on arm64 is not possible; name another `bus`");
    }

    #[test]
    fn secure_boot_protects_its_variables() {
        let mut spec = spec();
        spec.firmware = Firmware::Uefi {
            code: "/usr/share/OVMF/OVMF_CODE_4M.ms.fd".into(),
            variables: open_file(),
            secure_boot: SecureBoot::Enforced,
        };
        insta::assert_snapshot!(lines_with(&spec, "firmware-"), @r#"
        -machine q35,vmport=off,dump-guest-core=off,sata=off,pflash0=firmware-code,pflash1=firmware-variables,smm=on
        -blockdev {"driver":"raw","file":{"driver":"file","filename":"/usr/share/OVMF/OVMF_CODE_4M.ms.fd","read-only":true},"node-name":"firmware-code","read-only":true}
        -blockdev {"driver":"raw","file":{"discard":"unmap","driver":"file","filename":"/dev/fdset/%0"},"node-name":"firmware-variables"}
        "#);
        assert_eq!(lines_with(&spec, "-global"), "-global driver=cfi.pflash01,property=secure,value=on");
    }

    #[test]
    fn arm64_is_another_machine() {
        let mut spec = spec();
        spec.arch = Arch::Arm64;
        spec.cpu = Cpu::X86Level(X86Level::V1);
        check_impossible(
            &spec,
            "an x86-64 level on arm64 is not possible; leave `cpu` out for arm64 machines",
        );
        (spec.cpu, spec.accel) = (Cpu::Native, Accel::Tcg);
        check_impossible(&spec, "a PC BIOS on arm64 is not possible; arm64 machines start with `uefi`");
        spec.firmware = Firmware::Rom("/rom".into());
        let shown = shown(&spec);
        assert!(shown.contains("\n-machine virt,gic-version=max,dump-guest-core=off\n"), "{shown}");
        assert!(shown.contains("\n-cpu max,pauth-impdef=on\n") && !shown.contains("pvpanic"), "{shown}");
    }
}
