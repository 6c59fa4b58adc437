//! Machines started for real: tiny guests under QEMU, translated and, where there is a `/dev/kvm`, on it.

#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use appliance::{Arch, Bus, Devices};
use formats::{Disk, ReadError, Run, RunKind};
use vm_runner::engine::{
    Accel, Cpu, Drive, DriveContent, DriveLimits, Firmware, Hypervisor, MachineEvent, MachineSpec,
    ProcessOptions, SecureBoot, ShutdownCause, StartError, Started, UnixUser,
};
use vm_runner::nbd::{Connection, Export};
use vm_runner::overlay;
use vm_runner::qemu::{Qemu, find_uefi};

const PATIENT: Duration = Duration::from_secs(300);

/// The QEMU for amd64, or the reason for skipping.
fn qemu() -> Option<Qemu> {
    let found = Qemu::find(Arch::Amd64, &std::env::var_os("PATH").unwrap_or_default());
    found.inspect_err(|error| eprintln!("skipped: {error}")).ok()
}

fn spec(firmware: Firmware, accel: Accel) -> MachineSpec {
    MachineSpec {
        name: "test, with a comma".into(),
        arch: Arch::Amd64,
        vcpus: 1,
        memory_bytes: 64 << 20,
        firmware,
        cpu: Cpu::Native,
        accel,
        devices: Devices::Virtio,
        drives: Vec::new(),
        nics: Vec::new(),
    }
}

fn options(user: Option<UnixUser>) -> ProcessOptions {
    ProcessOptions { user, log: tempfile::tempfile().unwrap() }
}

/// A file that every user may read, in a folder that every user may enter.
fn readable_by_all(folder: &Path, name: &str, content: &[u8]) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// Reads until the guest has said `line`.
#[track_caller]
fn hear(serial: &mut UnixStream, line: &str) {
    serial.set_read_timeout(Some(PATIENT)).unwrap();
    let mut said = Vec::new();
    while !said.ends_with(line.as_bytes()) {
        let mut byte = [0];
        let read = serial.read(&mut byte);
        assert!(matches!(read, Ok(1)), "{read:?} after {:?}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
}

/// The ROM guest says its line and powers off, and the engine sees all of it.
fn run_rom(accel: Accel, user: Option<UnixUser>) {
    let Some(qemu) = qemu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let rom = readable_by_all(folder.path(), "rom.bin", &testkit::rom());
    let Started { machine, events, mut serial, ready: _ready, .. } =
        qemu.start_paused(spec(Firmware::Rom(rom), accel), options(user)).unwrap();
    assert!(machine.monitor().starts_with("QEMU "));
    assert_eq!(machine.wait(Duration::ZERO).unwrap(), None);
    if let Some(user) = user {
        let status = std::fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap();
        let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        assert_eq!(line("Uid:"), format!("Uid:\t{0}\t{0}\t{0}\t{0}", user.uid));
        assert_eq!(line("Groups:").trim_end(), "Groups:");
        assert_eq!(line("NoNewPrivs:"), "NoNewPrivs:\t1");
    }
    machine.resume().unwrap();
    hear(&mut serial, testkit::ROM_SAYS);
    let seen: Vec<MachineEvent> = events.iter().collect(); // Ends when QEMU does.
    assert_eq!(seen, [MachineEvent::Resumed, MachineEvent::Shutdown(ShutdownCause::Guest)]);
    let status = machine.wait(PATIENT).unwrap().unwrap();
    assert!(status.success(), "{status}: {:#?}", machine.transcript());
}

#[test]
fn the_rom_guest_runs_translated() {
    run_rom(Accel::Tcg, None);
}

#[test]
fn the_rom_guest_runs_on_kvm() {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        eprintln!("skipped: /dev/kvm: {error}");
        return;
    }
    run_rom(Accel::Kvm, None);
}

#[test]
fn the_rom_guest_runs_as_another_user() {
    if let Some(nobody) = nobody() {
        run_rom(Accel::Tcg, Some(nobody));
    }
}

/// A user without rights, where we may become one.
fn nobody() -> Option<UnixUser> {
    if rustix::process::geteuid().is_root() {
        return Some(UnixUser { uid: 65534, gid: 65534 });
    }
    eprintln!("skipped: becoming another user needs root");
    None
}

/// UEFI firmware looks for something to boot, and says so on the serial port.
#[test]
fn uefi_firmware_looks_for_something_to_boot() {
    let Some(qemu) = qemu() else { return };
    for secure_boot in [SecureBoot::Off, SecureBoot::Enforced] {
        let firmware = match find_uefi(Path::new("/"), Arch::Amd64, secure_boot) {
            Ok(firmware) => firmware,
            Err(missing) => return eprintln!("skipped: {missing}"),
        };
        let mut variables = tempfile::tempfile().unwrap();
        std::io::copy(&mut File::open(firmware.variables_template).unwrap(), &mut variables).unwrap();
        let uefi = Firmware::Uefi { code: firmware.code, variables, secure_boot };
        let mut spec = spec(uefi, Accel::Tcg);
        spec.memory_bytes = 256 << 20;
        let mut started = qemu.start_paused(spec, options(nobody())).unwrap();
        started.machine.resume().unwrap();
        hear(&mut started.serial, "BdsDxe: ");
    }
}

/// A disk that holds a boot sector and then nothing, and counts on nobody reading past its end.
#[derive(Debug)]
struct BootDisk(Vec<u8>);

impl Disk for BootDisk {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        for (at, byte) in (offset as usize..).zip(buf) {
            *byte = self.0.get(at).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn runs(&self, _offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        Ok(vec![Run { len, kind: RunKind::Data }])
    }
}

/// A machine that boots the boot sector over NBD, beneath an overlay, and never ends by itself.
fn boot_sector_machine(user: Option<UnixUser>) -> Option<(Started, Connection)> {
    boot_sector_machine_with(Devices::Virtio, None, user)
}

/// The same, with the disk on `bus`.
fn boot_sector_machine_with(
    devices: Devices,
    bus: Option<Bus>,
    user: Option<UnixUser>,
) -> Option<(Started, Connection)> {
    let qemu = qemu()?;
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(BootDisk(testkit::boot_sector()));
    let export = Export::new("root", disk, |failure| panic!("{failure:?}"));
    let (connection, image) = Connection::pair(export.into()).unwrap();
    let mut spec = spec(Firmware::Bios, Accel::Tcg);
    spec.cpu = Cpu::X86Level(vm_runner::engine::X86Level::V2);
    spec.devices = devices;
    spec.drives.push(Drive {
        name: "root".into(),
        content: DriveContent::Overlay {
            image,
            overlay: overlay::create_ephemeral(folder.path(), 1 << 20).unwrap(),
        },
        limits: DriveLimits { iops: Some(10_000), bytes_per_second: Some(100_000_000) },
        bus,
    });
    Some((qemu.start_paused(spec, options(user)).unwrap(), connection))
}

#[test]
fn a_guest_boots_from_our_nbd_server_beneath_an_overlay() {
    let Some((mut started, connection)) = boot_sector_machine(nobody()) else { return };
    started.machine.resume().unwrap();
    hear(&mut started.serial, testkit::BOOT_SECTOR_SAYS);
    let counters = started.machine.drive_counters().unwrap();
    assert_eq!(counters.len(), 1);
    assert_eq!(counters[0].drive, "root");
    assert!(counters[0].read_bytes >= 512 && counters[0].written_bytes == 0, "{counters:?}");

    started.machine.pause().unwrap();
    started.machine.power_off().unwrap();
    let status = started.machine.wait(PATIENT).unwrap().unwrap();
    assert!(status.success(), "{status}");
    let seen: Vec<MachineEvent> = started.events.iter().collect();
    let off = MachineEvent::Shutdown(ShutdownCause::Host);
    assert_eq!(seen, [MachineEvent::Resumed, MachineEvent::Paused, off]);
    connection.wait(); // QEMU's end is closed, so the server's ends.
    assert!(started.machine.resume().is_err());
}

/// Firmware finds the disk behind every controller that an appliance can name.
#[test]
fn a_guest_without_virtio_boots_from_every_controller() {
    let named =
        [None, Some(Bus::Ide), Some(Bus::Nvme), Some(Bus::LsiLogic), Some(Bus::LsiSas), Some(Bus::Pvscsi)];
    for bus in named {
        let Some((mut started, _connection)) = boot_sector_machine_with(Devices::Compat, bus, nobody())
        else {
            return;
        };
        started.machine.resume().unwrap();
        hear(&mut started.serial, testkit::BOOT_SECTOR_SAYS);
        assert_eq!(started.notices.len(), usize::from(bus == Some(Bus::LsiLogic)), "{bus:?}");
    }
}

/// More drives than one controller has places for, where that is possible, and read-only ones among them.
#[test]
fn qemu_accepts_every_arrangement_of_drives() {
    let Some(qemu) = qemu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let drive = |index: usize, bus, read_only: bool| {
        let export = Export::new(format!("disk{index}"), Arc::new(BootDisk(Vec::new())), |_| {});
        let (connection, image) = Connection::pair(export.into()).unwrap();
        let content = if read_only {
            DriveContent::ReadOnly { image }
        } else {
            DriveContent::Overlay {
                image,
                overlay: overlay::create_ephemeral(folder.path(), 1 << 20).unwrap(),
            }
        };
        let name = format!("disk{index}");
        (Drive { name, content, limits: DriveLimits::default(), bus }, connection)
    };
    for (bus, count) in [
        (Bus::Sata, 14),
        (Bus::Ide, 4),
        (Bus::Nvme, 22),
        (Bus::LsiLogic, 15),
        (Bus::LsiSas, 17),
        (Bus::Pvscsi, 65),
    ] {
        let mut spec = spec(Firmware::Bios, Accel::Tcg);
        spec.devices = Devices::Compat;
        let can_be_read_only = !matches!(bus, Bus::Sata | Bus::Ide);
        let drives = (0..count).map(|index| drive(index, Some(bus), can_be_read_only && index % 2 == 1));
        let (drives, _connections): (Vec<_>, Vec<_>) = drives.unzip();
        spec.drives = drives;
        let started = qemu.start_paused(spec, options(None));
        assert!(started.is_ok(), "{count} on {bus:?}: {started:?}");
    }
}

#[test]
fn a_machine_that_is_killed_says_so() {
    let Some((mut started, _connection)) = boot_sector_machine(None) else { return };
    started.machine.resume().unwrap();
    hear(&mut started.serial, testkit::BOOT_SECTOR_SAYS);
    started.machine.kill();
    let status = started.machine.wait(PATIENT).unwrap().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(started.events.iter().last(), Some(MachineEvent::Resumed)); // And the channel has ended.
    assert!(started.machine.power_off().is_ok());
    let error = started.machine.resume().unwrap_err();
    assert_eq!(error.to_string(), "QEMU closed its QMP socket before answering `cont`");
}

#[test]
fn a_machine_ends_with_the_thread_that_started_it() {
    let (sender, receiver) = channel();
    let starter = std::thread::spawn(move || sender.send(boot_sector_machine(None)).unwrap());
    let started = receiver.recv().unwrap();
    starter.join().unwrap();
    let Some((started, _connection)) = started else { return };
    let status = started.machine.wait(PATIENT).unwrap().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[test]
fn a_qemu_that_refuses_is_quoted() {
    let Some(qemu) = qemu() else { return };
    let rom = Firmware::Rom("/nonexistent/rom.bin".into());
    let error = qemu.start_paused(spec(rom, Accel::Tcg), options(None)).unwrap_err();
    let StartError::Exited { status, said, .. } = error else { panic!("{error:?}") };
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("/nonexistent/rom.bin"), "{said}");
}

#[test]
fn a_program_that_is_no_qemu_is_found_out() {
    let script = tempfile::tempdir().unwrap();
    for (program, want) in [
        ("/bin/true", "/bin/true ended with exit status: 0 before the machine was there: it said nothing"),
        ("/nonexistent", "cannot start /nonexistent"),
    ] {
        let engine = Qemu::at(program.into());
        let error = engine.start_paused(spec(Firmware::Bios, Accel::Tcg), options(None)).unwrap_err();
        assert_eq!(error.to_string(), want);
    }
    let missing = Qemu::find(Arch::Amd64, script.path().as_os_str()).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "`qemu-system-x86_64` is not installed; Debian and Ubuntu have it in the package qemu-system-x86"
    );
}
