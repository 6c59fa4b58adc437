//! Images that are small, have several layers, and cannot be compressed, so that what moves can be counted.

use std::fs;

use super::machine::{Machine, Tree};
use crate::support::disks::noise;

/// What each of an image's two large layers holds.
pub(crate) const LAYER_BYTES: usize = 96 << 10;
/// More than requests, answers and manifests of one image take; far less than one of its layers.
pub(crate) const NO_LAYER_BYTES: u64 = 24 << 10;

/// A build of three layers: the second adds to the first, the third replaces a file of the first.
const CONTAINERFILE: &str = "FROM scratch\nCOPY one old /data/\nCOPY two /data/\nCOPY new /data/old\n\
                             LABEL dev.hullvm.test=layers\n";

/// Writes the folder `context` with all that a build of [`files`] takes.
pub(crate) fn write_context(machine: &Machine, seed: u64) {
    let folder = machine.folder().join("context");
    fs::create_dir(&folder).unwrap();
    let files = files(seed);
    fs::write(folder.join("one"), &files["/data/one"]).unwrap();
    fs::write(folder.join("two"), &files["/data/two"]).unwrap();
    fs::write(folder.join("old"), "as it was").unwrap();
    fs::write(folder.join("new"), &files["/data/old"]).unwrap();
    fs::write(folder.join("Containerfile"), CONTAINERFILE).unwrap();
}

/// What the image with this seed holds.
pub(crate) fn files(seed: u64) -> Tree {
    let layer = |seed| {
        let mut content = noise(seed, LAYER_BYTES);
        content.truncate(LAYER_BYTES);
        content
    };
    let files = [
        ("/data/one", layer(seed)),
        ("/data/two", layer(seed + 1)),
        ("/data/old", b"replaced by the third layer".to_vec()),
    ];
    files.into_iter().map(|(path, content)| (path.to_owned(), content)).collect()
}
