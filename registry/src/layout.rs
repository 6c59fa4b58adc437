//! Where everything lies in the storage. Layout 1.
//!
//! ```text
//! layout                                                    "1\n": which of these pages is meant
//! blobs/<algorithm>/<2 hex>/<hex>                           content, whole and checked
//! repositories/<repository>/blobs/<algorithm>/<hex>         empty: the blob may be read here
//! repositories/<repository>/manifests/<algorithm>/<hex>     {"mediaType"}: it is a manifest here
//! repositories/<repository>/tags/<tag>+/<number>            {"digest","time"}: a tag's history
//! ```
//!
//! - `<repository>` is the name with `+` for `/`: one level, so repositories can be listed, and no
//!   repository's keys lie among another's.
//! - `<tag>+`, since names of folders compare as if they ended in `/`; `+` sorts before whatever else
//!   a tag may go on with, so that tags list in the order of their own bytes, as the specification
//!   asks.
//! - `<number>` is 2^64 - 1 minus the entry's place in the history, 20 digits, so the newest lists
//!   first. A tag moves by putting the next entry, which only one of several writers can do; the
//!   others see that the key exists, read again and take the next place.
//! - A manifest's bytes are a blob like any other, but they have a manifest link and no blob link.
//! - A blob is read through a repository's link only. That content is stored for one repository lets
//!   nobody read it through another.
//! - An upload is a session of the storage. Its id is half a digest of the repository's name, half
//!   what the client knows, so an upload exists in its repository only.
//!
//! Order of writing: content, then link, then tag. So whatever can be found leads to what is there.
//! The names `leases`, `tombstones` and `repositories/<repository>/referrers` are kept for deletion
//! and referrers.
//!
//! Nothing is overwritten, and no two servers need to agree on anything but who created a key. So
//! several may serve one storage.

use appliance::Digest;
use blob_store::{Key, SessionId};

use crate::name::{RepositoryName, Tag, UploadId};

/// What the key `layout` holds.
pub(crate) const LAYOUT: &[u8] = b"1\n";

/// The key that says how everything else is laid out.
pub(crate) fn layout() -> Key {
    key("layout".to_owned())
}

/// A blob's content.
pub(crate) fn blob(digest: &Digest) -> Key {
    let hex = digest.hex();
    key(format!("blobs/{}/{}/{hex}", digest.algorithm().as_str(), &hex[..2]))
}

/// Everything that is known of a repository.
pub(crate) fn repository(name: &RepositoryName) -> Key {
    key(format!("repositories/{}", folder_name(name)))
}

/// The permission to read a blob in a repository.
pub(crate) fn blob_link(name: &RepositoryName, digest: &Digest) -> Key {
    link(name, "blobs", digest)
}

/// The permission to read a manifest in a repository, and its media type.
pub(crate) fn manifest_link(name: &RepositoryName, digest: &Digest) -> Key {
    link(name, "manifests", digest)
}

/// The folder of a repository's tags.
pub(crate) fn tags(name: &RepositoryName) -> Key {
    key(format!("repositories/{}/tags", folder_name(name)))
}

/// The folder of a tag's history.
pub(crate) fn tag(name: &RepositoryName, tag: &Tag) -> Key {
    key(format!("{}/{}", tags(name), tag_folder(tag.as_str())))
}

/// The name of a tag's folder.
pub(crate) fn tag_folder(tag: &str) -> String {
    format!("{tag}+")
}

/// The tag that has this folder.
pub(crate) fn tag_of_folder(folder: &str) -> Option<&str> {
    folder.strip_suffix('+')
}

/// An entry of a tag's history. Places count from 0.
pub(crate) fn tag_entry(name: &RepositoryName, tag_name: &Tag, place: u64) -> Key {
    log_entry(&tag(name, tag_name), place)
}

/// An entry of the log in `folder`. Places count from 0.
pub(crate) fn log_entry(folder: &Key, place: u64) -> Key {
    key(format!("{folder}/{}", log_entry_name(place)))
}

/// The last part of the key of a log's entry.
pub(crate) fn log_entry_name(place: u64) -> String {
    format!("{:020}", u64::MAX - place)
}

/// The place in its log of the entry with this name.
pub(crate) fn place_of_entry(entry: &str) -> Option<u64> {
    entry.parse().ok().map(|number: u64| u64::MAX - number)
}

/// The storage's session of an upload.
pub(crate) fn session(name: &RepositoryName, upload: UploadId) -> SessionId {
    let repository = Digest::sha256(name.as_str().as_bytes());
    let mut id = [0; 32];
    id[..16].copy_from_slice(&repository.as_bytes()[..16]);
    id[16..].copy_from_slice(upload.as_bytes());
    SessionId::new(id)
}

fn folder_name(name: &RepositoryName) -> String {
    name.as_str().replace('/', "+")
}

fn link(name: &RepositoryName, kind: &str, digest: &Digest) -> Key {
    let algorithm = digest.algorithm().as_str();
    key(format!("repositories/{}/{kind}/{algorithm}/{}", folder_name(name), digest.hex()))
}

fn key(text: String) -> Key {
    Key::new(text).expect("names and digests consist of what keys may hold")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_its_place() {
        let name = RepositoryName::parse("team/web").unwrap();
        let latest = Tag::parse("latest").unwrap();
        let digest = Digest::sha256(b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(blob(&digest).as_str(), format!("blobs/sha256/e3/{hex}"));
        assert_eq!(blob_link(&name, &digest).as_str(), format!("repositories/team+web/blobs/sha256/{hex}"));
        assert_eq!(
            manifest_link(&name, &digest).as_str(),
            format!("repositories/team+web/manifests/sha256/{hex}")
        );
        assert_eq!(
            tag_entry(&name, &latest, 1).as_str(),
            "repositories/team+web/tags/latest+/18446744073709551614"
        );
        assert_eq!(place_of_entry("18446744073709551614"), Some(1));
    }

    #[test]
    fn the_longest_names_have_keys() {
        let name = RepositoryName::parse(&"a".repeat(255)).unwrap();
        let tag = Tag::parse(&"t".repeat(128)).unwrap();
        tag_entry(&name, &tag, 0);
        manifest_link(&name, &format!("sha512:{}", "ab".repeat(64)).parse().unwrap());
    }

    #[test]
    fn an_upload_belongs_to_its_repository() {
        let upload = UploadId::new([1; 16]);
        let session_in = |name: &str| session(&RepositoryName::parse(name).unwrap(), upload);
        assert_eq!(session_in("a"), session_in("a"));
        assert_ne!(session_in("a"), session_in("b"));
    }

    #[test]
    fn tags_sort_by_their_own_bytes() {
        let mut tags = ["1.0", "1.0-rc", "1.0.1", "1.00", "1.0_x", "1.0A"];
        tags.sort_unstable();
        let folders = tags.map(|tag| tag_folder(tag) + "/");
        assert!(folders.is_sorted(), "{folders:?}");
    }
}
