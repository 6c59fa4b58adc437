//! Which firmware a disk boots with, where nobody says it.
//!
//! A disk that can only boot with UEFI has an EFI system partition, and nothing that a PC BIOS could start: no code
//! in its first sector, and no BIOS boot partition for a loader's second part. Everything else is taken to boot with
//! a BIOS, as disks for both do.
//!
//! Source: UEFI specification 2.10, 5.2 (MBR) and 5.3 (GPT).

use appliance::Firmware;
use formats::{Disk, ReadError};

const SECTOR: u64 = 512;
/// The code in the first sector ends here: a disk signature and the partition table follow.
const CODE_BYTES: usize = 440;
/// Partition entries that are looked at: as many as a GPT has by default.
const MAX_ENTRIES: u64 = 128;

/// C12A7328-F81F-11D2-BA4B-00A0C93EC93B, as it lies on the disk.
const EFI_SYSTEM: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// 21686148-6449-6E6F-744E-656564454649, as it lies on the disk.
const BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";
/// An EFI system partition in an MBR.
const MBR_EFI_SYSTEM: u8 = 0xef;

/// The firmware that `disk` boots with on a PC.
///
/// # Errors
///
/// Those of reading it.
pub(super) fn of_disk(disk: &dyn Disk) -> Result<Firmware, ReadError> {
    let Some(first) = sector(disk, 0)? else { return Ok(Firmware::Bios) };
    let has_code = first[..CODE_BYTES].iter().any(|byte| *byte != 0);
    let is_mbr = first[510..] == [0x55, 0xaa];
    if has_code || !is_mbr {
        return Ok(Firmware::Bios);
    }
    let mbr = first[446..510].chunks_exact(16).any(|entry| entry[4] == MBR_EFI_SYSTEM);
    let types = gpt_types(disk)?;
    let uefi = (mbr || types.contains(&EFI_SYSTEM)) && !types.contains(&BIOS_BOOT);
    Ok(if uefi { Firmware::Uefi } else { Firmware::Bios })
}

/// The types of the partitions of a GPT; none where there is no GPT.
fn gpt_types(disk: &dyn Disk) -> Result<Vec<[u8; 16]>, ReadError> {
    let Some(header) = sector(disk, 1)?.filter(|header| header.starts_with(b"EFI PART")) else {
        return Ok(Vec::new());
    };
    let field = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let first = u64::from_le_bytes(header[72..80].try_into().expect("eight bytes"));
    let (count, entry_bytes) = (u64::from(field(80)).min(MAX_ENTRIES), u64::from(field(84)));
    let mut types = Vec::new();
    for n in 0..count {
        let mut kind = [0; 16];
        let offset = n.checked_mul(entry_bytes).zip(first.checked_mul(SECTOR));
        let Some(offset) = offset.and_then(|(within, table)| table.checked_add(within)) else { break };
        if offset.checked_add(16).is_none_or(|end| end > disk.size_bytes()) {
            break;
        }
        disk.read_at(offset, &mut kind)?;
        types.push(kind);
    }
    Ok(types)
}

/// A sector; `None` where the disk ends before it does.
fn sector(disk: &dyn Disk, number: u64) -> Result<Option<[u8; SECTOR as usize]>, ReadError> {
    let mut sector = [0; SECTOR as usize];
    if disk.size_bytes() < (number + 1) * SECTOR {
        return Ok(None);
    }
    disk.read_at(number * SECTOR, &mut sector)?;
    Ok(Some(sector))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use formats::image::{ImageRequest, Limits, Source, open};

    use super::*;

    /// A disk of 1 MiB with an MBR, in which `bytes` lie at the offsets before them.
    #[track_caller]
    fn check(bytes: &[(usize, &[u8])], want: Firmware) {
        let mut content = vec![0; 1 << 20];
        content[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (offset, bytes) in bytes {
            content[*offset..][..bytes.len()].copy_from_slice(bytes);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let limits = Limits { max_size_bytes: u64::MAX };
        let disk = open(ImageRequest::new(Source::new(file).unwrap(), "disk", limits)).unwrap().disk;
        assert_eq!(of_disk(&*disk).unwrap(), want);
    }

    #[test]
    fn only_a_disk_that_no_bios_could_boot_is_for_uefi() {
        const SIGNATURE: (usize, &[u8]) = (512, b"EFI PART");
        const TABLE: (usize, &[u8]) = (512 + 72, &[2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 128, 0, 0, 0]);
        const ESP: (usize, &[u8]) = (1024 + 128, &EFI_SYSTEM);
        check(&[], Firmware::Bios);
        check(&[SIGNATURE, TABLE, ESP], Firmware::Uefi);
        check(&[SIGNATURE, TABLE, ESP, (0, b"\xeb\x63")], Firmware::Bios);
        check(&[SIGNATURE, TABLE, ESP, (1024, &BIOS_BOOT)], Firmware::Bios);
        check(&[SIGNATURE, TABLE], Firmware::Bios);
        check(&[(446 + 16 + 4, &[0xef])], Firmware::Uefi);
        check(&[ESP], Firmware::Bios);
        check(&[SIGNATURE, TABLE, ESP, (510, &[0, 0])], Firmware::Bios);
        // Fields that lead out of the disk, or nowhere.
        check(&[SIGNATURE, ESP, (512 + 72, &[0xff; 16])], Firmware::Bios);
        check(
            &[SIGNATURE, ESP, (512 + 72, &[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])],
            Firmware::Bios,
        );
    }
}
