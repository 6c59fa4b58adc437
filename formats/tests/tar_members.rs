//! Archives: members are found where tar puts them, and what readers of tar disagree about is refused.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use formats::image::Source;
use formats::tar::{Members, TarError};
use proptest::prelude::*;

fn source_of(bytes: &[u8]) -> Source {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Source::new(file).unwrap()
}

/// A header with its checksum, and the fields of `changes` put over it before.
fn header(name: &str, size: &[u8], kind: u8, changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\x000000000\x000000000\x00");
    put(124, size);
    put(136, b"00000000000\x00");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    changes.iter().for_each(|(at, bytes)| put(*at, bytes));
    put(148, b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn octal(size: usize) -> Vec<u8> {
    format!("{size:011o}\0").into_bytes()
}

/// A header of the kind and its content, padded.
fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, &octal(content.len()), kind, &[]);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(name, b'0', content)
}

/// PAX records with their lengths.
fn records(records: &[(&str, &str)]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        let rest = format!(" {key}={value}\n");
        let mut len = rest.len();
        while len != rest.len() + len.to_string().len() {
            len = rest.len() + len.to_string().len();
        }
        format!("{len}{rest}")
    };
    records.iter().map(record).collect::<String>().into_bytes()
}

fn pax(entries: &[(&str, &str)]) -> Vec<u8> {
    entry("PaxHeaders/x", b'x', &records(entries))
}

fn end() -> Vec<u8> {
    vec![0; 1024]
}

/// The names, or what is told.
fn answer(archive: &[Vec<u8>]) -> String {
    match Members::read(&source_of(&archive.concat())) {
        Ok(members) => {
            let member = |member: &formats::tar::Member| format!("{}:{}", member.name, member.size_bytes);
            members.iter().map(member).collect::<Vec<_>>().join(" ")
        }
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn check(archive: &[Vec<u8>], want: &str) {
    assert_eq!(answer(archive), want);
}

#[test]
fn members_lie_where_their_headers_say() {
    let archive = [file("a.ovf", b"<a/>"), file("./disk", &[7; 600]), end()].concat();
    let members = Members::read(&source_of(&archive)).unwrap();
    let content = |name| {
        let source = members.source(members.get(name).unwrap());
        let mut content = vec![0; source.size_bytes() as usize];
        source.read_exact_at(&mut content, 0).unwrap();
        content
    };
    assert_eq!(content("a.ovf"), b"<a/>");
    assert_eq!(content("disk"), [7; 600]);
    assert!(members.get("./disk").is_none());
}

#[test]
fn what_writers_of_archives_do_is_accepted() {
    let long = "d".repeat(150);
    check(&[file("a", b"x"), end(), vec![0; 9000]], "a:1");
    check(&[header("a", &octal(0), 0, &[]), vec![0; 512]], "a:0");
    check(&[entry("./", b'5', b""), entry("sub/", b'5', b""), file("sub/a", b""), end()], "sub/a:0");
    check(&[header("a", b"         5 \0", b'0', &[]), vec![1; 512], end()], "a:5");
    check(&[header("a", &octal(0), b'0', &[(345, b"folder")]), end()], "folder/a:0");
    check(&[header("a", &octal(0), b'0', &[(257, b"ustar  \0"), (345, b"\x01\x02")]), end()], "a:0");
    let gnu = [long.as_bytes(), b"\0"].concat();
    check(&[entry("././@LongLink", b'L', &gnu), file(&long[..100], b"x"), end()], &format!("{long}:1"));
    check(
        &[pax(&[("path", &long), ("mtime", "1.5")]), file(&long[..100], b"x"), end()],
        &format!("{long}:1"),
    );
    check(&[pax(&[("path", "dïsk"), ("SCHILY.xattr.a", "b=c")]), file("dsk", b"x"), end()], "dïsk:1");
    check(&[entry("g", b'g', &records(&[("comment", "0123")])), file("a", b"x"), end()], "a:1");
    check(&[pax(&[("size", "1")]), file("a", b"x"), end()], "a:1");
}

#[test]
fn sizes_that_octal_digits_cannot_say_are_read() {
    const SIZE: u64 = 9 << 30;
    let base_256 = [&[0x80, 0, 0, 0][..], &SIZE.to_be_bytes()].concat();
    let heads = [
        header("disk", &base_256, b'0', &[]),
        [pax(&[("size", "9663676416")]), header("disk", &octal(0), b'0', &[])].concat(),
    ];
    for head in heads {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&head).unwrap();
        file.seek(SeekFrom::Current(SIZE as i64)).unwrap();
        file.write_all(&end()).unwrap();
        let members = Members::read(&Source::new(file).unwrap()).unwrap();
        assert_eq!(members.get("disk").unwrap().size_bytes, SIZE);
        assert_eq!(members.get("disk").unwrap().offset, head.len() as u64);
    }
}

#[test]
fn only_regular_files_and_folders_are_members() {
    let refused = |kind: u8, found: &str| {
        let want = format!("tar: at byte 512, a is {found}; wanted regular files and folders only");
        check(&[file("b", b""), entry("a", kind, b""), end()], &want);
    };
    refused(b'1', "a hard link");
    refused(b'2', "a symbolic link");
    refused(b'3', "a device");
    refused(b'4', "a device");
    refused(b'6', "a pipe");
    refused(b'7', "of a kind that is not known here");
    refused(b'S', "a sparse file");
    refused(b'K', "the long name of a link");
    refused(b'M', "the rest of a file from another archive");
    refused(0xff, "of a kind that is not known here");
    check(&[entry("d/", b'5', b"x"), end()], "tar: at byte 0, size is 1 for a folder; wanted 0");
}

/// Of a layer with this member and `disk/a`, the names that count, or what is told.
#[track_caller]
fn check_layer(member: Vec<u8>, want: &str) {
    let archive = [member, file("disk/a", b"x"), end()].concat();
    let members = Members::read_folder(&source_of(&archive), "disk");
    let names = members.map(|members| members.iter().map(|m| m.name.clone()).collect::<Vec<_>>().join(" "));
    assert_eq!(names.unwrap_or_else(|error| error.to_string()), want);
}

#[test]
fn of_a_layer_one_folder_and_the_files_beside_it_count() {
    check_layer(file("etc/passwd", b"x"), "disk/a");
    check_layer(file("os-release", b"x"), "os-release disk/a");
    check_layer(entry("bin", b'2', b""), "disk/a");
    check_layer(entry("usr/bin/vi", b'1', b""), "disk/a");
    check_layer(entry("dev/null", b'3', b""), "disk/a");
    check_layer([entry("x", b'K', b"usr/long\0"), entry("bin", b'2', b"")].concat(), "disk/a");
    check_layer([pax(&[("linkpath", "usr/bin")]), entry("bin", b'2', b"")].concat(), "disk/a");
    check_layer([file("etc/a\\x2db", b""), file("etc/a\\x2db", b"")].concat(), "disk/a");
    check_layer(file("disks/b", b"x"), "disk/a");
    check_layer(entry("disk/", b'5', b""), "disk/a");
    let refused =
        |name, found| format!("tar: at byte 0, {name} is {found}; wanted regular files and folders only");
    check_layer(entry("disk", b'2', b""), &refused("disk", "a symbolic link"));
    check_layer(entry("/disk", b'2', b""), &refused("/disk", "a symbolic link"));
    check_layer(entry("disk/b", b'1', b""), &refused("disk/b", "a hard link"));
    check_layer(entry("disk/sub/b", b'3', b""), &refused("disk/sub/b", "a device"));
    check_layer(entry("./disk//b", b'2', b""), &refused("./disk//b", "a symbolic link"));
    check_layer(entry("usr/../disk", b'2', b""), &refused("usr/../disk", "a symbolic link"));
    check_layer(entry("bin", b'2', b"x"), "tar: at byte 0, size is 1 for what is no file; wanted 0");
    let name = |name| {
        format!(
            "tar: at byte 0, name is `{name}`; wanted a relative name without `.`, `..`, backslashes and control characters"
        )
    };
    check_layer(file("/disk/b", b"x"), &name("/disk/b"));
    check_layer(file("usr/../disk/b", b"x"), &name("usr/../disk/b"));
    check_layer(file("disk/./b", b"x"), &name("disk/./b"));
    let archive = [file("disk/a", b"1"), file("./disk/a", b"2"), end()].concat();
    let error = Members::read_folder(&source_of(&archive), "disk").unwrap_err();
    assert_eq!(error.to_string(), "tar: at byte 1024, disk/a is there again; wanted each member once");
}

#[test]
fn each_name_is_there_once() {
    let again = |offset: u64| format!("tar: at byte {offset}, a is there again; wanted each member once");
    check(&[file("a", b""), file("a", b""), end()], &again(512));
    check(&[file("a", b""), file("./a", b"x"), end()], &again(512));
    check(&[file("a", b""), pax(&[("path", "a")]), file("a", b""), end()], &again(1536));
}

#[test]
fn names_are_relative_and_plain() {
    for name in
        ["/a", "../a", "a/../b", "a/./b", "././a", "a//b", "a/", "..", ".", "a\\b", "a\u{1b}[2J", "./"]
    {
        let want = format!(
            "tar: at byte 0, name is `{}`; wanted a relative name without `.`, `..`, backslashes and control characters",
            name.escape_debug()
        );
        check(&[file(name, b""), end()], &want);
    }
    check(
        &[entry("../d", b'5', b""), end()],
        "tar: at byte 0, name is `../d`; wanted a relative name without `.`, `..`, backslashes and control characters",
    );
    check(
        &[file("", b""), end()],
        "tar: at byte 0, name is ``; wanted a relative name without `.`, `..`, backslashes and control characters",
    );
    check(
        &[header("a", &octal(0), b'0', &[(5, b"b")]), end()],
        "tar: at byte 0, name is `a\\x00\\x00\\x00\\x00b`; wanted UTF-8, then zeros",
    );
}

#[test]
fn headers_are_what_they_claim() {
    let mut broken = file("a", b"");
    broken[0] = b'b';
    check(
        &[broken, end()],
        "tar: at byte 0, checksum is 6076; wanted 6077, the octal sum of the header's bytes",
    );
    check(
        &[header("a", &octal(0), b'0', &[(257, b"\0\0\0\0\0\0\0\0")]), end()],
        "tar: at byte 0, magic is `\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00`; wanted `ustar\\x0000` or `ustar  \\x00`",
    );
    let size = |size: &[u8], found: &str| {
        let want = format!(
            "tar: at byte 0, size is `{found}`; wanted octal digits, or a number below 2^64 in base 256"
        );
        check(&[header("a", size, b'0', &[]), end()], &want);
    };
    size(b"-0000000001\0", "-0000000001\\x00");
    size(b"00000000008\0", "00000000008\\x00");
    size(b"0000 000000\0", "0000 000000\\x00");
    size(b"\0\0\0\0\0\0\0\0\0\0\0\0", "\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00");
    size(&[0xff; 12], "\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff");
    size(b"\x80\0\0\x01\0\0\0\0\0\0\0\0", "\\x80\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00");
}

#[test]
fn members_end_in_the_archive() {
    let want = |size: u64, rest: u64| {
        format!(
            "tar: at byte 0, size is {size} bytes, padded to blocks of 512; wanted what lies in the archive, which has {rest} bytes more"
        )
    };
    check(&[header("a", &octal(1025), b'0', &[]), end()], &want(1025, 1024));
    check(
        &[header("a", b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", b'0', &[]), end()],
        &want(u64::MAX, 1024),
    );
    let cut =
        "tar: at byte 1024, header is cut off after 0 bytes; wanted 512 bytes, or 512 zeros for the end";
    check(&[file("a", b"x")], cut);
    let cut = "tar: at byte 0, header is cut off after 100 bytes; wanted 512 bytes, or 512 zeros for the end";
    check(&[vec![0; 100]], cut);
    check(
        &[file("a", b""), vec![0; 512], file("b", b""), end()],
        "tar: at byte 1024, end of the archive is followed by 0x62; wanted zeros only",
    );
    check(
        &[end(), vec![0; 1 << 20]],
        "tar: at byte 0, end of the archive is followed by 1049600 bytes; wanted at most 1048576 zeros",
    );
}

#[test]
fn extended_headers_change_nothing() {
    let path =
        "tar: at byte 1024, extended name is `b`; wanted `a`, as in the header, or what it was cut off from";
    check(&[pax(&[("path", "b")]), file("a", b""), end()], path);
    let path = "tar: at byte 1024, extended name is `disk2`; wanted `disk`, as in the header, or what it was cut off from";
    check(&[pax(&[("path", "disk2")]), file("disk", b""), end()], path);
    check(
        &[entry("L", b'L', b"b\0"), file("a", b""), end()],
        "tar: at byte 1024, extended name is `b`; wanted `a`, as in the header, or what it was cut off from",
    );
    check(
        &[pax(&[("size", "512")]), file("a", b"x"), end()],
        "tar: at byte 1024, extended size is 512; wanted 1, as in the header",
    );
    check(
        &[pax(&[("size", "-1")]), file("a", b""), end()],
        "tar: at byte 0, size is `-1`; wanted a number below 2^64",
    );
    check(
        &[pax(&[("size", "0"), ("size", "1")]), file("a", b""), end()],
        "tar: at byte 0, size is there twice; wanted it once",
    );
    for key in ["linkpath", "GNU.sparse.major", "GNU.sparse.name", "charset", "hdrcharset", "unheard-of"] {
        let want = format!(
            "tar: at byte 0, extended record is `{key}`; wanted one that changes nothing, or a path or size"
        );
        check(&[pax(&[(key, "1")]), file("a", b""), end()], &want);
    }
    check(
        &[entry("g", b'g', &records(&[("path", "b")])), file("a", b""), end()],
        "tar: at byte 0, extended record is `path`; wanted one that changes nothing, or a path or size",
    );
    check(
        &[entry("x", b'x', b"99 path=a\n"), file("a", b""), end()],
        "tar: at byte 0, extended record is `99 path=a\\n`; wanted `LENGTH KEY=VALUE` and a line feed",
    );
    check(
        &[pax(&[("mtime", "1")]), pax(&[("mtime", "1")]), file("a", b""), end()],
        "tar: at byte 1024, extended header is there twice for one member; wanted it once",
    );
    check(
        &[pax(&[("mtime", "1")]), end()],
        "tar: at byte 1024, header is the end of the archive; wanted the member that the extended header is for",
    );
    check(
        &[header("x", &octal(65537), b'x', &[]), vec![0; 70000]],
        "tar: at byte 0, size is 65537; wanted at most 65536 bytes in an extended header",
    );
}

#[test]
fn there_are_not_too_many_members() {
    let archive: Vec<Vec<u8>> =
        (0..4097).map(|number| file(&number.to_string(), b"")).chain([end()]).collect();
    check(&archive, "tar: at byte 2097152, the archive has more than 4096 members");
    let archive: Vec<Vec<u8>> = (0..16385).map(|_| entry("d/", b'5', b"")).chain([end()]).collect();
    check(&archive, "tar: at byte 8388608, the archive has more than 16384 headers");
    let layer: Vec<Vec<u8>> = (0..20_000).map(|n| file(&format!("usr/{n}"), b"")).chain([end()]).collect();
    assert_eq!(Members::read_folder(&source_of(&layer.concat()), "disk").unwrap().iter().count(), 0);
}

/// What GNU tar makes of a folder, in each of its formats.
#[test]
fn archives_of_gnu_tar_are_read_or_refused_as_they_deserve() {
    let folder = tempfile::tempdir().unwrap();
    let long = "l".repeat(120);
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("web.ovf"), b"<Envelope/>").unwrap();
    fs::write(folder.path().join("sub/dïsk.vmdk"), [1; 5000]).unwrap();
    fs::write(folder.path().join(&long), b"long").unwrap();
    let sparse = File::create(folder.path().join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    fs::hard_link(folder.path().join("web.ovf"), folder.path().join("link.ovf")).unwrap();
    symlink("/etc/passwd", folder.path().join("passwd")).unwrap();
    if pack(folder.path(), &["--format=ustar"], &["web.ovf"]).is_none() {
        eprintln!("skipped: there is no GNU tar");
        return;
    }
    let names = |flags: &[&str], files: &[&str]| {
        let archive = pack(folder.path(), flags, files).unwrap();
        let members = Members::read(&source_of(&archive)).map_err(|error| match error {
            TarError::Refused { found, .. } => found.to_owned(),
            TarError::Malformed { found, .. } => found,
            other => other.to_string(),
        });
        members.map(|members| members.iter().map(|member| member.name.clone()).collect::<Vec<_>>())
    };
    let both = ["web.ovf", "sub/dïsk.vmdk"];
    for format in ["--format=ustar", "--format=gnu", "--format=posix"] {
        assert_eq!(names(&[format], &["web.ovf", "sub"]).unwrap(), both, "{format}");
        assert_eq!(names(&[format], &["./web.ovf", "./sub"]).unwrap(), both, "{format}");
        assert_eq!(names(&[format], &["web.ovf", "passwd"]), Err("a symbolic link".to_owned()));
        assert_eq!(names(&[format], &["web.ovf", "link.ovf"]), Err("a hard link".to_owned()));
    }
    assert_eq!(names(&["--format=gnu"], &[&long]).unwrap(), [long.as_str()]);
    assert_eq!(names(&["--format=posix"], &[&long]).unwrap(), [long.as_str()]);
    assert_eq!(names(&["--format=gnu", "-S"], &["sparse"]), Err("a sparse file".to_owned()));
    assert_eq!(names(&["--format=posix", "-S"], &["sparse"]), Err("`GNU.sparse.major`".to_owned()));
}

/// The archive that GNU tar makes; `None` where there is no tar.
fn pack(folder: &Path, flags: &[&str], files: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("tar").arg("-cf-").args(flags).args(files).current_dir(folder).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        _ = Members::read(&source_of(&bytes));
        _ = Members::read_folder(&source_of(&bytes), "disk");
    }

    /// With the checksum made right, so that more than it is tried.
    #[test]
    fn no_header_makes_the_reader_panic(
        changes in prop::collection::vec((0..512usize, any::<u8>()), 0..8),
        kind in prop::sample::select(&b"0\x005xLgS1"[..]),
        content in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let changes: Vec<_> = changes.iter().map(|(at, byte)| (*at, std::slice::from_ref(byte))).collect();
        let mut archive = header("a", &octal(content.len()), kind, &changes);
        archive.extend_from_slice(&content);
        archive.resize(archive.len().next_multiple_of(512), 0);
        archive.extend(file("b", b"x"));
        archive.extend(end());
        let source = source_of(&archive);
        if let Ok(members) = Members::read(&source) {
            for member in members.iter() {
                prop_assert!(member.offset + member.size_bytes <= source.size_bytes());
                prop_assert_eq!(members.source(member).size_bytes(), member.size_bytes);
            }
        }
    }
}
