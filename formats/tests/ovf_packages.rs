//! Packages: the descriptor found, the manifest believed before all else, names compared and never opened; and archives
//! that are written.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use formats::image::{Parts, Source};
use formats::ovf::{FileReference, Manifest, ManifestDigest, OvaWriter, Package, PackageError};
use formats::tar::Members;
use sha2::{Digest as _, Sha256, Sha512};

const DESCRIPTOR: &str = "<Envelope/>";
const CERTIFICATE: &str = include_str!("ovf_samples/web.cert");

fn source_of(bytes: &[u8]) -> Source {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Source::new(file).unwrap()
}

/// An archive of these files.
fn archive(files: &[(&str, &[u8])]) -> Source {
    let mut bytes = Vec::new();
    for (name, content) in files {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(block);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    source_of(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(name: &str, content: &[u8]) -> String {
    format!("SHA256({name})= {}\n", hex(&Sha256::digest(content)))
}

fn reference(href: &str) -> FileReference {
    FileReference { id: "file1".to_owned(), href: href.to_owned(), ..FileReference::default() }
}

fn content(source: &Source) -> Vec<u8> {
    let mut content = vec![0; source.size_bytes() as usize];
    source.read_exact_at(&mut content, 0).unwrap();
    content
}

/// A folder, in memory.
#[derive(Debug)]
struct Folder(BTreeMap<&'static str, Vec<u8>>);

impl Parts for Folder {
    fn part(&self, name: &str) -> io::Result<Option<Source>> {
        Ok(self.0.get(name).map(|content| source_of(content)))
    }
}

#[test]
fn the_descriptor_is_found_wherever_it_stands() {
    let found = |files: &[(&str, &[u8])]| {
        Package::from_archive(&archive(files)).map(|package| package.descriptor_name().to_owned())
    };
    let text = DESCRIPTOR.as_bytes();
    assert_eq!(found(&[("web.ovf", text), ("disk", b"x")]).unwrap(), "web.ovf");
    assert_eq!(found(&[("disk", b"x"), ("./WEB.OVF", text)]).unwrap(), "WEB.OVF");
    assert_eq!(found(&[("._web.ovf", b"x"), ("sub/web.ovf", text)]).unwrap(), "web.ovf");
    let none = "OVF: the package has none; wanted one file whose name ends with `.ovf`";
    assert_eq!(found(&[("web.xml", text)]).unwrap_err().to_string(), none);
    let two = "OVF: the package has `a.ovf` and `sub/b.ovf`; wanted one file whose name ends with `.ovf`";
    assert_eq!(found(&[("a.ovf", text), ("sub/b.ovf", text)]).unwrap_err().to_string(), two);
    let manifests = "OVF: the package has `a.mf` and `b.mf` beside its descriptor; wanted one at most";
    let files: [(&str, &[u8]); 3] = [("web.ovf", text), ("a.mf", b""), ("b.mf", b"")];
    assert_eq!(found(&files).unwrap_err().to_string(), manifests);
}

#[test]
fn files_are_found_by_their_names_beside_the_descriptor() {
    let package =
        archive(&[("sub/web.ovf", DESCRIPTOR.as_bytes()), ("sub/my disk.vmdk", b"one"), ("root", b"two")]);
    let package = Package::from_archive(&package).unwrap();
    let found = |href: &str| package.open(&reference(href)).map(|file| content(&file.source));
    assert_eq!(found("my disk.vmdk").unwrap(), b"one");
    assert_eq!(found("my%20disk.vmdk").unwrap(), b"one");
    let missing = |href: &str, name: &str| {
        let want = format!("OVF: the package has no file `{name}`, which the descriptor refers to");
        assert_eq!(found(href).unwrap_err().to_string(), want);
    };
    missing("root", "root");
    missing("my%2", "my%2");
    for href in [
        "sub/my disk.vmdk",
        "../root",
        "/etc/passwd",
        "%2e%2e%2froot",
        "%2fetc%2fpasswd",
        "..",
        "",
        "a\\b",
        "file:root",
        "http://example.org/root",
        "a\u{7}",
        "a%00b",
    ] {
        assert!(matches!(found(href), Err(PackageError::NotAName { .. })), "{href}");
    }
    let want = "OVF: ovf:href of File is `subdir/data.vmdk`; wanted the name of a file beside the descriptor, without folders or a scheme";
    assert_eq!(found("subdir/data.vmdk").unwrap_err().to_string(), want);
}

#[test]
fn what_is_used_is_in_the_manifest_and_as_it_says() {
    let open = |manifest: &str| {
        let manifest = manifest.as_bytes();
        Package::from_archive(&archive(&[
            ("web.ovf", DESCRIPTOR.as_bytes()),
            ("web.mf", manifest),
            ("disk", b"x"),
        ]))
    };
    let own = sha256("web.ovf", DESCRIPTOR.as_bytes());
    let package = open(&format!("{own}{}", sha256("disk", b"x"))).unwrap();
    assert!(package.open(&reference("disk")).is_ok());
    package.check("disk", &|_| ()).unwrap();
    assert!(package.part("disk").unwrap().is_some());

    let package = open(&own).unwrap();
    let missing = "OVF: the manifest has no digest of `disk`; wanted one for each file that is used";
    assert_eq!(package.open(&reference("disk")).unwrap_err().to_string(), missing);
    assert!(package.part("disk").unwrap().is_none());

    let package = open(&format!("{own}{}", sha256("disk", b"y"))).unwrap();
    let error = package.check("disk", &|_| ()).unwrap_err().to_string();
    let (found, wanted) = (hex(&Sha256::digest(b"x")), hex(&Sha256::digest(b"y")));
    assert_eq!(error, format!("OVF: the digest of `disk` is {found}; wanted {wanted}, as in the manifest"));

    let error = open(&sha256("disk", b"x")).unwrap_err().to_string();
    assert_eq!(error, "OVF: the manifest has no digest of `web.ovf`; wanted one for each file that is used");
    assert!(matches!(open(&sha256("web.ovf", b"<Other/>")), Err(PackageError::Digest { .. })));
}

#[test]
fn a_file_is_held_against_the_manifest_once() {
    let manifest = sha256("web.ovf", DESCRIPTOR.as_bytes()) + &sha256("disk", b"content");
    let archive =
        archive(&[("web.ovf", DESCRIPTOR.as_bytes()), ("web.mf", manifest.as_bytes()), ("disk", b"content")]);
    let package = Package::from_archive(&archive).unwrap();
    let read = AtomicU64::new(0);
    for _ in 0..3 {
        package.check("disk", &|bytes| _ = read.fetch_add(bytes, Ordering::Relaxed)).unwrap();
    }
    assert_eq!(read.into_inner(), 7);
}

#[test]
fn manifests_are_read_as_their_writers_write_them() {
    let sha1 = "11f6ad8ec52a2984abaafd7c3b516503785c2072";
    let (sha256, sha512) = (hex(&Sha256::digest(b"x")), hex(&Sha512::digest(b"x")));
    let text = format!(
        "\u{feff}SHA1(a.ovf)= {sha1}\r\nSHA256 (a (1).vmdk) = {}\n\nsha512(./b)={sha512}  \n",
        sha256.to_uppercase()
    );
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    let names: Vec<_> = manifest.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["a.ovf", "a (1).vmdk", "b"]);
    assert_eq!(manifest.digest("a (1).vmdk"), Some(ManifestDigest::Sha256(Sha256::digest(b"x").into())));
    assert_eq!(manifest.digest("b").unwrap().to_string(), sha512);

    let files: [(&str, &[u8]); 3] = [
        ("web.ovf", b"x"),
        ("web.mf", b"SHA1(web.ovf)= 11f6ad8ec52a2984abaafd7c3b516503785c2072\nSHA512(disk)= "),
        ("disk", b"x"),
    ];
    let manifest = [files[1].1, sha512.as_bytes()].concat();
    let files = [files[0], ("web.mf", manifest.as_slice()), files[2]];
    let package = Package::from_archive(&archive(&files)).unwrap();
    package.check("disk", &|_| ()).unwrap();
}

#[test]
fn manifests_that_cannot_be_read_are_refused() {
    let check = |text: &str, line: usize, found: &str, wanted: &str| {
        let want = format!("OVF: line {line} of the manifest is {found}; wanted {wanted}");
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap_err().to_string(), want);
    };
    let line = "`SHA256(NAME)= DIGEST`, or SHA1 or SHA512";
    check("what", 1, "`what`", line);
    check("\nMD5(a)= 00", 2, "`MD5(a)= 00`", line);
    check("SHA256(a)= 00", 1, "`SHA256(a)= 00`", line);
    check(
        "SHA1(a)= 11f6ad8ec52a2984abaafd7c3b516503785c207g",
        1,
        "`SHA1(a)= 11f6ad8ec52a2984abaafd7c3b516503785c207g`",
        line,
    );
    check(
        "SHA1()= 11f6ad8ec52a2984abaafd7c3b516503785c2072",
        1,
        "`SHA1()= 11f6ad8ec52a2984abaafd7c3b516503785c2072`",
        line,
    );
    let twice = "SHA1(a)= 11f6ad8ec52a2984abaafd7c3b516503785c2072\nSHA1(./a)= 11f6ad8ec52a2984abaafd7c3b516503785c2072";
    check(twice, 2, "`a` again", "each file once");
    let error = Manifest::parse(b"SHA1(\xff)= 00").unwrap_err().to_string();
    assert_eq!(error, "OVF: line 1 of the manifest is `SHA1(\\xff)= 00`; wanted UTF-8");
}

#[test]
fn files_in_chunks_are_put_together() {
    let files: [(&str, &[u8]); 5] = [
        ("web.ovf", DESCRIPTOR.as_bytes()),
        ("disk.000000000", b"abc"),
        ("disk.000000001", b"def"),
        ("disk.000000002", b"g"),
        ("gap.000000001", b"x"),
    ];
    let open = |files: &[(&str, &[u8])], href: &str, size_bytes: Option<u64>, chunk_bytes: u64| {
        let package = Package::from_archive(&archive(files)).unwrap();
        let reference = FileReference { size_bytes, chunk_bytes: Some(chunk_bytes), ..reference(href) };
        package.open(&reference).map(|file| content(&file.source)).map_err(|error| error.to_string())
    };
    assert_eq!(open(&files, "disk", None, 3).unwrap(), b"abcdefg");
    assert_eq!(open(&files, "disk", Some(7), 3).unwrap(), b"abcdefg");
    let missing =
        |name| Err(format!("OVF: the package has no file `{name}`, which the descriptor refers to"));
    assert_eq!(open(&files, "disk", Some(10), 3), missing("disk.000000003"));
    assert_eq!(open(&files, "gap", None, 3), missing("gap.000000000"));
    assert_eq!(
        open(&files[..2], "disk", None, 2),
        Err("OVF: `disk.000000000` has 3 bytes; wanted 2, as ovf:chunkSize and ovf:size say".to_owned())
    );
    assert_eq!(
        open(&files, "disk", None, 4),
        Err("OVF: `disk.000000000` has 3 bytes; wanted 4, as ovf:chunkSize and ovf:size say".to_owned())
    );
    let gap = [files[0], files[1], files[3]];
    assert_eq!(open(&gap, "disk", None, 3), missing("disk.000000001"));
    assert_eq!(open(&files, "disk", Some(u64::MAX), 1), missing("disk.000000003"));
}

#[test]
fn the_certificate_is_told_and_not_believed() {
    let package = archive(&[("web.ovf", DESCRIPTOR.as_bytes()), ("web.cert", CERTIFICATE.as_bytes())]);
    let package = Package::from_archive(&package).unwrap();
    let certificate = package.certificate().unwrap();
    assert_eq!(certificate.subject.as_deref(), Some("CN=web,O=Example\\, Inc."));
    assert_eq!(
        hex(&certificate.sha256.unwrap()),
        "6a660fb2004362f1014b341df96158efe05a198a55e9055f15b8710ecc10bf52"
    );

    let broken = archive(&[
        ("web.ovf", DESCRIPTOR.as_bytes()),
        ("web.cert", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
    ]);
    let broken = Package::from_archive(&broken).unwrap();
    let certificate = broken.certificate().unwrap();
    assert_eq!((certificate.subject.as_deref(), certificate.sha256.is_some()), (None, true));
}

#[test]
fn a_folder_is_read_as_an_archive_is() {
    let manifest = sha256("web.ovf", DESCRIPTOR.as_bytes()) + &sha256("disk", b"x");
    let mut folder = Folder(BTreeMap::from([
        ("web.ovf", DESCRIPTOR.as_bytes().to_vec()),
        ("web.mf", manifest.into_bytes()),
        ("disk", b"x".to_vec()),
        ("other.mf", b"not of this package".to_vec()),
    ]));
    let package = Package::from_folder("web.ovf", &folder).unwrap();
    assert_eq!(package.descriptor(), DESCRIPTOR.as_bytes());
    assert_eq!(content(&package.open(&reference("disk")).unwrap().source), b"x");
    package.check("disk", &|_| ()).unwrap();
    folder.0.insert("disk", b"y".to_vec());
    let package = Package::from_folder("web.ovf", &folder).unwrap();
    assert!(matches!(package.check("disk", &|_| ()), Err(PackageError::Digest { .. })));
    let missing = Package::from_folder("db.ovf", &folder).unwrap_err().to_string();
    assert_eq!(missing, "OVF: the package has no file `db.ovf`, which the descriptor refers to");
}

/// Writes an archive with one disk; gives back its bytes.
fn written(disk: &[u8]) -> Vec<u8> {
    let mut out = tempfile::tempfile().unwrap();
    let mut writer = OvaWriter::create(out.try_clone().unwrap(), "web", 1000).unwrap();
    let mut member = writer.member("web-root.vmdk").unwrap();
    disk.chunks(1000).for_each(|piece| member.write_all(piece).unwrap());
    assert_eq!(member.finish().unwrap(), disk.len() as u64);
    let bytes = writer.finish(DESCRIPTOR).unwrap();
    let mut archive = Vec::new();
    out.seek(SeekFrom::Start(0)).unwrap();
    out.read_to_end(&mut archive).unwrap();
    assert_eq!(archive.len() as u64, bytes);
    archive
}

#[test]
fn an_archive_that_is_written_is_read_back() {
    for disk in [&b""[..], &[7; 512], &[8; 5000]] {
        let archive = written(disk);
        let source = source_of(&archive);
        let members = Members::read(&source).unwrap();
        let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["web.ovf", "web-root.vmdk", "web.mf"]);
        let package = Package::from_archive(&source).unwrap();
        assert_eq!(std::str::from_utf8(package.descriptor()).unwrap().trim_end(), DESCRIPTOR);
        assert_eq!(content(&package.open(&reference("web-root.vmdk")).unwrap().source), disk);
        package.check("web-root.vmdk", &|_| ()).unwrap();
        assert_eq!(archive, written(disk), "the same content makes the same archive");
    }
}

#[test]
fn gnu_tar_reads_an_archive_that_is_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("web.ova"), written(&[7; 5000])).unwrap();
    let Ok(output) =
        Command::new("tar").args(["-tvf", "web.ova", "--utc"]).current_dir(folder.path()).output()
    else {
        eprintln!("skipped: there is no GNU tar");
        return;
    };
    assert!(output.status.success() && output.stderr.is_empty());
    let want = "\
-rw-r--r-- 0/0            1000 1970-01-01 00:00 web.ovf
-rw-r--r-- 0/0            5000 1970-01-01 00:00 web-root.vmdk
-rw-r--r-- 0/0             170 1970-01-01 00:00 web.mf
";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), want);
}

#[test]
fn what_cannot_be_an_archive_is_refused() {
    let create = |stem| OvaWriter::create(tempfile::tempfile().unwrap(), stem, 1000);
    let name = |name: &str| {
        format!(
            "OVA: the name `{name}` cannot be written; wanted 1 to 100 bytes without slashes and control characters"
        )
    };
    assert_eq!(create("a/b").unwrap_err().to_string(), name("a/b.ovf"));
    let mut writer = create("web").unwrap();
    for bad in ["", "..", "a/b", "a\\b"] {
        assert_eq!(writer.member(bad).unwrap_err().to_string(), name(&bad.escape_debug().to_string()));
    }
    let long = "x".repeat(101);
    assert!(writer.member(&long).is_err());
    assert_eq!(
        writer.member("web.mf").unwrap_err().to_string(),
        "OVA: the archive has a file `web.mf` already"
    );
    drop(writer.member("disk").unwrap());
    assert_eq!(writer.member("disk2").unwrap_err().to_string(), "OVA: the file `disk` was not finished");
    assert_eq!(writer.finish(DESCRIPTOR).unwrap_err().to_string(), "OVA: the file `disk` was not finished");
    let long = "x".repeat(1001);
    let error = create("web").unwrap().finish(&long).unwrap_err().to_string();
    assert_eq!(error, "OVA: the descriptor has 1001 bytes; 1000 were kept for it");
}
