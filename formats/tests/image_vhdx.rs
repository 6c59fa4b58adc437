//! What is special about VHDX images: logs, copies of headers and tables, states of blocks, sector bitmaps and
//! parents; and that what is written is the same disk again, to our reader and to QEMU.

#![allow(clippy::print_stderr, reason = "a skipped test says why")]

mod image_samples;

use std::error::Error;
use std::fs::{self, File};
use std::iter::successors;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use formats::image::{
    self, Image, ImageRequest, Layer, Limits, OpenError, ReadCache, Source, Target, WriteOptions, write,
};
use formats::{Disk, ReadError, Run, RunKind};
use image_samples::vhdx::{
    self, BAT, BLOCKS, Change, DISK_BYTES, HEADERS, ITEMS, LAST_ENTRY, LogEntry, MIB, REGION_TABLES, SECTOR,
    append_log, dynamic, seal, with_log,
};
use image_samples::{file_of, put, qcow2};

const LIMITS: Limits = Limits { max_size_bytes: 1 << 46 };

/// Opens the first of `chain`, which is a difference to the second, and so on.
fn open(chain: &[&[u8]]) -> Result<Image, OpenError> {
    let mut layers = chain.iter().map(|image| Layer {
        source: Source::new(file_of(image)).unwrap(),
        name: "disk.vhdx",
        format: None,
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

fn content(disk: &dyn Disk) -> Vec<u8> {
    let mut content = vec![0xa5; disk.size_bytes() as usize];
    disk.read_at(0, &mut content).unwrap();
    content
}

#[track_caller]
fn check_reads_as(chain: &[&[u8]], want: &[u8]) {
    let found = content(open(chain).unwrap().disk.as_ref());
    assert_eq!(found.len(), want.len());
    assert_eq!(found.iter().zip(want).position(|(found, want)| found != want), None, "first differing byte");
}

#[track_caller]
fn check_refused(chain: &[&[u8]], want: &str) {
    let error = open(chain).unwrap_err();
    let causes = successors(error.source(), |&cause| cause.source());
    assert_eq!(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "), want);
}

#[test]
fn the_newer_header_counts_and_one_that_is_whole_is_enough() {
    let (image, disk) = dynamic();
    for header in HEADERS {
        let mut damaged = image.clone();
        put(&mut damaged, header + 4000, &[1]);
        check_reads_as(&[&damaged], &disk);
    }
    for (number, is_read) in [(1u64, true), (3, false)] {
        let mut other = image.clone();
        put(&mut other, HEADERS[0] + 8, &number.to_le_bytes());
        put(&mut other, HEADERS[0] + 66, &[9]);
        seal(&mut other);
        assert_eq!(open(&[&other]).is_ok(), is_read, "version 9 in header {number}");
    }
    let mut equal = image;
    equal.copy_within(HEADERS[1]..HEADERS[1] + SECTOR, HEADERS[0]);
    check_reads_as(&[&equal], &disk);
}

#[test]
fn the_second_region_table_is_read_where_the_first_is_damaged() {
    let (mut image, disk) = dynamic();
    image[REGION_TABLES[0] + 20] ^= 1;
    check_reads_as(&[&image], &disk);
}

#[test]
fn what_is_not_known_and_not_needed_is_left_alone() {
    let (mut image, disk) = dynamic();
    for table in REGION_TABLES {
        put(&mut image, table + 8, &[3]);
        put(&mut image, table + 80, b"another's region");
        put(&mut image, table + 96, &(BLOCKS as u64 + 2 * MIB as u64).to_le_bytes());
        put(&mut image, table + 104, &(MIB as u32).to_le_bytes());
    }
    image.resize(BLOCKS + 3 * MIB, 0);
    put(&mut image, vhdx::METADATA + 10, &[6]);
    put(&mut image, vhdx::METADATA + 6 * 32, b"another's item..\0\0\x02\0\x05\0\0\0\x01\0\0\0");
    seal(&mut image);
    check_reads_as(&[&image], &disk);
}

#[test]
fn blocks_that_are_not_there_read_as_zeros_wherever_they_once_were() {
    for state in [0u64, 1, 2, 3, 5] {
        for offset in [0, BLOCKS as u64, 1 << 60] {
            let (mut image, mut disk) = dynamic();
            put(&mut image, BAT, &(offset | state).to_le_bytes());
            disk[..MIB].fill(0);
            check_reads_as(&[&image], &disk);
            let runs = open(&[&image]).unwrap().disk.runs(0, DISK_BYTES as u64).unwrap();
            let zero = Run { len: 3 * MIB as u64, kind: RunKind::Zero };
            assert_eq!(runs, [zero, Run { len: 1536, kind: RunKind::Data }]);
        }
    }
}

#[test]
fn sectors_may_have_4096_bytes() {
    let (mut image, mut disk) = dynamic();
    put(&mut image, ITEMS + 8, &(3 * MIB as u64 + 4096).to_le_bytes());
    put(&mut image, ITEMS + 32, &4096u32.to_le_bytes());
    image.resize(image.len() + 4096 - 1536, 0x3c);
    disk.resize(disk.len() + 4096 - 1536, 0x3c);
    check_reads_as(&[&image], &disk);
}

/// QEMU before 8.0 moves entries about, those for sector bitmaps too.
#[test]
fn entries_for_sector_bitmaps_may_hold_anything_where_there_is_no_parent() {
    let (mut image, _) = dynamic();
    put(&mut image, ITEMS + 8, &(4097 * MIB as u64).to_le_bytes());
    put(&mut image, BAT + 8 * 3, &[0; 8]);
    put(&mut image, BAT + 8 * 4096, &[0xff; 8]);
    put(&mut image, BAT + 8 * 4097, &(BLOCKS as u64 | 6).to_le_bytes());
    let disk = open(&[&image]).unwrap().disk;
    let mut found = vec![0; MIB];
    disk.read_at(4096 * MIB as u64, &mut found).unwrap();
    assert!(found == image[BLOCKS..BLOCKS + MIB]);
}

#[test]
fn the_largest_table_of_blocks_is_read_piece_by_piece() {
    const SIZE: u64 = 64 << 40;
    let (mut image, _) = dynamic();
    let bat = 8 * MIB as u64;
    let bat_bytes = 513 * MIB as u64;
    put(&mut image, ITEMS + 8, &SIZE.to_le_bytes());
    for table in REGION_TABLES {
        put(&mut image, table + 32, &bat.to_le_bytes());
        put(&mut image, table + 40, &(bat_bytes as u32).to_le_bytes());
    }
    seal(&mut image);
    let file = file_of(&image);
    file.set_len(bat + bat_bytes).unwrap();
    let last = (SIZE >> 20) - 1;
    file.write_all_at(&(BLOCKS as u64 | 6).to_le_bytes(), bat + (last + last / 4096) * 8).unwrap();
    let disk = image::open(ImageRequest::new(Source::new(file).unwrap(), "disk.vhdx", LIMITS)).unwrap().disk;
    let mut found = [0; 8];
    disk.read_at(SIZE - MIB as u64, &mut found).unwrap();
    assert_eq!(found, image[BLOCKS..BLOCKS + 8]);
    let at = SIZE - (20 << 30);
    let runs = disk.runs(at, 20 << 30).unwrap();
    let stored = Run { len: MIB as u64, kind: RunKind::Data };
    assert_eq!(runs, [Run { len: (20 << 30) - MIB as u64, kind: RunKind::Zero }, stored]);
}

#[test]
fn an_entry_that_was_being_written_is_left_out_of_the_replay() {
    let (mut image, disk) = with_log();
    image[LAST_ENTRY + 100] ^= 1;
    check_reads_as(&[&image], &disk);
}

#[test]
fn a_log_may_make_the_file_longer() {
    let (mut image, mut disk) = dynamic();
    let mut table = image[BAT..BAT + SECTOR].to_vec();
    put(&mut table, 8, &((9 * MIB as u64) | 6).to_le_bytes());
    let changes = [Change::Data(BAT, table), Change::Data(9 * MIB + SECTOR, vec![0x99; SECTOR])];
    append_log(&mut image, &LogEntry { file_bytes: 10 << 20, ..LogEntry::new(1, 0, &changes) });
    assert!(image.len() < 9 * MIB);
    disk[MIB + SECTOR..MIB + 2 * SECTOR].fill(0x99);
    check_reads_as(&[&image], &disk);
}

#[test]
fn tables_and_metadata_are_read_as_the_log_leaves_them() {
    let (mut image, _) = dynamic();
    let item = ITEMS / SECTOR * SECTOR;
    let mut sector = image[item..item + SECTOR].to_vec();
    put(&mut sector, ITEMS - item + 8, &512u64.to_le_bytes());
    append_log(&mut image, &LogEntry::new(1, 0, &[Change::Data(item, sector)]));
    assert_eq!(open(&[&image]).unwrap().disk.size_bytes(), 512);
}

#[test]
fn logs_that_would_take_long_to_replay_are_refused() {
    let refused = "so much of a log is not replayed: have the image opened once where it was made, \
        or replay the log of a copy with `qemu-img check -f vhdx -r all`";
    let (plain, _) = dynamic();
    let log = plain.len().next_multiple_of(MIB);
    let check = |changes: &[Change], found: &str| {
        let mut image = plain.clone();
        append_log(&mut image, &LogEntry::new(1, 0, changes));
        check_refused(&[&image], &format!("vhdx: at byte {log}, log is {found}: {refused}"));
    };
    let zeros: Vec<_> = (0..65537).map(|_| Change::Zero(0, SECTOR)).collect();
    check(&zeros, "in use, with 65537 changes");
    let data: Vec<_> = (0..8193).map(|_| Change::Data(0, vec![1; SECTOR])).collect();
    check(&data, "in use, with changes of more than 33554432 bytes");

    let mut torn = plain.clone();
    append_log(&mut torn, &LogEntry::new(1, 0, &zeros));
    let entry = torn[log..log + 64].to_vec();
    for sector in (log..log + MIB).step_by(SECTOR) {
        put(&mut torn, sector, &entry);
    }
    let want = format!("vhdx: at byte {log}, log is full of entries that are not whole: {refused}");
    check_refused(&[&torn], &want);

    let mut long = plain.clone();
    for header in HEADERS {
        put(&mut long, header + 72, &(log as u64).to_le_bytes());
    }
    vhdx::use_log(&mut long, 65 * MIB);
    let file = file_of(&long);
    file.set_len((log + 65 * MIB) as u64).unwrap();
    let error = image::open(ImageRequest::new(Source::new(file).unwrap(), "disk.vhdx", LIMITS)).unwrap_err();
    assert_eq!(
        error.reason.to_string(),
        format!("vhdx: at byte {log}, log is {} bytes long: {refused}", 65 * MIB)
    );
}

#[test]
fn a_difference_is_read_over_its_parent() {
    let (child, both) = vhdx::differencing();
    check_reads_as(&[&child, &dynamic().0], &both);

    let parent_with_log = with_log().0;
    let mut want = both.clone();
    let own = |sector: usize| sector == 2 || (9..101).contains(&sector);
    for sector in (0..SECTOR / 512).filter(|&sector| !own(sector)) {
        want[sector * 512..(sector + 1) * 512].fill(0);
    }
    check_reads_as(&[&child, &parent_with_log], &want);

    let mut shorter = dynamic();
    put(&mut shorter.0, ITEMS + 8, &512u64.to_le_bytes());
    let mut want = both;
    for sector in (1..2048).filter(|&sector| !own(sector)) {
        want[sector * 512..(sector + 1) * 512].fill(0);
    }
    check_reads_as(&[&child, &shorter.0], &want);
}

#[test]
fn a_difference_is_read_over_no_other_image() {
    let (child, _) = vhdx::differencing();
    let (mut parent, _) = dynamic();
    for header in HEADERS {
        put(&mut parent, header + 32, b"another state of");
    }
    seal(&mut parent);
    let keys_and_path = ["relative_path", r"..\base.vhdx", "parent_linkage"];
    let at = ITEMS + 40 + 44 + 2 * keys_and_path.concat().len();
    let linkage = "{74617473-2065-666f-2063-6f6e74656e74}";
    check_refused(
        &[&child, &parent],
        &format!(
            "vhdx: at byte {at}, parent_linkage is `{linkage}`; \
            wanted `{{746f6e61-6568-2072-7374-617465206f66}}`, the state of the image that was handed over"
        ),
    );
    check_refused(
        &[&child, &qcow2().0],
        &format!(
            "vhdx: at byte {at}, parent_linkage is `{linkage}`: only differences to another VHDX image are read"
        ),
    );
    check_refused(
        &[&dynamic().0, &dynamic().0],
        "vhdx: the image is no difference to another one; wanted no backing file for it",
    );
}

#[test]
fn sector_bitmaps_that_cannot_be_are_refused() {
    let parent = dynamic().0;
    let bitmap_entry = BAT + 8 * 4096;
    for (entry, wanted) in [
        (0u64, "a partially present block needs a sector bitmap: state 6, reserved bits 0"),
        (6 << 20 | 2, "a partially present block needs a sector bitmap: state 6, reserved bits 0"),
        (6 << 20 | 6 | 8, "a partially present block needs a sector bitmap: state 6, reserved bits 0"),
        (3 << 20 | 6, "the bitmap must not overlap the header section, the log or a region"),
        (7 << 20 | 6, "the bitmap must lie in the file"),
        (!0xf_ffff | 6, "the bitmap must lie in the file"),
    ] {
        let (mut child, _) = vhdx::differencing();
        put(&mut child, bitmap_entry, &entry.to_le_bytes());
        let disk = open(&[&child, &parent]).unwrap().disk;
        let error = disk.read_at(5, &mut [0; 2]).unwrap_err().to_string();
        let at = bitmap_entry;
        assert_eq!(
            error,
            format!("vhdx: at byte {at} of the file, sector bitmap entry is {entry:#x}; {wanted}")
        );
        disk.read_at(3 * MIB as u64, &mut [0; 2]).unwrap();
    }
}

/// A disk that is zero except for `len` bytes at each of `places`.
fn raw_disk(size: u64, places: &[(u64, usize)]) -> Box<dyn Disk> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    for &(at, len) in places {
        let content: Vec<u8> = (0..len).map(|byte| (at as usize / 512 + byte / 5) as u8 | 1).collect();
        file.write_all_at(&content, at).unwrap();
    }
    image::open(ImageRequest::new(Source::new(file).unwrap(), "disk", LIMITS)).unwrap().disk
}

fn options(threads: usize) -> WriteOptions {
    WriteOptions { threads: NonZeroUsize::new(threads).unwrap(), identity: *b"0123456789abcdef" }
}

#[track_caller]
fn write_to(path: &Path, disk: &dyn Disk, options: &WriteOptions) -> Image {
    let len = write(disk, Target::Vhdx, File::create(path).unwrap(), options, &|_| ()).unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), len);
    let source = Source::new(File::open(path).unwrap()).unwrap();
    image::open(ImageRequest::new(source, "disk.vhdx", LIMITS)).unwrap()
}

#[track_caller]
fn qemu_img(args: &[&str]) {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {}: {errors}", args.join(" "));
}

#[test]
fn a_disk_of_any_size_comes_back() {
    let has_qemu = Command::new("qemu-img").arg("--version").output().is_ok();
    if !has_qemu {
        eprintln!("skipped: comparison with qemu-img, which is not here");
    }
    let mib = MIB as u64;
    for (size, places) in [
        (512, &[][..]),
        (512, &[(0, 512)]),
        (700, &[(600, 100)]),
        (mib, &[(mib - 1, 1)]),
        (mib, &[(0, MIB)]),
        (2 * mib + 512, &[(2 * mib, 512)]),
        (5 * mib + 1536, &[(0, 1), (mib, 3 << 20), (5 * mib + 1000, 100)]),
        (40 * mib, &[(39 * mib, 77), (3 * mib, 4096), (mib + 5, 1), (7 * mib - 5000, 10000)]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (image, raw) = (folder.path().join("disk.vhdx"), folder.path().join("disk.raw"));
        let disk = raw_disk(size, places);
        let written = write_to(&image, disk.as_ref(), &options(1));
        assert_eq!(written.disk.size_bytes(), size.next_multiple_of(512));
        let first = fs::read(&image).unwrap();
        write_to(&image, disk.as_ref(), &options(3));
        assert!(fs::read(&image).unwrap() == first, "what is written depends on the threads");
        write(disk.as_ref(), Target::Raw, File::create(&raw).unwrap(), &options(1), &|_| ()).unwrap();
        assert!(content(written.disk.as_ref()) == content(disk.as_ref()), "{size} bytes");
        if has_qemu {
            let (image, raw) = (image.to_str().unwrap(), raw.to_str().unwrap());
            qemu_img(&["check", "-f", "vhdx", image]);
            qemu_img(&["compare", "-f", "raw", "-F", "vhdx", raw, image]);
        }
    }
}

/// The table has an entry for a sector bitmap after those of 4 GiB.
#[test]
fn qemu_finds_the_blocks_of_a_large_disk_where_they_belong() {
    if Command::new("qemu-io").arg("--version").output().is_err() {
        eprintln!("skipped: qemu-io is not here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhdx");
    write_to(&path, &LastSector((8 << 30) + 512), &options(1));
    let read = ["read -P 0 4094M 4M", "read -P 0 8191M 1M", "read -P 0x77 8192M 512"];
    let mut command = Command::new("qemu-io");
    command.args(["-r", "-f", "vhdx"]).args(read.iter().flat_map(|read| ["-c", read])).arg(&path);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !said.contains("failed"), "{said}");
}

#[test]
fn what_is_zero_takes_no_space() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhdx");
    let mib = MIB as u64;
    let disk = raw_disk(64 * mib, &[(10 * mib, 1), (63 * mib + 500_000, 5000)]);
    let image = write_to(&path, disk.as_ref(), &options(2));
    let found = fs::metadata(&path).unwrap();
    assert_eq!(found.len(), 6 * mib);
    assert!(found.blocks() * 512 < 400 << 10, "{} blocks", found.blocks());
    let runs = image.disk.runs(0, 64 * mib).unwrap();
    let data = runs.iter().filter(|run| run.kind == RunKind::Data).map(|run| run.len).sum::<u64>();
    assert!((8192..=2 * mib).contains(&data), "{runs:?}");
}

/// Byte for byte, so that no change goes unseen.
#[test]
fn what_is_written_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhdx");
    write_to(&path, raw_disk(3 << 20, &[(2 << 20, 9)]).as_ref(), &options(2));
    let bytes = fs::read(&path).unwrap();
    let hex =
        |at: usize, len| bytes[at..at + len].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let guids = "2808b258ef7522869001211fd3745589d57d0f573bf43581808af7c241634749";
    let log = "0000000000000000000000000000000000000100000010000000100000000000";
    let table = "72656769ae8c6bc60200000000000000\
        6677c22d23f600429d64115e9bfd4a0800003000000000000000100001000000\
        06a27c8b90479a4bb8fe575f050f886e00002000000000000000100001000000";
    for (at, want) in [
        (0, "7668647866696c65680075006c006c000000"),
        (HEADERS[0], &format!("68656164703dac7a0100000000000000{guids}{log}0000")),
        (HEADERS[1], &format!("6865616418ef49f80200000000000000{guids}{log}0000")),
        (REGION_TABLES[0], table),
        (REGION_TABLES[1], table),
        (
            vhdx::METADATA,
            "6d6574616461746100000500000000000000000000000000000000000000000\
            03767a1ca36fa434db3b633f0aa44e76b00000100080000000400000000000000\
            2442a52f1bcd7648b2115dbed83bf4b808000100080000000600000000000000\
            ab12cabee6b2234593efc309e000c74610000100100000000600000000000000\
            1dbf41816fa90947ba47f233a8faab5f20000100040000000600000000000000\
            c748a3cd5d4471449cc9e9885251c55624000100040000000600000000000000",
        ),
        (ITEMS, "000010000000000000003000000000008f42f41a722b7c84a9ae4571b6dc9cf1000200000010000000"),
        (BAT, "02000000000000000200000000000000060040000000000000000000"),
    ] {
        assert_eq!(hex(at, want.len() / 2), want, "at byte {at}");
    }
}

#[test]
fn images_with_other_identities_have_other_guids() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhdx");
    let mut seen = Vec::new();
    for identity in [[0; 16], [1; 16]] {
        write_to(&path, raw_disk(512, &[]).as_ref(), &WriteOptions { identity, ..options(1) });
        let bytes = fs::read(&path).unwrap();
        let guid = |at: usize| bytes[at..at + 16].to_vec();
        seen.extend([guid(HEADERS[0] + 16), guid(HEADERS[0] + 32), guid(ITEMS + 16)]);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6);
}

/// A disk whose last sector alone holds something.
#[derive(Debug)]
struct LastSector(u64);

impl Disk for LastSector {
    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        for (at, byte) in (offset..).zip(buf) {
            *byte = if at >= self.0 - 512 { 0x77 } else { 0 };
        }
        Ok(())
    }

    fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
        let zeros = (self.0 - 512).saturating_sub(offset).min(len);
        let runs = [(zeros, RunKind::Zero), (len - zeros, RunKind::Data)];
        Ok(runs.into_iter().filter(|(len, _)| *len > 0).map(|(len, kind)| Run { len, kind }).collect())
    }
}

#[test]
fn the_largest_disk_is_written_and_no_larger_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhdx");
    let most = 64 << 40;
    let written = write_to(&path, &LastSector(most), &options(2)).disk;
    assert_eq!(written.size_bytes(), most);
    let mut found = [0; 1024];
    written.read_at(most - 1024, &mut found).unwrap();
    assert_eq!(found, *[[0; 512], [0x77; 512]].as_flattened());
    let out = File::create(&path).unwrap();
    let error = write(&LastSector(most + 512), Target::Vhdx, out, &options(2), &|_| ()).unwrap_err();
    let want = "vhdx: the disk has 70368744178176 bytes; the format holds at most 70368744177664";
    assert_eq!(error.to_string(), want);
}
