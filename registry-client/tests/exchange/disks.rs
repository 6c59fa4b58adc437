//! A pulled appliance's disk, read where it lies.

use appliance::Blob;
use appliance::manifest::{ApplianceManifest, DiskLayer};
use formats::cut::CutRule;
use formats::packed::{Frame, FrameEncoder, IndexWriter};
use registry_client::{OpenDiskError, Silent, open_disk};

use crate::fake::Fake;
use crate::sample::{PLATFORM, Sample, blob, client, folder, noise};

const BLOCK: usize = 4096;

/// A disk of 16 blocks, of which 4 to 9 hold `content`.
fn packed(content: &[u8]) -> Sample {
    let mut pack = Vec::new();
    FrameEncoder::new(3).encode(content, &mut pack);
    let frame = Frame { pack: 0, offset: 0, len: pack.len() as u32, blocks: (content.len() / BLOCK) as u16 };
    let mut writer = IndexWriter::new(16 * BLOCK as u64, CutRule::CONTENT, vec![blob(&pack)]);
    let sha256 = blob(content).digest.as_bytes().try_into().unwrap();
    writer.zero(4);
    writer.chunk(frame.blocks as u8, sha256, frame, 0);
    writer.zero(12 - u64::from(frame.blocks));
    let encoded = writer.finish();
    let index: Blob = blob(&encoded.bytes);
    let layer = DiskLayer { name: "root".to_owned(), index, root: encoded.root };
    Sample::with_disk(encoded.bytes, layer, vec![pack])
}

#[tokio::test]
async fn a_pulled_disk_reads_as_what_was_packed() {
    let content = noise(6 * BLOCK);
    let sample = packed(&content);
    let (fake, folder) = (Fake::start().await, folder());
    sample.put_in(&fake, "web", "1");
    client().pull(&fake.reference("web:1"), &folder.store, PLATFORM, &Silent).await.unwrap();
    let manifest = ApplianceManifest::parse(&sample.manifest).unwrap();
    let disk = open_disk(&folder.store, &manifest, "root").unwrap();
    let mut read = vec![1; 16 * BLOCK];
    disk.read_at(0, &mut read).unwrap();
    let want = [vec![0; 4 * BLOCK], content, vec![0; 6 * BLOCK]].concat();
    assert!(read == want);

    let error = open_disk(&folder.store, &manifest, "data").unwrap_err();
    assert_eq!(error.to_string(), "the appliance has no disk `data`; it has root");
    std::fs::remove_file(folder.store.blob_path(&blob(sample.pack(0)).digest)).unwrap();
    let error = open_disk(&folder.store, &manifest, "root").unwrap_err();
    assert!(matches!(error, OpenDiskError::MissingPack { .. }), "{error}");
    std::fs::remove_file(folder.store.blob_path(&blob(&sample.blobs[2]).digest)).unwrap();
    let error = open_disk(&folder.store, &manifest, "root").unwrap_err();
    assert!(matches!(error, OpenDiskError::Index { .. }), "{error}");
}
