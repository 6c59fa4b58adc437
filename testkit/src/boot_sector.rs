//! A guest of one sector: it says `BOOT` and halts for ever.
//!
//! For drills that need a machine which is certainly running and certainly not going to end by
//! itself. Made for a PC BIOS, which loads it to 0x7c00 from the first disk.

/// What the boot sector writes to the first serial port.
pub const BOOT_SECTOR_SAYS: &str = "BOOT\r\n";

const SIZE_BYTES: usize = 512;

#[rustfmt::skip]
const CODE: [u8; 0x17] = [
    0xfa,             // 00: cli
    0x31, 0xc0,       // 01: xor  %ax, %ax
    0x8e, 0xd8,       // 03: mov  %ax, %ds
    0xfc,             // 05: cld
    0xba, 0xf8, 0x03, // 06: mov  $0x3f8, %dx     first serial port
    0xbe, 0x17, 0x7c, // 09: mov  $0x7c17, %si    the line, at the end of the code
    0xac,             // 0c: lods %ds:(%si), %al
    0x84, 0xc0,       // 0d: test %al, %al
    0x74, 0x03,       // 0f: je   14
    0xee,             // 11: out  %al, (%dx)
    0xeb, 0xf8,       // 12: jmp  0c
    0xf4,             // 14: hlt
    0xeb, 0xfd,       // 15: jmp  14
];

/// The sector, 512 bytes: the beginning of a disk of any size.
pub fn boot_sector() -> Vec<u8> {
    let mut sector = vec![0; SIZE_BYTES];
    sector[..CODE.len()].copy_from_slice(&CODE);
    sector[CODE.len()..][..BOOT_SECTOR_SAYS.len()].copy_from_slice(BOOT_SECTOR_SAYS.as_bytes());
    sector[SIZE_BYTES - 2..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
