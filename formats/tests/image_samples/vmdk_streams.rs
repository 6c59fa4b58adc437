//! streamOptimized VMDKs in the style of those who write them, with what is peculiar to each.
//!
//! Sources: VirtualBox's VMDK back end; vmware/open-vmdk (Apache-2.0), `sparse.c`; what ovftool and ESX hosts send. All
//! of it is made here from what they do; none of it is theirs.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::{content, put};

/// The disk's size as its guest saw it: no whole number of grains.
pub(crate) const SECTORS: u64 = 1000;
const GRAIN_SECTORS: u64 = 128;
const GRAIN_BYTES: usize = 65536;
const AT_END: u64 = u64::MAX;
/// The grains that are not zeros; the last one is cut off by the end of the disk.
const GRAINS: [u64; 3] = [0, 2, 7];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Version 1, redundant directory flag, capacity rounded up to whole grains, everything in the footer.
    OldVirtualBox,
    /// Version 3, capacity rounded up to whole grains, everything in the footer.
    VirtualBox,
    /// No footer: the directory in front, with a place for each grain table; only an end-of-stream marker at the end,
    /// and a last grain that is compressed without what lies past the end of the disk.
    OpenVmdk,
    /// A read-only extent, a footer that says nothing of the descriptor, markers that do not count sectors, and a last
    /// sector that ends with its marker.
    Nfc,
}

impl Style {
    pub(crate) const ALL: [Style; 4] = [Style::OldVirtualBox, Style::VirtualBox, Style::OpenVmdk, Style::Nfc];

    fn rounds_capacity_up(self) -> bool {
        matches!(self, Style::OldVirtualBox | Style::VirtualBox)
    }

    fn descriptor(self) -> String {
        let sectors = SECTORS;
        match self {
            Style::OldVirtualBox | Style::VirtualBox => format!(
                "# Disk DescriptorFile\nversion=1\nCID=3c8ab7b9\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
                # Extent description\nRW {sectors} SPARSE \"disk 1.vmdk\"\n\n# The disk Data Base \n#DDB\n\n\
                ddb.virtualHWVersion = \"4\"\nddb.adapterType=\"ide\"\nddb.geometry.cylinders=\"1\"\n\
                ddb.uuid.image=\"f4b0ad5e-7e1f-4f0c-a3c3-1a7d1cb2f0d6\"\n\
                ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\nddb.comment=\"\"\n"
            ),
            Style::OpenVmdk => format!(
                "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=fb183c20\nparentCID=ffffffff\n\
                createType=\"streamOptimized\"\n\n# Extent description\nRW {sectors} SPARSE \"disk\"\n\n\
                # The Disk Data Base\n#DDB\n\nddb.longContentID = \"0123456789abcdef0123456789abcdef\"\n\
                ddb.toolsVersion = \"2147483647\""
            ),
            Style::Nfc => format!(
                "# Disk DescriptorFile\r\nversion=1\r\nCID=7d2a2fa6\r\nparentCID=ffffffff\r\n\
                isNativeSnapshot=\"no\"\r\ncreateType=\"streamOptimized\"\r\n\r\n\
                RDONLY {sectors} SPARSE \"generated-stream.vmdk\"\r\n\r\nddb.adapterType = \"lsilogic\"\r\n\
                ddb.thinProvisioned = \"1\"\r\n"
            ),
        }
    }

    fn header(self, directory: u64) -> Vec<u8> {
        let grains = SECTORS.div_ceil(GRAIN_SECTORS);
        let capacity = if self.rounds_capacity_up() { grains * GRAIN_SECTORS } else { SECTORS };
        let old = self == Style::OldVirtualBox;
        let mut header = vec![0; 512];
        put(&mut header, 0, b"KDMV");
        put(&mut header, 4, &(if old { 1u32 } else { 3 }).to_le_bytes());
        put(&mut header, 8, &(if old { 0x30003u32 } else { 0x30001 }).to_le_bytes());
        put(&mut header, 12, &capacity.to_le_bytes());
        put(&mut header, 20, &GRAIN_SECTORS.to_le_bytes());
        put(&mut header, 28, &1u64.to_le_bytes());
        put(&mut header, 36, &20u64.to_le_bytes());
        put(&mut header, 44, &512u32.to_le_bytes());
        put(&mut header, 48, &(if old { directory } else { 0 }).to_le_bytes());
        put(&mut header, 56, &directory.to_le_bytes());
        let in_front = if self == Style::OpenVmdk { 26u64 } else { 128 };
        put(&mut header, 64, &in_front.to_le_bytes());
        put(&mut header, 73, b"\n \r\n");
        put(&mut header, 77, &1u16.to_le_bytes());
        header
    }

    fn marker(self, sectors: u64, kind: u32) -> Vec<u8> {
        let mut marker = vec![0; 512];
        put(&mut marker, 0, &(if self == Style::Nfc { 0 } else { sectors }).to_le_bytes());
        put(&mut marker, 12, &kind.to_le_bytes());
        marker
    }
}

/// A stream in `style` and its disk.
pub(crate) fn vmdk_stream(style: Style) -> (Vec<u8>, Vec<u8>) {
    let mut disk = vec![0; GRAIN_BYTES * 8];
    for grain in GRAINS {
        put(&mut disk, grain as usize * GRAIN_BYTES, &content(grain as u8 + 1, GRAIN_BYTES));
    }
    if style != Style::VirtualBox {
        disk.truncate(SECTORS as usize * 512);
    }
    let mut image = style.header(if style == Style::OpenVmdk { 21 } else { AT_END });
    image.extend(style.descriptor().as_bytes());
    image.resize(21 * 512, 0);
    if style == Style::OpenVmdk {
        image.resize(26 * 512, 0); // directory, table
        put(&mut image, 21 * 512, &22u32.to_le_bytes());
    } else {
        image.resize(128 * 512, 0);
    }
    let mut table = vec![0; 2048];
    for grain in GRAINS {
        let start = grain as usize * GRAIN_BYTES;
        let sector = (image.len() / 512) as u32;
        put(&mut table, grain as usize * 4, &sector.to_le_bytes());
        append_grain(&mut image, grain, &disk[start..disk.len().min(start + GRAIN_BYTES)]);
    }
    disk.truncate(SECTORS as usize * 512);
    if style == Style::OpenVmdk {
        put(&mut image, 22 * 512, &table);
        image.extend(style.marker(0, 0));
        return (image, disk);
    }
    image.extend(style.marker(4, 1));
    let table_sector = (image.len() / 512) as u32;
    image.extend(table);
    image.extend(style.marker(1, 2));
    let directory_sector = (image.len() / 512) as u64;
    image.extend(table_sector.to_le_bytes());
    image.resize(image.len().next_multiple_of(512), 0);
    image.extend(style.marker(1, 3));
    let mut footer = style.header(directory_sector);
    if style == Style::Nfc {
        put(&mut footer, 28, &[0; 16]);
    }
    image.extend(footer);
    image.extend(style.marker(0, 0));
    if style == Style::Nfc {
        image.truncate(image.len() - 512 + 16);
    }
    (image, disk)
}

fn append_grain(image: &mut Vec<u8>, grain: u64, content: &[u8]) {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(content).unwrap();
    let stream = zlib.finish().unwrap();
    image.extend((grain * GRAIN_SECTORS).to_le_bytes());
    image.extend((stream.len() as u32).to_le_bytes());
    image.extend(stream);
    image.resize(image.len().next_multiple_of(512), 0);
}
