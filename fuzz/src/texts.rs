//! Descriptors and indexes: what is parsed as a whole.

use appliance::{Blob, Digest};
use formats::ovf as descriptor;
use formats::packed::{PAGE_BLOCKS, Page, Root};

/// Any bytes as the root of a disk index. One that is read is written as the same bytes again.
pub fn index_root(bytes: &[u8]) {
    if let Ok(root) = Root::parse(bytes) {
        assert!(root.to_bytes() == bytes, "a root reads and is written as something else");
        assert!(root.pages.iter().all(|page| root.page_blocks(page) > 0));
    }
}

/// Any bytes as a page of a disk index, with two packs. One that is read is written as the same bytes again.
pub fn index_page(bytes: &[u8]) {
    let packs = [64 << 20, 4096].map(|size_bytes| Blob { digest: Digest::sha256(&[]), size_bytes });
    for blocks in [PAGE_BLOCKS, 128] {
        let Ok(page) = Page::parse(bytes, blocks, &packs) else { continue };
        assert!(page.to_bytes() == bytes, "a page reads and is written as something else");
        let covered: u64 = page.runs().iter().map(|run| u64::from(run.blocks())).sum();
        assert_eq!(covered, blocks);
    }
}

/// Any bytes as an OVF descriptor. One that is read and can be written says the same when it is read again.
pub fn ovf(bytes: &[u8]) {
    let Ok(read) = descriptor::parse(bytes, None) else { return };
    let Ok(written) = descriptor::write(&read) else { return };
    let again = descriptor::parse(written.as_bytes(), None).expect("what is written can be read");
    assert_eq!(again.systems.len(), read.systems.len());
    assert_eq!(again.disks.len(), read.disks.len());
    assert_eq!(again.files.len(), read.files.len());
}
