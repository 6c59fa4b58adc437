//! A guest of 77 bytes that stands where the firmware would: it says one line and powers off.
//!
//! It uses only what every accelerator manages, an emulated `/dev/kvm` included: real mode, port
//! output, no memory writes, no stack, no interrupts. A run of it proves the command line, the
//! device, the QMP handshake, `cont`, the serial port, events and the exit status.

/// What the ROM writes to the first serial port.
pub const ROM_SAYS: &str = "HULL-ROM OK\r\n";

/// Size of the image: the last 64 KiB below 4 GiB, where the processor starts.
const SIZE_BYTES: usize = 64 << 10;

/// Where the processor fetches its first instruction, 16 bytes before the end.
const RESET_VECTOR: usize = 0xfff0;

/// Power-off as a chipset sees it: the ROM maps the ICH9's power management ports at 0x600 itself
/// (PCI 00:1f.0, registers 0x40 and 0x44), then asks for state S5.
#[rustfmt::skip]
const CODE: [u8; 0x42] = [
    0xfa,                               // 00: cli
    0x2e, 0xbe, 0x42, 0x00,             // 01: mov  $0x42, %si          the line, at the end of the code
    0xba, 0xf8, 0x03,                   // 05: mov  $0x3f8, %dx         first serial port
    0x2e, 0xac,                         // 08: lods %cs:(%si), %al
    0x84, 0xc0,                         // 0a: test %al, %al
    0x74, 0x03,                         // 0c: je   11
    0xee,                               // 0e: out  %al, (%dx)
    0xeb, 0xf7,                         // 0f: jmp  08
    0xba, 0xf8, 0x0c,                   // 11: mov  $0xcf8, %dx         PCI address:
    0x66, 0xb8, 0x40, 0xf8, 0x00, 0x80, // 14: mov  $0x8000f840, %eax   00:1f.0, PMBASE
    0x66, 0xef,                         // 1a: out  %eax, (%dx)
    0xba, 0xfc, 0x0c,                   // 1c: mov  $0xcfc, %dx         PCI data
    0x66, 0xb8, 0x01, 0x06, 0x00, 0x00, // 1f: mov  $0x601, %eax        ports from 0x600
    0x66, 0xef,                         // 25: out  %eax, (%dx)
    0xba, 0xf8, 0x0c,                   // 27: mov  $0xcf8, %dx
    0x66, 0xb8, 0x44, 0xf8, 0x00, 0x80, // 2a: mov  $0x8000f844, %eax   00:1f.0, ACPI_CNTL
    0x66, 0xef,                         // 30: out  %eax, (%dx)
    0xba, 0xfc, 0x0c,                   // 32: mov  $0xcfc, %dx
    0xb0, 0x80,                         // 35: mov  $0x80, %al          decode PMBASE
    0xee,                               // 37: out  %al, (%dx)
    0xba, 0x04, 0x06,                   // 38: mov  $0x604, %dx         PM1_CNT:
    0xb8, 0x00, 0x20,                   // 3b: mov  $0x2000, %ax        SLP_EN, S5
    0xef,                               // 3e: out  %ax, (%dx)
    0xf4,                               // 3f: hlt
    0xeb, 0xfd,                         // 40: jmp  3f
];

/// The ROM, 64 KiB, for QEMU's `-bios` with the q35 machine.
pub fn rom() -> Vec<u8> {
    let mut image = vec![0; SIZE_BYTES];
    image[..CODE.len()].copy_from_slice(&CODE);
    image[CODE.len()..][..ROM_SAYS.len()].copy_from_slice(ROM_SAYS.as_bytes()); // A zero follows.
    image[RESET_VECTOR..][..3].copy_from_slice(&[0xe9, 0x0d, 0x00]); // jmp 0000
    image
}
