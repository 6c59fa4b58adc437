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
//! slots 10-29   drives    (the twenty-first and later likewise)
//! ```

use std::ffi::OsString;
use std::os::fd::{AsRawFd, RawFd};

use appliance::{Arch, Devices};
use serde_json::{Value, json};

use crate::engine::{
    Accel, Cpu, Drive, DriveContent, DriveLimits, Firmware, MachineSpec, Nic, READY_PORT, SecureBoot,
    StartError, X86Level,
};

/// Everything a guest could use to get at the host through QEMU's own system calls.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

const FIRST_NIC: PciRange = PciRange { first_slot: 2, slots: 8 };
const FIRST_DRIVE: PciRange = PciRange { first_slot: 10, slots: 20 };

/// The ports of q35's own SATA controller.
const SATA_PORTS: usize = 6;

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
    let mut line = CommandLine { args: Vec::new(), inherited: Vec::new() };
    line.machine(spec)?;
    line.firmware(spec)?;
    line.connections(lines);
    for (index, drive) in spec.drives.iter().enumerate() {
        line.drive(spec, index, drive)?;
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
    fn drive(&mut self, spec: &MachineSpec, index: usize, drive: &Drive) -> Result<(), StartError> {
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
        let device = match spec.devices {
            Devices::Virtio => {
                FIRST_DRIVE.place(spec.drives.len(), index, json!({ "driver": "virtio-blk-pci" }))
            }
            Devices::Compat => sata_disk(index, drive)?,
        };
        let serial: String = drive.name.chars().take(MAX_SERIAL_CHARS).collect();
        self.json("-device", &merged(device, json!({ "drive": top, "serial": serial, "bootindex": index })));
        Ok(())
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
        let driver = match spec.devices {
            Devices::Virtio => "virtio-net-pci",
            Devices::Compat => "e1000",
        };
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
    if spec.arch == Arch::Amd64 && spec.devices == Devices::Virtio {
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

fn sata_disk(index: usize, drive: &Drive) -> Result<Value, StartError> {
    if index >= SATA_PORTS {
        return Err(StartError::Impossible {
            what: format!("a drive number {} with `compat` devices", index + 1),
            wanted: "the SATA controller has 6 ports; use `virtio` devices for more",
        });
    }
    if matches!(drive.content, DriveContent::ReadOnly { .. }) {
        return Err(StartError::Impossible {
            what: format!("a read-only disk `{}` with `compat` devices", drive.name.escape_debug()),
            wanted: "SATA disks can be written; use `ephemeral`, or `virtio` devices",
        });
    }
    Ok(json!({ "driver": "ide-hd", "bus": format!("ide.{index}") }))
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
        Drive { name: name.into(), content, limits: DriveLimits::default() }
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
            limits: DriveLimits { iops: Some(2000), bytes_per_second: Some(100_000_000) },
        });
        spec.drives.push(Drive {
            name: "docs".into(),
            content: DriveContent::ReadOnly { image: image() },
            limits: DriveLimits::default(),
        });
        spec.nics.push(Nic { name: "eth0".into(), mac: [0x52, 0x54, 0, 1, 2, 0xff], tap: tap() });
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
            spec.nics = vec![Nic { name: "eth0".into(), mac: [0; 6], tap: tap() }];
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
        spec.nics.push(Nic { name: "eth0".into(), mac: [2; 6], tap: tap() });
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
        spec.drives.push(overlay_drive("seventh"));
        check_impossible(
            &spec,
            "a drive number 7 with `compat` devices is not possible; the SATA controller has 6 ports; use `virtio` \
             devices for more",
        );
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
