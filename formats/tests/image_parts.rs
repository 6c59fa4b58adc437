//! VMDK disks in several files, differences between VMDKs, and streams in every writer's style: what is read, and what
//! is refused.

mod image_samples;

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::iter::successors;
use std::sync::atomic::{AtomicU32, Ordering};

use formats::image::{self, Image, ImageRequest, Layer, Limits, OpenError, Parts, ReadCache, Source};
use formats::{ReadError, Run, RunKind};
use image_samples::vmdk_streams::{Style, vmdk_stream};
use image_samples::{DESCRIPTOR_TEXT, content, file_of, put, vmdk, vmdk_extent, vmdk_with};
use proptest::prelude::*;

const LIMITS: Limits = Limits { max_size_bytes: 1 << 30 };

/// Files that a caller hands over, by their names.
#[derive(Debug, Default)]
struct Files(HashMap<String, Vec<u8>>);

impl Files {
    fn with(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.0.insert(name.to_owned(), content.into());
        self
    }
}

impl Parts for Files {
    fn part(&self, name: &str) -> io::Result<Option<Source>> {
        Ok(self.0.get(name).map(|content| Source::new(file_of(content)).unwrap()))
    }
}

fn open(image: &[u8], backing: &[&[u8]], parts: Option<&Files>) -> Result<Image, OpenError> {
    let layer =
        |bytes: &[u8], name| Layer { source: Source::new(file_of(bytes)).unwrap(), name, format: None };
    let layer_below = |bytes: &&[u8]| layer(bytes, "below");
    let backing = backing.iter().map(layer_below).collect();
    let parts = parts.map(|parts| parts as &dyn Parts);
    image::open(ImageRequest {
        layer: layer(image, "disk"),
        backing,
        parts,
        limits: LIMITS,
        cache: ReadCache::new(),
    })
}

#[track_caller]
fn read(image: &[u8], backing: &[&[u8]], parts: Option<&Files>) -> Vec<u8> {
    let disk = open(image, backing, parts).unwrap().disk;
    let mut found = vec![0xa5; disk.size_bytes() as usize];
    disk.read_at(0, &mut found).unwrap();
    // In pieces that begin and end anywhere, it is the same.
    for start in (0..found.len()).step_by(5003) {
        let mut piece = vec![0xa5; (found.len() - start).min(7001)];
        disk.read_at(start as u64, &mut piece).unwrap();
        assert!(piece == found[start..start + piece.len()], "from byte {start} on");
    }
    let mut at = 0;
    while at < found.len() {
        for run in disk.runs(at as u64, (found.len() - at) as u64).unwrap() {
            let end = at + run.len as usize;
            assert!(run.kind == RunKind::Data || found[at..end].iter().all(|&byte| byte == 0), "{at}..{end}");
            at = end;
        }
    }
    found
}

fn told(error: &(dyn Error + 'static)) -> String {
    let chain = successors(Some(error), |error| (*error).source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[track_caller]
fn check_refused(image: &[u8], backing: &[&[u8]], parts: Option<&Files>, want: &str) {
    let error = told(&open(image, backing, parts).unwrap_err());
    assert_eq!(error.strip_prefix("cannot open disk as a disk: ").unwrap_or(&error), want);
}

/// A descriptor file of `kind` with these extent descriptions.
fn descriptor(kind: &str, extents: &str) -> Vec<u8> {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\n{extents}\n\n\
        # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n"
    )
    .into_bytes()
}

fn flat_files() -> Files {
    Files::default().with("a.vmdk", content(1, 8192)).with("b.vmdk", content(2, 4096))
}

#[test]
fn flat_extents_and_zeros_are_put_together_in_their_order() {
    let files = flat_files();
    let (a, b) = (content(1, 8192), content(2, 4096));
    let zeros = vec![0; 3 * 512];
    for (kind, extents, want) in [
        ("monolithicFlat", "RW 16 FLAT \"a.vmdk\" 0", a.clone()),
        ("vmfs", "RW 16 VMFS \"a.vmdk\"", a.clone()),
        ("vmfs", "RW 16 VMFS \"a.vmdk\" 0", a.clone()),
        ("twoGbMaxExtentFlat", "RW 16 FLAT \"a.vmdk\" 0\nRW 8 FLAT \"b.vmdk\" 0", [&a[..], &b].concat()),
        (
            "custom",
            "RDONLY 4 flat \"b.vmdk\" 4\nrw 3 ZERO\nRW 4 FLAT \"b.vmdk\" 0",
            [&b[2048..], &zeros, &b[..2048]].concat(),
        ),
        ("MONOLITHICFLAT", "\tRW  7\tFLAT   \"a.vmdk\"   2  ", a[1024..][..7 * 512].to_vec()),
        ("monolithicFlat", "RW 1 FLAT \"a.vmdk\" 0\r", a[..512].to_vec()),
    ] {
        assert!(read(&descriptor(kind, extents), &[], Some(&files)) == want, "{extents}");
    }
}

#[test]
fn sparse_extents_are_put_together_and_may_end_within_a_grain() {
    let (first, first_disk) = vmdk_extent(40, &[4, 0], 1);
    let (second, second_disk) = vmdk_extent(24, &[1], 7);
    let (third, third_disk) = vmdk_extent(16, &[0, 1], 9);
    let files = Files::default().with("s1", first).with("s 2", second).with("s3", third);
    let text = "RW 40 SPARSE \"s1\"\nRW 24 SPARSE \"s 2\"\nRW 13 SPARSE \"s3\"";
    let want = [&first_disk[..], &second_disk, &third_disk[..13 * 512]].concat();
    assert!(read(&descriptor("twoGbMaxExtentSparse", text), &[], Some(&files)) == want);
}

#[test]
fn one_compressed_extent_may_have_its_descriptor_apart() {
    let (image, disk) = vmdk();
    let files = Files::default().with("disk.vmdk", image);
    let text = descriptor("streamOptimized", "RW 40 SPARSE \"disk.vmdk\"");
    assert!(read(&text, &[], Some(&files)) == disk);
    let text = descriptor("custom", "RW 40 SPARSE \"disk.vmdk\"\nRW 1 ZERO");
    check_refused(
        &text,
        &[],
        Some(&files),
        "its part `disk.vmdk` cannot be used: vmdk: at byte 0, header is one of a compressed extent: compressed extents are only read where they are the whole disk",
    );
}

#[test]
fn file_names_are_read_in_the_encoding_that_the_descriptor_names() {
    let files = Files::default().with("Müll – 1.vmdk", content(1, 512));
    for (encoding, name) in [
        ("", "Müll – 1.vmdk".as_bytes()),
        ("encoding=\"UTF-8\"\n", "Müll – 1.vmdk".as_bytes()),
        ("Encoding = \"windows-1252\"\n", b"M\xfcll \x96 1.vmdk"),
    ] {
        let line = [encoding.as_bytes(), b"RW 1 FLAT \"", name, b"\" 0"].concat();
        let [before, after] = ["# Disk DescriptorFile\ncreateType=monolithicFlat\n", "\n"].map(str::as_bytes);
        assert!(read(&[before, &line, after].concat(), &[], Some(&files)) == content(1, 512), "{encoding}");
    }
}

#[test]
fn descriptor_files_are_known_by_their_first_line() {
    let files = flat_files();
    let text = String::from_utf8(descriptor("vmfs", "RW 16 VMFS \"a.vmdk\"")).unwrap();
    for first in [
        "# Disk DescriptorFile",
        "# Disk DescriptorFile\r",
        "#Disk Descriptor File",
        "# disk descriptorfile ",
        "\u{feff}# Disk DescriptorFile",
    ] {
        let text = text.replace("# Disk DescriptorFile", first);
        assert!(read(text.as_bytes(), &[], Some(&files)) == content(1, 8192), "{first:?}");
    }
}

/// `image_parts.txt` says how the descriptors are made.
#[test]
fn every_hostile_descriptor_file_gets_its_own_answer() {
    let files = flat_files().with("s", vmdk_extent(40, &[1], 3).0);
    let lines: Vec<&str> = include_str!("image_parts.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let (cases, rest) = lines.as_chunks();
    assert!(rest.is_empty() && cases.len() > 35);
    let mut wrong = String::new();
    for [made, want] in cases {
        let made = made.replace("\\n", "\n").replace("\\e", "\x1b");
        let (kind, extents) = made.split_once("  ").unwrap();
        let found = open(&descriptor(kind, extents), &[], Some(&files))
            .map_or_else(|error| told(&error), |_| "opened".to_owned());
        if found.strip_prefix("cannot open disk as a disk: ") != Some(want.trim_start()) {
            wrong += &format!("{made}\n    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "answered otherwise:\n{wrong}");
}

#[test]
fn a_descriptor_file_alone_is_no_disk() {
    check_refused(
        &descriptor("vmfs", "RW 16 VMFS \"a.vmdk\""),
        &[],
        None,
        "vmdk: at byte 83, extent description is `RW 16 VMFS \\\"a.vmdk\\\"`: the disk's content lies in other files, which were not handed over",
    );
    check_refused(
        &vmdk_extent(40, &[1], 1).0,
        &[],
        None,
        "vmdk: at byte 28, descriptorOffset is 0, no descriptor: it is one extent of a disk in several files: open the descriptor file, which names all of them",
    );
}

#[test]
fn descriptor_files_are_bounded_in_bytes_extents_and_memory() {
    let zeros = |count| descriptor("custom", &vec!["RW 1 ZERO"; count].join("\n"));
    assert_eq!(read(&zeros(8192), &[], None).len(), 8192 * 512);
    check_refused(
        &zeros(8193),
        &[],
        None,
        "vmdk: at byte 82005, extent description is one more; wanted at most 8192 extents",
    );
    let mut large = zeros(1);
    large.resize((1 << 20) + 1, b'#');
    check_refused(
        &large,
        &[],
        None,
        "vmdk: at byte 0, descriptor is a file of 1048577 bytes; wanted at most 1048576 bytes",
    );
}

/// One file, and how often it was asked for.
#[derive(Debug)]
struct Counted {
    file: Vec<u8>,
    asked: AtomicU32,
}

impl Parts for Counted {
    fn part(&self, _name: &str) -> io::Result<Option<Source>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Source::new(file_of(&self.file)).unwrap()))
    }
}

#[test]
fn a_part_that_many_extents_name_is_asked_for_once() {
    let extents: Vec<_> = (0..4).rev().map(|sector| format!("RW 1 FLAT \"a.vmdk\" {sector}")).collect();
    let text = descriptor("custom", &extents.join("\n"));
    let parts = Counted { file: content(1, 2048), asked: AtomicU32::new(0) };
    let layer = Layer { source: Source::new(file_of(&text)).unwrap(), name: "disk", format: None };
    let request = ImageRequest {
        layer,
        backing: Vec::new(),
        parts: Some(&parts),
        limits: LIMITS,
        cache: ReadCache::new(),
    };
    assert_eq!(image::open(request).unwrap().disk.size_bytes(), 2048);
    assert_eq!(parts.asked.into_inner(), 1);
}

#[test]
fn errors_while_reading_name_the_part() {
    let (mut extent, _) = vmdk_extent(40, &[1], 3);
    put(&mut extent, 1024 + 4, &1000u32.to_le_bytes());
    let files = Files::default().with("s\u{7}", extent);
    let text = descriptor("twoGbMaxExtentSparse", "RW 1 ZERO\nRW 40 SPARSE \"s\u{7}\"");
    let disk = open(&text, &[], Some(&files)).unwrap().disk;
    let error = disk.read_at(0, &mut vec![0; 41 * 512]).unwrap_err();
    assert_eq!(
        told(&error),
        "cannot read its part `s\\u{7}`: vmdk: at byte 1028 of the file, grain table entry is sector 1000; the grain must lie in the file"
    );
}

/// The sample as a difference to a disk of this CID.
fn delta(text: &str, parent_cid: &str) -> String {
    let hint = format!("parentCID={parent_cid}\nparentFileNameHint=\"../base.vmdk\"");
    text.replace("CID=12345678", "CID=87654321").replace("parentCID=ffffffff", &hint)
}

#[test]
fn a_difference_shows_its_parent_where_it_has_no_grain() {
    let (base, base_disk) = vmdk();
    let mut want = vec![0; 40 * 512];
    want.copy_from_slice(&base_disk);
    let top = vmdk_with(&delta(DESCRIPTOR_TEXT, "12345678").replace("CID=87654321", "CID=1")).0;
    // A grain of zeros that is not the parent's.
    let mut zeroed = top.clone();
    put(&mut zeroed, 8, &0x30005u32.to_le_bytes());
    put(&mut zeroed, 4 * 512, &1u32.to_le_bytes());
    put(&mut zeroed, 4 * 512 + 8, &0u32.to_le_bytes());
    assert!(read(&top, &[&base], None) == want);
    want[..4096].fill(0);
    assert!(read(&zeroed, &[&base], None) == want);
}

#[test]
fn a_difference_in_several_files_shows_its_parent_at_the_right_place() {
    let base_content = content(5, 20 * 4096 - 700 * 4);
    let base_content = &base_content[..base_content.len() / 512 * 512];
    let base = descriptor("vmfs", &format!("RW {} VMFS \"base-flat\"", base_content.len() / 512));
    let (first, first_disk) = vmdk_extent(80, &[3], 1);
    let (second, second_disk) = vmdk_extent(88, &[0, 9], 3);
    let files = Files::default().with("base-flat", base_content).with("s1", first).with("s2", second);
    let extents = "RW 80 SPARSE \"s1\"\nRW 88 SPARSE \"s2\"";
    let text = String::from_utf8(descriptor("twoGbMaxExtentSparse", extents)).unwrap();
    let mut want = [first_disk, second_disk].concat();
    for grain in (0..21).filter(|grain| ![3, 10, 19].contains(grain)) {
        let start = (grain * 4096).min(base_content.len());
        let end = (start + 4096).min(base_content.len());
        want[start..end].copy_from_slice(&base_content[start..end]);
    }
    assert!(read(delta(&text, "12345678").as_bytes(), &[&base], Some(&files)) == want);
}

#[test]
fn a_difference_is_only_read_over_the_very_disk_it_was_taken_from() {
    let top = vmdk_with(&delta(DESCRIPTOR_TEXT, "0000abcd")).0;
    check_refused(
        &top,
        &[],
        None,
        "vmdk: at byte 557, parentCID is `0000abcd`: it is a difference to another image, which was not handed over",
    );
    check_refused(
        &top,
        &[&vmdk().0],
        None,
        "vmdk: at byte 557, parentCID is `0000abcd`; wanted 12345678, the CID of the backing file: it is another, or changed",
    );
    check_refused(
        &top,
        &[&[7; 512]],
        None,
        "vmdk: at byte 557, parentCID is `0000abcd`; wanted a backing file that has a CID, which only a VMDK has",
    );
    let without_cid = vmdk_with(&DESCRIPTOR_TEXT.replace("CID=12345678\n", "")).0;
    check_refused(
        &top,
        &[&without_cid],
        None,
        "vmdk: at byte 557, parentCID is `0000abcd`; wanted a backing file that has a CID, which only a VMDK has",
    );
    check_refused(
        &vmdk().0,
        &[&vmdk().0],
        None,
        "vmdk: the image is no difference to another one; wanted no backing file for it",
    );
}

#[test]
fn streams_in_every_writer_s_style_are_read() {
    for style in Style::ALL {
        let (image, disk) = vmdk_stream(style);
        assert!(read(&image, &[], None) == disk, "{style:?}");
    }
}

#[test]
fn holes_of_flat_files_are_known() {
    let files = Files::default().with("b.vmdk", content(2, 4096));
    let text = descriptor("custom", "RW 8 ZERO\nRW 8 FLAT \"b.vmdk\" 0");
    let disk = open(&text, &[], Some(&files)).unwrap().disk;
    let run = |len, kind| Run { len, kind };
    assert_eq!(disk.runs(100, 8000).unwrap(), [run(3996, RunKind::Zero)]);
    assert_eq!(disk.runs(4096, 4096).unwrap(), [run(4096, RunKind::Data)]);
    assert_eq!(disk.runs(8192, 0).unwrap(), []);
    assert!(matches!(disk.runs(8192, 1), Err(ReadError::OutOfRange { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    /// Lines of a descriptor in any order, with anything in them.
    #[test]
    fn any_descriptor_file_is_refused_or_read_but_never_outside_its_parts(
        lines in prop::collection::vec(
            prop_oneof![
                Just("createType=\"custom\"".to_owned()),
                Just("RW 16 FLAT \"a.vmdk\" 0".to_owned()),
                Just("RW 40 SPARSE \"s\"".to_owned()),
                Just("RW 5 ZERO".to_owned()),
                "(RW|RDONLY) [0-9]{1,3} (FLAT|SPARSE|ZERO|VMFS) \"(a.vmdk|b.vmdk|s)\"( [0-9]{1,2})?",
                "(CID|parentCID|encoding|createType) *= *\"?[a-zA-Z0-9-]{0,10}\"?",
                "\\PC{0,40}",
            ],
            0..8,
        ),
        flips in prop::collection::vec((0usize..1400, any::<u8>()), 0..3),
    ) {
        let mut extent = vmdk_extent(40, &[1, 3], 3).0;
        for (at, byte) in flips {
            extent[at] = byte;
        }
        let text = format!("# Disk DescriptorFile\ncreateType=custom\n{}", lines.join("\n"));
        match open(text.as_bytes(), &[], Some(&flat_files().with("s", extent))) {
            Err(error) => prop_assert!(!told(&error).contains("cannot read"), "{}", told(&error)),
            Ok(Image { disk, .. }) => {
                let outcome = disk.read_at(0, &mut vec![0; disk.size_bytes().min(1 << 20) as usize]);
                let outside = outcome.is_err_and(|error| {
                    let error = told(&error);
                    error.contains("bytes at byte") || error.contains("are not on the disk")
                });
                prop_assert!(!outside);
            }
        }
    }
}
