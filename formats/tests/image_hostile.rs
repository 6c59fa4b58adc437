//! Broken and hostile disk images: every one gets a clear answer, and none is read past its file.

mod image_samples;

use std::error::Error;
use std::fs::File;
use std::iter::successors;

use formats::image::{self, Format, ImageRequest, Limits, OpenError, Source};
use formats::{Disk, ReadError, Run, RunKind};
use image_samples::{
    DESCRIPTOR_TEXT, file_of, put, put_grain, qcow2, qcow2_extended, vdi, vhd, vhdx, vmdk, vmdk_with,
    with_footer,
};
use proptest::prelude::*;

const LIMITS: Limits = Limits { max_size_bytes: 1 << 40 };

fn open(image: &[u8], format: Option<Format>) -> Result<Box<dyn Disk>, OpenError> {
    open_file(file_of(image), format, LIMITS)
}

fn open_file(file: File, format: Option<Format>, limits: Limits) -> Result<Box<dyn Disk>, OpenError> {
    let mut request = ImageRequest::new(Source::new(file).unwrap(), "disk.img", limits);
    request.layer.format = format;
    image::open(request).map(|image| image.disk)
}

/// What a person is told: an error and all its causes.
fn told(error: &dyn Error) -> String {
    successors(Some(error), |error| (*error).source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What is told about the image when it is opened or else read whole; nothing if all goes well.
fn answer(image: &[u8]) -> String {
    let disk = match open(image, None) {
        Err(error) => return told(&error).replace("cannot open disk.img as a disk: ", "open: "),
        Ok(disk) => disk,
    };
    let mut content = vec![0; disk.size_bytes() as usize];
    disk.read_at(0, &mut content).map_or_else(|error| format!("read: {}", told(&error)), |()| String::new())
}

#[track_caller]
fn check_good(image: &[u8], disk: &[u8]) {
    let opened = open(image, None).unwrap();
    assert_eq!(opened.size_bytes(), disk.len() as u64);
    let mut content = vec![0xa5; disk.len()];
    opened.read_at(0, &mut content).unwrap();
    assert!(content == disk);
    let mut at = 0;
    while at < disk.len() {
        for run in opened.runs(at as u64, (disk.len() - at) as u64).unwrap() {
            let end = at + run.len as usize;
            assert!(run.kind == RunKind::Data || disk[at..end].iter().all(|&byte| byte == 0));
            at = end;
        }
    }
}

#[test]
fn the_samples_that_the_other_tests_break_are_whole() {
    let samples = [
        qcow2(),
        qcow2_extended(),
        vmdk(),
        vhd::dynamic(),
        vhd::fixed(),
        vdi::dynamic(),
        vhdx::dynamic(),
        vhdx::with_log(),
    ];
    for (image, disk) in samples {
        check_good(&image, &disk);
    }
    let (image, disk) = vmdk();
    check_good(&with_footer(image), &disk);
}

/// `image_hostile.txt` says how the images are made.
#[test]
fn every_hostile_image_gets_its_own_answer() {
    let lines: Vec<&str> = include_str!("image_hostile.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let (cases, rest) = lines.as_chunks();
    assert!(rest.is_empty() && cases.len() > 100);
    let mut wrong = String::new();
    for [made, want] in cases {
        let found = answer(&hostile(made));
        if found != want.trim_start() {
            wrong += &format!("{made}\n    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "answered otherwise:\n{wrong}");
}

/// Makes the image that a line of `image_hostile.txt` describes.
fn hostile(made: &str) -> Vec<u8> {
    let (sample, changes) = made.split_once("  ").unwrap();
    let mut image = match sample {
        "qcow2" => qcow2().0,
        "qcow2-extended" => qcow2_extended().0,
        "vmdk" => vmdk().0,
        "vmdk-footer" => with_footer(vmdk().0),
        "vhd" => vhd::dynamic().0,
        "vhd-fixed" => vhd::fixed().0,
        "vhd-differencing" => vhd::differencing([0x77; 16], &[]).0,
        "vdi" => vdi::dynamic().0,
        "vhdx" => vhdx::dynamic().0,
        "vhdx-log" => vhdx::with_log().0,
        "vhdx-differencing" => vhdx::differencing().0,
        "blank" => vec![0; 4096],
        other => panic!("no sample is called {other}"),
    };
    for change in changes.split("  ") {
        if let Some(replacement) = change.strip_prefix('/') {
            let mut texts = replacement.split('/');
            let (old, new) = (texts.next().unwrap(), texts.next().unwrap().replace("\\n", "\n"));
            image = vmdk_with(&DESCRIPTOR_TEXT.replace(old, &new)).0;
            continue;
        }
        if change == "sum" {
            vhd::sum(&mut image);
            continue;
        }
        if change == "seal" {
            vhdx::seal(&mut image);
            continue;
        }
        match change.split_once('=').unwrap() {
            ("cut", len) => image.resize(len.parse().unwrap(), 0),
            (at, hex) => put(&mut image, at.parse().unwrap(), &bytes_of(hex)),
        }
    }
    image
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn a_vmdk_grain_that_is_not_one_grain_long_is_refused() {
    for (len, found) in [(4095, "4095 bytes"), (4097, "without an end")] {
        let mut image = vmdk().0;
        put_grain(&mut image, 8, 0, &vec![1; len]);
        let want = format!(
            "read: vmdk: at byte 4108 of the file, compressed grain is {found}; it must decompress to one whole grain"
        );
        assert_eq!(answer(&image), want);
    }
}

#[test]
fn what_a_qcow2_disk_does_not_need_may_be_missing_from_the_file() {
    let (image, disk) = qcow2();
    check_good(&image[..image.len() - 400], &disk);
    let (image, disk) = qcow2_extended();
    check_good(&image[..67584], &disk);
}

#[test]
fn qcow2_fields_that_readers_may_ignore_are_ignored() {
    let (image, disk) = qcow2();
    let with = |at: usize, bytes: &[u8]| {
        let mut image = image.clone();
        put(&mut image, at, bytes);
        check_good(&image, &disk);
    };
    with(72, &1u64.to_be_bytes()); // dirty: refcounts may be stale
    with(80, &[0xff; 8]); // compatible features
    with(88, &[0xff; 8]); // autoclear features
    with(16, &[0xff; 4]); // backing_file_size without a backing file
    with(105, &[0xff; 7]); // fields of the future
    with(112, &[1, 2, 3, 4, 0, 0, 0, 9]); // an unknown extension
    with(1024, &[0xff; 512]); // refcounts
}

#[test]
fn a_raw_disk_may_hold_anything_when_the_caller_says_that_it_is_raw() {
    let footer_in_last_sector = [vec![7; 1024], vhd::fixed().0].concat();
    for content in
        [qcow2().0, vmdk().0, vdi::dynamic().0, footer_in_last_sector, b"vhdxfile".to_vec(), Vec::new()]
    {
        let disk = open(&content, Some(Format::Raw)).unwrap();
        let mut found = vec![1; disk.size_bytes() as usize];
        disk.read_at(0, &mut found).unwrap();
        assert_eq!(disk.size_bytes(), content.len().next_multiple_of(512) as u64);
        assert_eq!(found[..content.len()], content);
        assert!(found[content.len()..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn an_image_is_not_opened_as_a_format_it_is_not() {
    for (image, format, want) in [
        (
            vmdk().0,
            Format::Qcow2,
            "cannot open disk.img as a disk: qcow2: at byte 0, magic is `KDMV`; wanted `QFI\\xfb`",
        ),
        (
            qcow2().0,
            Format::Vmdk,
            "cannot open disk.img as a disk: vmdk: at byte 0, magic is `QFI\\xfb`; wanted `KDMV`",
        ),
        (
            Vec::new(),
            Format::Qcow2,
            "cannot open disk.img as a disk: qcow2: at byte 0, magic is ``; wanted `QFI\\xfb`",
        ),
        (
            Vec::new(),
            Format::Vmdk,
            "cannot open disk.img as a disk: vmdk: at byte 0, header is cut off after 0 bytes; wanted 512 bytes",
        ),
    ] {
        assert_eq!(told(&open(&image, Some(format)).unwrap_err()), want);
    }
}

#[test]
fn a_folder_is_not_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::open(folder.path()).unwrap();
    let error = Source::new(file).unwrap_err();
    assert_eq!(told(&error), "this is a folder; wanted a regular file or a block device");
}

#[test]
fn a_raw_disk_whose_file_became_shorter_is_not_read_as_zeros() {
    let file = file_of(&[1; 8192]);
    let disk = open_file(file.try_clone().unwrap(), None, LIMITS).unwrap();
    file.set_len(4096).unwrap();
    assert!(matches!(disk.read_at(4000, &mut [0; 200]), Err(ReadError::Io { .. })));
    assert!(matches!(disk.runs(4096, 4096), Err(ReadError::Io { .. })));
    assert_eq!(disk.runs(0, 4096).unwrap(), [Run { len: 4096, kind: RunKind::Data }]);
}

#[test]
fn reads_past_the_end_of_the_disk_are_refused() {
    let images = [qcow2().0, vmdk().0, vec![0; 700]];
    for image in images {
        let disk = open(&image, None).unwrap();
        let end = disk.size_bytes();
        for (offset, len) in [(end, 1), (end - 1, 2), (u64::MAX, 2)] {
            let read = disk.read_at(offset, &mut vec![0; len as usize]);
            assert!(matches!(read, Err(ReadError::OutOfRange { .. })));
            assert!(matches!(disk.runs(offset, len), Err(ReadError::OutOfRange { .. })));
        }
        disk.read_at(end, &mut []).unwrap();
        assert_eq!(disk.runs(end, 0).unwrap(), []);
    }
}

/// Flips bytes of a sample, mostly where its headers and tables are.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let samples = prop_oneof![
        Just(qcow2().0),
        Just(qcow2_extended().0),
        Just(vmdk().0),
        Just(with_footer(vmdk().0)),
        Just(vhd::dynamic().0),
        Just(vhd::fixed().0),
        Just(vdi::dynamic().0),
        Just({
            let mut image = qcow2().0;
            image[72 + 7] = 8;
            image[104] = 1;
            image
        }),
    ];
    let place =
        prop_oneof![0usize..112, 0usize..4096, any::<prop::sample::Index>().prop_map(|at| at.index(90_000))];
    let flips = prop::collection::vec((place, any::<u8>()), 1..6);
    (samples, flips, prop::option::weighted(0.2, 0usize..90_000)).prop_map(|(mut image, flips, cut)| {
        let len = image.len();
        for (at, byte) in flips {
            image[at % len] = byte;
        }
        // Most fields of a VHD are only looked at where the checksums are right.
        vhd::sum(&mut image);
        image.truncate(cut.map_or(len, |cut| cut % len));
        image
    })
}

fn is_outside(error: &ReadError) -> bool {
    matches!(error, ReadError::Io { .. } | ReadError::OutOfRange { .. })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// An `Io` error would mean that a reader asked for bytes that the file does not have.
    #[test]
    fn a_damaged_image_is_refused_or_read_but_never_read_outside(
        image in prop_oneof![4 => damaged(), 1 => vhdx::damaged()],
        at in any::<u64>(),
    ) {
        let limits = Limits { max_size_bytes: 1 << 30 };
        let disk = match open_file(file_of(&image), None, limits) {
            Ok(disk) => disk,
            Err(error) => {
                prop_assert!(!matches!(error.reason, image::Refusal::Io { .. }), "{}", told(&error));
                return Ok(());
            }
        };
        for offset in [0, at % disk.size_bytes().max(1)] {
            let len = (disk.size_bytes() - offset).min(100_000);
            let mut content = vec![0xa5; len as usize];
            let read = disk.read_at(offset, &mut content);
            prop_assert!(!read.as_ref().is_err_and(is_outside), "{read:?}");
            let runs = disk.runs(offset, len);
            prop_assert!(!runs.as_ref().is_err_and(is_outside), "{runs:?}");
            if let (Ok(()), Ok(runs)) = (read, runs) {
                let mut at = 0;
                for run in runs {
                    let end = at + run.len as usize;
                    prop_assert!(run.len > 0 && end <= content.len());
                    prop_assert!(run.kind == RunKind::Data || content[at..end].iter().all(|&byte| byte == 0));
                    at = end;
                }
                prop_assert!(at > 0 || len == 0);
            }
        }
    }
}
