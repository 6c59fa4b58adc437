//! Archives, and the packages of machines in them.

use formats::image::Source;
use formats::ovf::{self, Package};
use formats::tar::Members;

use crate::disks::file_of;
use crate::seal;

/// Any bytes as a tar archive, with right checksums. Names lead nowhere, and no two members share a byte.
pub fn tar(bytes: &[u8]) {
    let source = sealed(bytes);
    let Ok(members) = Members::read(&source) else { return };
    let mut end = 0;
    for member in members.iter() {
        let parts = member.name.split('/');
        assert!(parts.clone().all(|part| !matches!(part, "" | "." | "..")), "{:?}", member.name);
        assert!(!member.name.chars().any(char::is_control), "{:?}", member.name);
        assert!(member.offset > end || end == 0, "{member:?} over the one before");
        end = member.offset + member.size_bytes;
        assert!(end <= source.size_bytes(), "{member:?} past the end");
        assert_eq!(members.get(&member.name), Some(member));
        assert_eq!(members.source(member).size_bytes(), member.size_bytes);
    }
}

/// Any bytes as an OVA, with right checksums of its tar headers: every file that its descriptor names is opened.
pub fn ova(bytes: &[u8]) {
    let source = sealed(bytes);
    let Ok(package) = Package::from_archive(&source) else { return };
    let Ok(descriptor) = ovf::parse(package.descriptor(), None) else { return };
    for reference in &descriptor.files {
        let _ = package.open(reference);
    }
}

fn sealed(bytes: &[u8]) -> Source {
    let mut file = bytes.to_vec();
    seal::tar(&mut file);
    Source::new(file_of(&file)).expect("it is a file")
}
