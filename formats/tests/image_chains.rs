//! Images that are differences to others: what the layers make together, and which chains are refused.

mod image_samples;

use std::error::Error;
use std::iter::successors;

use formats::image::{
    self, Format, Image, ImageRequest, Layer, LeftOut, Limits, OpenError, ReadCache, Source,
};
use formats::{Run, RunKind};
use image_samples::{content, file_of, over_backing_file, put, qcow2, qcow2_extended, vmdk};
use proptest::prelude::*;

const LIMITS: Limits = Limits { max_size_bytes: 1 << 30 };

/// Opens a chain, the image first; each layer is read as what is named for it.
fn open(layers: &[(&[u8], Option<Format>)]) -> Result<Image, OpenError> {
    let names = ["top", "below", "further below"];
    let mut layers = layers.iter().zip(names.into_iter().cycle()).map(|(&(bytes, format), name)| {
        let source = Source::new(file_of(bytes)).unwrap();
        Layer { source, name, format }
    });
    let layer = layers.next().unwrap();
    image::open(ImageRequest {
        layer,
        backing: layers.collect(),
        parts: None,
        limits: LIMITS,
        cache: ReadCache::new(),
    })
}

/// Opens a chain of images whose formats nobody names, and reads it.
#[track_caller]
fn read(layers: &[&[u8]]) -> Vec<u8> {
    let layers: Vec<_> = layers.iter().map(|&layer| (layer, None)).collect();
    let disk = open(&layers).unwrap().disk;
    let mut found = vec![0xa5; disk.size_bytes() as usize];
    disk.read_at(0, &mut found).unwrap();
    found
}

fn told(error: &OpenError) -> String {
    let chain = successors(Some(error as &dyn Error), |error| (*error).source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[track_caller]
fn check_refused(layers: &[(&[u8], Option<Format>)], want: &str) {
    assert_eq!(told(&open(layers).unwrap_err()), want);
}

/// What `top` shows of `base`: the base in `absent`, ranges of 512 bytes, its own content elsewhere.
fn merged(mut top: Vec<u8>, base: &[u8], absent: impl IntoIterator<Item = usize>) -> Vec<u8> {
    for sector in absent {
        let at = sector * 512;
        let here = base.len().saturating_sub(at).min(512);
        put(&mut top, at, &base[at.min(base.len())..][..here]);
    }
    top
}

/// The clusters that the qcow2 sample does not have; the third it has as zeros.
fn absent() -> impl Iterator<Item = usize> {
    std::iter::once(1).chain(5..128)
}

#[test]
fn absent_clusters_are_the_backing_file_s_and_zero_clusters_are_not() {
    let (image, disk) = qcow2();
    let top = over_backing_file(image, Some("raw"));
    for base_bytes in [65536, 512, 1024, 40000, 1 << 20] {
        let base = content(7, base_bytes);
        assert!(
            read(&[&top, &base]) == merged(disk.clone(), &base, absent()),
            "a base of {base_bytes} bytes"
        );
    }
}

#[test]
fn absent_subclusters_are_the_backing_file_s_and_zero_subclusters_are_not() {
    let (image, disk) = qcow2_extended();
    let base = content(7, 30000);
    let top = over_backing_file(image, Some("raw"));
    let absent = [2].into_iter().chain(4..80);
    assert!(read(&[&top, &base]) == merged(disk, &base, absent));
}

#[test]
fn a_version_2_image_has_a_backing_file_too() {
    let (mut image, mut disk) = qcow2();
    put(&mut image, 4, &2u32.to_be_bytes());
    put(&mut image, 1536 + 2 * 8, &[0; 8]); // version 2 has no zero clusters
    put(&mut image, 72, &[0; 40]); // extensions start here
    put(&mut image, 8, &80u64.to_be_bytes());
    put(&mut image, 16, &9u32.to_be_bytes());
    put(&mut image, 80, b"/dev/null");
    let base = content(9, 65536);
    disk = merged(disk, &base, [2].into_iter().chain(absent()));
    assert!(read(&[&image, &base]) == disk);
}

#[test]
fn a_chain_is_read_through_all_its_layers() {
    let (image, disk) = qcow2();
    let (extended, _) = qcow2_extended();
    let top = over_backing_file(image, Some("qcow2"));
    let middle = over_backing_file(extended, None);
    let base = content(7, 65536);
    let below = read(&[&middle, &base]);
    assert!(read(&[&top, &middle, &base]) == merged(disk, &below, absent()));
}

#[test]
fn the_layer_below_is_read_as_what_its_image_says_unless_the_caller_says_otherwise() {
    let (image, disk) = qcow2();
    let base = qcow2().0;
    for (declared, named, read_as_raw) in [
        (None, None, false),
        (Some("qcow2"), None, false),
        (Some("raw"), None, true),
        (Some("host_device"), None, true),
        (Some("raw"), Some(Format::Qcow2), false),
        (Some("qcow2"), Some(Format::Raw), true),
        (Some("luks"), Some(Format::Raw), true),
    ] {
        let top = over_backing_file(image.clone(), declared);
        let opened = open(&[(&top, None), (&base, named)]).unwrap();
        let mut found = vec![0; disk.len()];
        opened.disk.read_at(0, &mut found).unwrap();
        let below = if read_as_raw { &base } else { &disk };
        assert!(found == merged(disk.clone(), below, absent()), "{declared:?} {named:?}");
    }
}

#[test]
fn zeros_are_known_through_the_chain_and_past_the_end_of_a_shorter_base() {
    let top = over_backing_file(qcow2().0, Some("raw"));
    let base = content(7, 8192);
    let disk = open(&[(&top, None), (&base, None)]).unwrap().disk;
    let mut runs = Vec::new();
    let mut at = 0;
    while at < disk.size_bytes() {
        for run in disk.runs(at, disk.size_bytes() - at).unwrap() {
            at += run.len;
            match runs.last_mut() {
                Some(Run { len, kind }) if *kind == run.kind => *len += run.len,
                _ => runs.push(run),
            }
        }
    }
    let run = |len, kind| Run { len, kind };
    assert_eq!(
        runs,
        [
            run(1024, RunKind::Data),
            run(512, RunKind::Zero),
            run(8192 - 1536, RunKind::Data),
            run(65536 - 8192, RunKind::Zero)
        ]
    );
}

#[test]
fn chains_that_do_not_fit_together_are_refused() {
    let (image, _) = qcow2();
    let top = over_backing_file(image.clone(), None);
    let base = content(7, 512);
    check_refused(
        &[(&top, None)],
        "cannot open top as a disk: qcow2: at byte 8, backing_file_offset is 500 (`base`): it is a difference to another image, which was not handed over",
    );
    check_refused(
        &[(&top, None), (&top, None)],
        "cannot open below as a disk: qcow2: at byte 8, backing_file_offset is 500 (`base`): it is a difference to another image, which was not handed over",
    );
    check_refused(
        &[(&image, None), (&base, None)],
        "cannot open top as a disk: qcow2: the image is no difference to another one; wanted no backing file for it",
    );
    check_refused(
        &[(&top, None), (&image, None), (&base, None)],
        "cannot open below as a disk: qcow2: the image is no difference to another one; wanted no backing file for it",
    );
    check_refused(
        &[(&base, None), (&base, None)],
        "cannot open top as a disk: raw: the image is no difference to another one; wanted no backing file for it",
    );
    check_refused(
        &[(&over_backing_file(image.clone(), Some("raw")), None), (&top, None), (&base, None)],
        "cannot open below as a disk: raw: the image is no difference to another one; wanted no backing file for it",
    );
    check_refused(
        &[(&over_backing_file(image.clone(), Some("vmdk")), None), (&base, None)],
        "cannot open below as a disk: vmdk: at byte 0, magic is `\\x07\\x07\\x07\\x07`; wanted `KDMV`",
    );
    check_refused(
        &[(&over_backing_file(image.clone(), Some("vpc")), None), (&[0; 512], None)],
        "cannot open below as a disk: vhd: at byte 0, cookie, as at the end of the file, is `\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00`; wanted `conectix`",
    );
    check_refused(
        &[(&over_backing_file(image.clone(), Some("lu\x1b[2Jks")), None), (&base, None)],
        "cannot open top as a disk: qcow2: at byte 112, header extension is a backing file of format `lu\\x1b[2Jks`: that format is not read",
    );
    check_refused(
        &vec![(&top[..], Some(Format::Qcow2)); 257],
        "cannot open top as a disk: it is the last of a chain of 257 images; wanted at most 256",
    );
}

#[test]
fn a_chain_has_no_more_room_for_tables_than_one_image() {
    // A disk of 128 GiB in clusters of 512 bytes, of which none is there: an L1 table of 32 MiB.
    let mut image = over_backing_file(qcow2().0, Some("qcow2"));
    put(&mut image, 24, &(1u64 << 37).to_be_bytes());
    put(&mut image, 36, &(1u32 << 22).to_be_bytes());
    put(&mut image, 40, &4096u64.to_be_bytes());
    let layer = |name| {
        let file = file_of(&image);
        file.set_len(4096 + (32 << 20)).unwrap();
        Layer { source: Source::new(file).unwrap(), name, format: None }
    };
    let base = Layer { source: Source::new(file_of(&qcow2().0)).unwrap(), name: "base", format: None };
    let limits = Limits { max_size_bytes: 1 << 40 };
    let open = |backing| {
        image::open(ImageRequest {
            layer: layer("top"),
            backing,
            parts: None,
            limits,
            cache: ReadCache::new(),
        })
    };
    assert_eq!(
        told(&open(vec![layer("below"), base.clone()]).unwrap_err()),
        "cannot open below as a disk: its tables have 33554432 bytes, for which 33554408 are left; all images of a chain may have 33554432 together",
    );
    assert_eq!(
        told(&open(vec![base]).unwrap_err()),
        "cannot open top as a disk: its tables have 33554432 bytes, for which 33554408 are left; all images of a chain may have 33554432 together",
    );
}

#[test]
fn internal_snapshots_are_left_out_and_said_to_be() {
    for (count, want) in [(1u32, "1 internal snapshot"), (3, "3 internal snapshots")] {
        let (mut image, disk) = qcow2();
        put(&mut image, 60, &count.to_be_bytes());
        put(&mut image, 64, &2048u64.to_be_bytes());
        let opened = open(&[(&image, None)]).unwrap();
        assert_eq!(opened.left_out, [LeftOut::InternalSnapshots { count }]);
        assert_eq!(opened.left_out[0].to_string(), want);
        assert!(read(&[&image]) == disk);
    }
    assert_eq!(open(&[(&vmdk().0, None)]).unwrap().left_out, []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn a_chain_with_damaged_headers_is_refused_or_read_but_never_read_outside(
        flips in prop::collection::vec((0usize..600, any::<u8>()), 1..5),
        extended in any::<bool>(),
    ) {
        let sample = if extended { qcow2_extended().0 } else { qcow2().0 };
        let mut top = over_backing_file(sample, Some("raw"));
        for (at, byte) in flips {
            top[at] = byte;
        }
        match open(&[(&top, Some(Format::Qcow2)), (&content(3, 5000), None)]) {
            Err(error) => prop_assert!(!matches!(error.reason, image::Refusal::Io { .. }), "{}", told(&error)),
            Ok(Image { disk, .. }) => {
                let mut found = vec![0; disk.size_bytes().min(100_000) as usize];
                let outcome = disk.read_at(0, &mut found);
                prop_assert!(!matches!(outcome, Err(formats::ReadError::Io { .. })), "{outcome:?}");
            }
        }
    }
}
