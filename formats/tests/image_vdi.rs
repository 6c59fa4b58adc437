//! What is special about VDI images: sizes, and differences to another image.

mod image_samples;

use std::error::Error;
use std::iter::successors;
use std::os::unix::fs::FileExt;

use formats::image::{self, Format, Image, ImageRequest, Layer, Limits, OpenError, ReadCache, Source};
use formats::{Run, RunKind};
use image_samples::{file_of, put, vdi, vhd};

const LIMITS: Limits = Limits { max_size_bytes: 1 << 40 };

/// Opens the first of `chain`, which is a difference to the second, and so on.
fn open(chain: &[&[u8]]) -> Result<Image, OpenError> {
    let layer = |image: &&[u8]| Layer {
        source: Source::new(file_of(image)).unwrap(),
        name: "disk.vdi",
        format: None,
    };
    let backing = chain[1..].iter().map(layer).collect();
    image::open(ImageRequest {
        layer: layer(&chain[0]),
        backing,
        parts: None,
        limits: LIMITS,
        cache: ReadCache::new(),
    })
}

#[track_caller]
fn check_reads_as(chain: &[&[u8]], disk: &[u8]) {
    let image = open(chain).unwrap();
    assert_eq!(image.format, Format::Vdi);
    let mut found = vec![0xa5; image.disk.size_bytes() as usize];
    image.disk.read_at(0, &mut found).unwrap();
    assert!(found == disk);
}

#[track_caller]
fn check_refused(chain: &[&[u8]], want: &str) {
    let error = open(chain).unwrap_err();
    let causes = successors(error.source(), |&cause| cause.source());
    assert_eq!(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "), want);
}

/// An image whose disk is one block of noise, and the disk.
fn parent() -> (Vec<u8>, Vec<u8>) {
    let (mut image, _) = vdi::dynamic();
    let disk: Vec<u8> = (0..128 << 10).map(|at: u32| (at / 3 % 251) as u8 | 1).collect();
    put(&mut image, 368, &(128u64 << 10).to_le_bytes());
    put(&mut image, 512, &[0; 4]);
    image.truncate(1024);
    image.extend(&disk);
    (image, disk)
}

#[test]
fn a_size_of_no_whole_sectors_is_rounded_up_as_qemu_does_it() {
    let (mut image, disk) = vdi::dynamic();
    put(&mut image, 368, &(disk.len() as u64 - 511).to_le_bytes());
    check_reads_as(&[&image], &disk);
}

#[test]
fn fields_that_readers_may_ignore_are_ignored() {
    let (image, disk) = vdi::dynamic();
    for (at, bytes) in [
        (0, &[0xff; 64][..]), // text
        (80, &[1, 3]),        // flags
        (84, &[0xff; 256]),   // comment
        (348, &[0xff; 12]),   // geometry
        (388, &[0xff; 4]),    // allocated blocks
        (392, &[0; 32]),      // its own UUIDs
        (440, &[0xff; 16]),   // the parent's modification, without a parent
        (456, &[0xff; 56]),   // what later versions added
    ] {
        let mut image = image.clone();
        put(&mut image, at, bytes);
        check_reads_as(&[&image], &disk);
    }
}

#[test]
fn a_difference_is_read_on_top_of_what_it_differs_from() {
    let (parent, parent_disk) = parent();
    let (child, disk) = vdi::differencing(vdi::UUID, &parent_disk);
    check_reads_as(&[&child, &parent], &disk);
    let (grandchild, disk) = vdi::differencing([0xdd; 16], &disk);
    check_reads_as(&[&grandchild, &child, &parent], &disk);
}

#[test]
fn a_difference_is_read_on_top_of_nothing_else() {
    let (parent, _) = parent();
    let (child, _) = vdi::differencing([0x77; 16], &[]);
    let at = "vdi: at byte 424, uuidLinkage is 77777777777777777777777777777777; wanted";
    let want = format!("{at} abababababababababababababababab, the UUID of the backing file");
    check_refused(&[&child, &parent], &want);
    let want = format!("{at} the UUID of the backing file, but that is no VDI");
    check_refused(&[&child, &vec![0; 512]], &want);
    let (child, _) = vdi::differencing(vhd::UNIQUE_ID, &[]);
    let want = "vdi: at byte 424, uuidLinkage is abababababababababababababababab; wanted the UUID of the backing file, but that is no VDI";
    check_refused(&[&child, &vhd::fixed().0], want);
    let want = "vdi: the image is no difference to another one; wanted no backing file for it";
    check_refused(&[&parent, &parent], want);
}

#[test]
fn holes_of_the_file_are_zeros_of_the_disk() {
    const MIB: u64 = 1 << 20;
    let (mut image, _) = vdi::dynamic();
    image.truncate(1024);
    put(&mut image, 76, &2u32.to_le_bytes());
    put(&mut image, 344, &(MIB as u32).to_le_bytes());
    put(&mut image, 368, &(5 * MIB).to_le_bytes());
    put(&mut image, 376, &(MIB as u32).to_le_bytes());
    put(&mut image, 384, &5u32.to_le_bytes());
    put(&mut image, 512, &[0u32, 1, 2, 3, 4].map(u32::to_le_bytes).concat());
    let file = file_of(&image);
    file.write_all_at(&[7; MIB as usize], 3 * MIB).unwrap();
    file.set_len(6 * MIB).unwrap();
    let disk = image::open(ImageRequest::new(Source::new(file).unwrap(), "disk.vdi", LIMITS)).unwrap().disk;
    let want = [(2, RunKind::Zero), (1, RunKind::Data), (2, RunKind::Zero)];
    assert_eq!(disk.runs(0, 5 * MIB).unwrap(), want.map(|(len, kind)| Run { len: len * MIB, kind }));
}
