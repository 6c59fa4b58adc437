//! Our qcow2 reader against qcow2-rs, on what that one reads: version 3 without incompatible features but the dirty bit's,
//! clusters of at least 4 KiB, no backing file.

use std::fs::File;
use std::path::Path;

use formats::Disk;
use formats::image::{self, ImageRequest};
use qcow2_rs::dev::Qcow2DevParams;
use qcow2_rs::utils::qcow2_setup_dev_tokio;

use super::{LIMITS, Qcow2Options, make_qcow2_with, repeated, source};

#[test]
fn qcow2_rs_agrees_where_it_can_read() {
    repeated("qcow2, for qcow2-rs too,", 10, |folder, random| {
        let any = Qcow2Options::any(random);
        let cluster_bits = any.cluster_bits.max(12);
        let options =
            Qcow2Options { version: 3, cluster_bits, extended: false, zstd: false, lazy: false, ..any };
        let image = make_qcow2_with(folder, options, random);
        // It reads no compressed cluster whose last sector the file ends in.
        let file = File::options().write(true).open(&image).unwrap();
        file.set_len(file.metadata().unwrap().len().next_multiple_of(1 << cluster_bits)).unwrap();
        let request = ImageRequest::new(source(&image), "image", LIMITS);
        let disk = image::open(request).unwrap().disk;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(compare_with_qcow2_rs(disk.as_ref(), &image));
    });
}

async fn compare_with_qcow2_rs(disk: &dyn Disk, image: &Path) {
    let params = Qcow2DevParams::new(9, None, None, true, false);
    let device = qcow2_setup_dev_tokio(image, &params).await.unwrap();
    assert_eq!(device.info.virtual_size(), disk.size_bytes());
    let cluster_bytes = device.info.cluster_size() as u64;
    let mut at = 0;
    while at < disk.size_bytes() {
        let len = (disk.size_bytes() - at).min(cluster_bytes) as usize;
        // Neither may leave anything as it was.
        let (mut ours, mut theirs) = (vec![0xa5; len], vec![0x5a; len]);
        disk.read_at(at, &mut ours).unwrap();
        device.read_at(&mut theirs, at).await.unwrap();
        assert!(ours == theirs, "from byte {at} on");
        at += len as u64;
    }
}
