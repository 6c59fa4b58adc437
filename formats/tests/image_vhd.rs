//! What is special about VHD images: which size counts, which footer, and differences to another image.

#![allow(clippy::print_stderr, reason = "a skipped test says why")]

mod image_samples;

use std::error::Error;
use std::fs::{self, File};
use std::iter::successors;
use std::process::Command;

use formats::image::{self, Format, Image, ImageRequest, Layer, Limits, OpenError, ReadCache, Source};
use image_samples::{file_of, put, vhd};

const LIMITS: Limits = Limits { max_size_bytes: 1 << 43 };

/// Opens the first of `chain`, which is a difference to the second, and so on.
fn open(chain: &[&[u8]]) -> Result<Image, OpenError> {
    let layer = |image: &&[u8]| Layer {
        source: Source::new(file_of(image)).unwrap(),
        name: "disk.vhd",
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
    assert_eq!(image.format, Format::Vhd);
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

/// The `dynamic` sample, by another creator and with another geometry.
fn by(creator: &[u8; 4], geometry: [u8; 4]) -> Vec<u8> {
    let mut image = vhd::dynamic().0;
    let last = image.len() - 512;
    for footer in [0, last] {
        put(&mut image, footer + 28, creator);
        put(&mut image, footer + 56, &geometry);
    }
    vhd::sum(&mut image);
    image
}

#[test]
fn the_creator_decides_which_size_counts_as_it_does_for_qemu() {
    const SMALL: [u8; 4] = [0, 1, 4, 7];
    const LARGEST: [u8; 4] = [0xff, 0xff, 16, 255];
    let folder = tempfile::tempdir().unwrap();
    let qemu = Command::new("qemu-img").arg("--version").output().is_ok();
    if !qemu {
        eprintln!("skipped: comparison with qemu-img, which is not here");
    }
    for (creator, geometry, want, told) in [
        (b"vpc ", SMALL, 28 * 512, ""),
        (b"qemu", SMALL, 28 * 512, ""),
        (b"????", SMALL, 28 * 512, ""),
        (b"vpc ", LARGEST, 17408, ""),
        (b"win ", SMALL, 17408, ""),
        (b"qem2", SMALL, 17408, ""),
        (b"d2v ", SMALL, 17408, ""),
        (b"tap\0", SMALL, 17408, ""),
        (b"CTXS", SMALL, 17408, ""),
        // QEMU 7.2 has to be told.
        (b"wa\0\0", SMALL, 17408, ",force_size_calc=current_size"),
        (b"vbox", SMALL, 17408, ",force_size_calc=current_size"),
    ] {
        let image = by(creator, geometry);
        let name = creator.escape_ascii();
        assert_eq!(open(&[&image]).unwrap().disk.size_bytes(), want, "`{name}`");
        if qemu {
            let path = folder.path().join("disk.vhd");
            fs::write(&path, &image).unwrap();
            let options = format!("driver=vpc,file.filename={}{told}", path.display());
            let args = ["info", "--output=json", "--image-opts", &options];
            let info = Command::new("qemu-img").args(args).output().unwrap().stdout;
            let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
            assert_eq!(info["virtual-size"], want, "`{name}`");
        }
    }
}

#[test]
fn a_disk_may_have_2040_gib_and_no_more() {
    let with_size = |size: u64, entries: u32| {
        let (mut image, _) = vhd::dynamic();
        let table = vec![0xff; entries as usize * 4];
        let footer = image.len() - 512;
        image.splice(footer..footer, table.iter().copied());
        let last = image.len() - 512;
        for footer in [0, last] {
            put(&mut image, footer + 48, &size.to_be_bytes());
        }
        put(&mut image, 528, &(footer as u64).to_be_bytes());
        put(&mut image, 540, &entries.to_be_bytes());
        put(&mut image, 544, &(2u32 << 20).to_be_bytes());
        vhd::sum(&mut image);
        image
    };
    let most = 2040 << 30;
    let image = open(&[&with_size(most, 1020 << 10)]).unwrap();
    assert_eq!(image.disk.size_bytes(), most);
    let runs = image.disk.runs(0, most).unwrap();
    assert_eq!(runs.iter().map(|run| run.len).sum::<u64>(), most);
    let want = format!(
        "vhd: at byte {}, current size is {} bytes; wanted at most {most} bytes, which are 2040 GiB",
        15872 + 48,
        most + 512
    );
    check_refused(&[&with_size(most + 512, 0)], &want);
}

#[test]
fn a_missing_or_short_footer_is_made_up_for_where_the_format_says_so() {
    let (image, disk) = vhd::dynamic();
    let footer = image.len() - 512;
    check_reads_as(&[&image[..footer]], &disk);
    check_reads_as(&[&image[..footer + 511]], &disk);
    let (image, disk) = vhd::fixed();
    check_reads_as(&[&image[..image.len() - 1]], &disk);
}

#[test]
fn a_footer_that_a_guest_wrote_to_the_first_sector_changes_nothing() {
    let (dynamic, _) = vhd::dynamic();
    let (fixed, _) = vhd::fixed();
    let footer = &mut fixed[fixed.len() - 512..].to_vec();
    put(footer, 48, &(dynamic.len() as u64).to_be_bytes());
    let mut image = [&dynamic[..], footer].concat();
    let last = image.len() - 512;
    let sum = !(image[last..].iter().map(|&byte| u32::from(byte)).sum::<u32>()
        - image[last + 64..last + 68].iter().map(|&byte| u32::from(byte)).sum::<u32>());
    put(&mut image, last + 64, &sum.to_be_bytes());
    check_reads_as(&[&image], &dynamic);
}

#[test]
fn blocks_may_be_cut_off_behind_what_the_disk_needs_of_them() {
    let (mut image, disk) = vhd::dynamic();
    image.drain(11264 + 512 + 1024..15872);
    check_reads_as(&[&image], &disk);
}

#[test]
fn a_difference_is_read_on_top_of_what_it_differs_from() {
    let looks_like_qcow2 = {
        let (mut image, mut disk) = vhd::fixed();
        put(&mut image, 0, b"QFI\xfb");
        put(&mut disk, 0, b"QFI\xfb");
        (image, disk)
    };
    for (parent, parent_disk) in [vhd::dynamic(), vhd::fixed(), looks_like_qcow2] {
        let (child, disk) = vhd::differencing(vhd::UNIQUE_ID, &parent_disk);
        check_reads_as(&[&child, &parent], &disk);
        let (grandchild, disk) = vhd::differencing([0xdd; 16], &disk);
        check_reads_as(&[&grandchild, &child, &parent], &disk);
    }
}

#[test]
fn a_difference_is_read_on_top_of_nothing_else() {
    let (parent, parent_disk) = vhd::dynamic();
    let (child, _) = vhd::differencing([0x77; 16], &parent_disk);
    let at = "vhd: at byte 552, parent unique id is 77777777777777777777777777777777; wanted";
    check_refused(
        &[&child, &parent],
        &format!("{at} abababababababababababababababab, the unique id of the backing file"),
    );
    check_refused(
        &[&child, &vec![0; 512]],
        "vhd: at byte 0, cookie, as at the end of the file, is `\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00`; wanted `conectix`",
    );
    check_refused(
        &[&parent, &parent],
        "vhd: the image is no difference to another one; wanted no backing file for it",
    );
}

#[test]
fn a_difference_made_by_windows_asks_for_its_parent() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fat-differential.vhd");
    let source = Source::new(File::open(path).unwrap()).unwrap();
    let error = image::open(ImageRequest::new(source, "fat-differential.vhd", LIMITS)).unwrap_err();
    assert_eq!(
        error.source().unwrap().to_string(),
        "vhd: at byte 2182716, disk type is 4 (differencing, from `C:\\\\Projects\\\\dfvfs\\\\test_data\\\\fat-parent.vhd`): \
         it is a difference to another image, which was not handed over"
    );
}
