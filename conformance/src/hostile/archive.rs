//! Tar archives made by hand: headers that say whatever is wanted, with right checksums.
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format".

use super::bytes::Bytes;

const BLOCK: usize = 512;

/// An archive that grows by members.
#[derive(Debug, Clone, Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn file(self, name: &str, content: &[u8]) -> Self {
        self.member(b'0', name.as_bytes(), content)
    }

    /// A member of any type.
    pub(super) fn member(self, kind: u8, name: &[u8], content: &[u8]) -> Self {
        let header = header(kind, name, b"", content.len() as u64);
        self.header(&header).content(content)
    }

    /// A link, without content.
    pub(super) fn link(self, kind: u8, name: &str, target: &str) -> Self {
        self.header(&header(kind, name.as_bytes(), target.as_bytes(), 0))
    }

    /// An extended header of one record, for the member after it.
    pub(super) fn pax(self, key: &str, value: &str) -> Self {
        let rest = format!(" {key}={value}\n");
        let len = (rest.len() + 1..).find(|len| len.to_string().len() + rest.len() == *len).unwrap_or(0);
        self.member(b'x', b"PaxHeader", format!("{len}{rest}").as_bytes())
    }

    /// A file whose header says another size.
    pub(super) fn file_of_size(self, name: &str, size: [u8; 12], content: &[u8]) -> Self {
        let mut header = header(b'0', name.as_bytes(), b"", 0);
        header[124..136].copy_from_slice(&size);
        seal(&mut header);
        self.header(&header).content(content)
    }

    pub(super) fn header(mut self, header: &[u8; BLOCK]) -> Self {
        self.0.extend(header);
        self
    }

    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// The archive with its end.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

/// An archive of one file, which is a hole: as long as is wanted, and no memory here.
pub(super) fn with_hole(name: &str, size: u64) -> Bytes {
    let mut archive = Bytes::new(header(b'0', name.as_bytes(), b"", size));
    archive.extend(BLOCK as u64 + size.next_multiple_of(BLOCK as u64) + 2 * BLOCK as u64);
    archive
}

pub(super) fn header(kind: u8, name: &[u8], target: &[u8], size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    header[..name.len()].copy_from_slice(name);
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = kind;
    header[157..157 + target.len()].copy_from_slice(target);
    header[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut header);
    header
}

fn seal(header: &mut [u8; BLOCK]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}
