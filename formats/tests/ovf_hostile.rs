//! Hostile and doubtful descriptors: every one gets its own answer, fast and without much memory.

use formats::ovf::{Medium, OvfError, parse};
use proptest::prelude::*;

const SMALL: &str = include_str!("ovf_hostile.ovf");

fn answer(document: &[u8]) -> String {
    match parse(document, None) {
        Err(error) => error.to_string(),
        Ok(descriptor) => {
            let warnings = descriptor.warnings.iter().map(|warning| format!("; {warning}"));
            format!("read{}", warnings.collect::<String>())
        }
    }
}

/// `ovf_hostile.txt` says how the documents are made.
#[test]
fn every_hostile_descriptor_gets_its_own_answer() {
    let text = include_str!("ovf_hostile.txt");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(['~', ' '])).collect();
    let (cases, rest) = lines.as_chunks();
    let mut wrong = String::new();
    for [made, want] in cases {
        let found = answer(hostile(made).as_bytes());
        if found != want.trim_start() {
            wrong += &format!("{made}\n    {found}\n");
        }
    }
    assert!(rest.is_empty() && cases.len() > 100, "each case has two lines");
    assert!(wrong.is_empty(), "answered otherwise:\n{wrong}");
}

/// Makes the document that a line of `ovf_hostile.txt` describes.
fn hostile(made: &str) -> String {
    let mut document = SMALL.to_owned();
    for change in made.split("  ") {
        let mut parts = change.trim_matches('~').splitn(2, '~');
        let (old, new) = (parts.next().unwrap(), parts.next().unwrap_or_default());
        let (new, times) = match new.rsplit_once('*').map(|(new, times)| (new, times.parse())) {
            Some((new, Ok(times))) => (new, times),
            _ => (new, 1),
        };
        assert!(document.contains(old), "{old}");
        document = document.replacen(old, &new.repeat(times), 1);
    }
    document
}

#[test]
fn the_sample_that_the_other_tests_break_is_whole() {
    let descriptor = parse(SMALL.as_bytes(), None).unwrap();
    let ids: Vec<_> = descriptor.start_order().iter().map(|system| system.id.as_str()).collect();
    assert_eq!(ids, ["b", "a"]);
    let hardware = &descriptor.systems[0].hardware;
    let media: Vec<_> = hardware.drives.iter().map(|drive| drive.medium.clone().unwrap()).collect();
    assert_eq!(media, [Medium::Disk("d1".to_owned()), Medium::Disk("d2".to_owned())]);
    assert_eq!(descriptor.disk("d2").unwrap().capacity_bytes, 2 << 30);
    assert!(descriptor.warnings.is_empty());
}

#[test]
fn documents_in_utf_16_and_with_a_byte_order_mark_are_read() {
    let plain = parse(SMALL.as_bytes(), None).unwrap();
    let text = SMALL.replace("UTF-8", "UTF-16");
    let little: Vec<u8> =
        [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_be_bytes).collect();
    let marked = [b"\xef\xbb\xbf", SMALL.as_bytes()].concat();
    for document in [&little, &big, &marked] {
        assert_eq!(parse(document, None).unwrap(), plain.clone());
    }
    assert_eq!(
        answer(&little[..little.len() - 1]),
        "OVF: at byte 0, the document is UTF-16 with half a character; wanted UTF-8, or UTF-16 with a byte order mark"
    );
    assert_eq!(
        answer(b"<Envelope>\xff</Envelope>"),
        "OVF: at byte 10, the document is no UTF-8: 0xff; wanted UTF-8, or UTF-16 with a byte order mark"
    );
}

#[test]
fn documents_that_are_too_large_are_refused_before_they_are_read() {
    let document = vec![b' '; (16 << 20) + 1];
    assert_eq!(parse(&document, None), Err(OvfError::TooLarge { bytes: document.len(), most: 16 << 20 }));
    let attributes: String = (0..65).map(|number| format!(" a{number}=\"\"")).collect();
    let message = answer(format!("<Envelope{attributes}/>").as_bytes());
    assert_eq!(message, "OVF: at byte 0, the document has more than 64 attributes in one element");
    let namespaces: String = (0..33).map(|number| format!(" xmlns:a{number}=\"x:\"")).collect();
    let message = answer(format!("<Envelope{namespaces}/>").as_bytes());
    assert!(message.ends_with("the document has more than 32 namespaces in one place"), "{message}");
}

/// Texts that many elements share do not multiply what the document takes.
#[test]
fn a_text_that_many_elements_name_is_copied_a_bounded_number_of_times() {
    let labels = "<Configuration ovf:id=\"N\"><Label ovf:msgid=\"m\"/></Configuration>";
    let labels: String = (0..4000).map(|number| labels.replace('N', &format!("c{number}"))).collect();
    let message = "x".repeat(1 << 18);
    let document = format!(
        "<Envelope><DeploymentOptionSection>{labels}</DeploymentOptionSection><Strings><Msg ovf:msgid=\"m\">{message}</Msg></Strings></Envelope>"
    );
    let descriptor = parse(document.as_bytes(), None).unwrap();
    let labels = descriptor.options.iter().filter_map(|option| option.label.as_ref());
    assert_eq!(labels.map(String::len).sum::<usize>(), 1 << 20);
}

/// What is long in one place, and named or looked at from many, is bounded: each of these took seconds or gigabytes.
#[test]
fn what_many_elements_share_is_short() {
    let long = "x".repeat(1 << 16);
    let system = |within: &str, content: &str| {
        format!("<Envelope><VirtualSystem ovf:id=\"a\" {within}>{content}</VirtualSystem></Envelope>")
    };
    let named =
        system("", &"<VirtualHardwareSection/>".repeat(4000)).replace("\"a\"", &format!("\"{long}\""));
    assert_eq!(
        answer(named.as_bytes()),
        "OVF: at byte 10, ovf:id of VirtualSystem is 65536 bytes long; wanted at most 1024 bytes"
    );
    let property = "<Property ovf:key=\"k\"/>".repeat(100);
    let classed = system("", &format!("<ProductSection ovf:class=\"{long}\">{property}</ProductSection>"));
    assert_eq!(
        answer(classed.as_bytes()),
        "OVF: at byte 37, ovf:class of ProductSection is 65536 bytes long; wanted at most 256 bytes"
    );
    let listed = "a ".repeat(1000);
    let listed = format!(
        "<VirtualHardwareSection ovf:transport=\"{listed}\"><System><vssd:VirtualSystemType>{listed}</vssd:VirtualSystemType></System></VirtualHardwareSection>"
    );
    let hardware = parse(system("", &listed).as_bytes(), None).unwrap().systems.remove(0).hardware;
    assert_eq!((hardware.transports.len(), hardware.kinds.len()), (64, 64));
}

/// Sections, disks and properties may each be many: looking one up must not mean looking at all others.
#[test]
fn thousands_of_sections_disks_and_properties_are_read_at_once() {
    let numbers = || 0..4000;
    let all = |make: &dyn Fn(u32) -> String| numbers().map(make).collect::<String>();
    let disks = all(&|n| format!("<Disk ovf:diskId=\"d{n}\" ovf:capacity=\"${{c.k{n}}}\"/>"));
    let properties = all(&|n| format!("<Property ovf:key=\"k{n}\" ovf:value=\"{n}\"/>"));
    let drives = all(&|n| {
        format!(
            "<Item><rasd:InstanceID>{n}</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>/disk/d{n}</rasd:HostResource></Item>"
        )
    });
    let sections = "<DiskSection/>".repeat(20_000);
    let document = format!(
        "<Envelope><DiskSection>{disks}</DiskSection>{sections}<VirtualSystem ovf:id=\"a\"><ProductSection ovf:class=\"c\">{properties}</ProductSection><VirtualHardwareSection>{drives}</VirtualHardwareSection></VirtualSystem></Envelope>"
    );
    let descriptor = parse(document.as_bytes(), None).unwrap();
    let capacities = descriptor.disks.iter().map(|disk| disk.capacity_bytes);
    assert!(capacities.eq(numbers().map(u64::from)));
}

#[test]
fn what_other_readers_would_read_otherwise_is_read_as_they_do_or_refused() {
    let file = "<File href=\"other.vmdk\" ovf:href=\"disk.vmdk\" ovf:id=\"f\" id=\"g\"/>";
    let document = format!("<Envelope><References>{file}</References></Envelope>");
    let files = parse(document.as_bytes(), None).unwrap().files;
    assert_eq!((files[0].href.as_str(), files[0].id.as_str()), ("disk.vmdk", "f"));
    let document = format!("<Envelope><References>{file}</References><References/></Envelope>");
    assert_eq!(
        answer(document.as_bytes()),
        "OVF: at byte 99, References is there again; wanted all files in one"
    );
}

fn descriptors() -> Vec<&'static [u8]> {
    vec![
        SMALL.as_bytes(),
        include_bytes!("fixtures/ovf/uber.ovf"),
        include_bytes!("fixtures/ovf/multiple_disks.ovf"),
        include_bytes!("fixtures/ovf/virtualsystemcollection.ovf"),
        include_bytes!("ovf_samples/virtualbox-1.0.ovf"),
        include_bytes!("ovf_samples/ovirt.ovf"),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        _ = parse(&bytes, None);
    }

    #[test]
    fn no_change_to_a_descriptor_makes_the_reader_panic(
        which in 0..6usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&b"<>/\"'&;=: \x000-9a\xff$"[..])), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut document = descriptors()[which].to_vec();
        for (at, byte) in changes {
            let at = at.index(document.len());
            document[at] = byte;
        }
        if let Some(cut) = cut {
            document.truncate(cut.index(document.len()));
        }
        if let Ok(descriptor) = parse(&document, None) {
            // What was read is well-formed, so it can be written unless its ids contradict each other.
            if let Ok(written) = formats::ovf::write(&descriptor) {
                prop_assert!(parse(written.as_bytes(), None).is_ok(), "{written}");
            }
        }
    }

    /// Pieces of descriptors moved about, which stay well-formed more often than changed bytes do.
    #[test]
    fn no_exchange_of_lines_makes_the_reader_panic(
        which in 0..6usize,
        moves in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..8),
    ) {
        let text = std::str::from_utf8(descriptors()[which]).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        for (from, to) in moves {
            let (from, to) = (from.index(lines.len()), to.index(lines.len()));
            lines[to] = lines[from];
        }
        _ = parse(lines.join("\n").as_bytes(), None);
    }
}
