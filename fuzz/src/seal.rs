//! Checksums, set right: damage would otherwise end at them, and what lies behind would never be tried.
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format"; Microsoft, "Virtual Hard Disk Image Format Specification" 1.0 (VHD); MS-VHDX 7.0, sections 2.2 and 2.3.

/// Sets the checksums of what looks like a tar header.
pub(crate) fn tar(file: &mut [u8]) {
    for header in
        file.as_chunks_mut::<512>().0.iter_mut().filter(|header| header[257..].starts_with(b"ustar"))
    {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        header[154] = 0;
    }
}

/// Sets the checksums of a VHD's footers and header.
pub(crate) fn vhd(file: &mut [u8]) {
    let last = file.len().saturating_sub(512);
    for at in [0, last] {
        if let Some(footer) = file.get_mut(at..at + 512).filter(|footer| footer.starts_with(b"conectix")) {
            sum(footer, 64);
        }
    }
    let header = file.get(16..24).and_then(|offset| offset.try_into().ok()).map_or(0, u64::from_be_bytes);
    let header = usize::try_from(header).ok().and_then(|at| file.get_mut(at..at.checked_add(1024)?));
    if let Some(header) = header.filter(|header| header.starts_with(b"cxsparse")) {
        sum(header, 36);
    }
}

fn sum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add((*byte).into()));
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// Sets the checksums of a VHDX's headers and region tables, and of the entries of its log that look like such.
pub(crate) fn vhdx(file: &mut [u8]) {
    const KIB: usize = 1024;
    for (at, len) in [(64, 4), (128, 4), (192, 64), (256, 64)] {
        if let Some(part) = file.get_mut(at * KIB..(at + len) * KIB) {
            crc(part);
        }
    }
    let entries = file.chunks_exact(4 * KIB).enumerate().filter(|(_, sector)| sector.starts_with(b"loge"));
    let entries: Vec<usize> = entries.map(|(number, _)| number * 4 * KIB).collect();
    for at in entries {
        let len = u32::from_le_bytes(file[at + 8..at + 12].try_into().expect("4 bytes")) as usize;
        if let Some(entry) = file.get_mut(at..at + len.clamp(4 * KIB, 1 << 20)) {
            crc(entry);
        }
    }
}

/// CRC-32C of all of `part` but the field for it, at byte 4.
fn crc(part: &mut [u8]) {
    part[4..8].fill(0);
    let crc = !part.iter().fold(u32::MAX, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]);
    part[4..8].copy_from_slice(&crc.to_le_bytes());
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut number = 0;
    while number < 256 {
        let mut crc = number as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[number] = crc;
        number += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, appendix B.4: 32 bytes of zeros.
        let mut part = vec![0; 32];
        crc(&mut part);
        assert_eq!(part[4..8], 0x8a91_36aa_u32.to_le_bytes());
    }
}
