//! Where everything lies in the storage. Layout 2.
//!
//! ```text
//! layout                                                    "2\n": which of these pages is meant
//! blobs/<algorithm>/<2 hex>/<hex>/<generation>              content, whole and checked
//! blobs/<algorithm>/<2 hex>/<hex>/<generation>.closing      since when only who has a stamp may rely on it: seconds since 1970
//! blobs/<algorithm>/<2 hex>/<hex>/<generation>.closed       nobody may rely on this generation any more
//! repositories/<repository>/blobs/<algorithm>/<hex>/<stamp>      empty: the blob may be read here
//! repositories/<repository>/manifests/<algorithm>/<hex>/<time>   a manifest: its media type, a line feed, its bytes
//! repositories/<repository>/tags/<tag>+/<number>            {"digest","time","by"}: a tag's history
//! repositories/<repository>/referrers/<algorithm>/<hex>/<algorithm>+<hex>
//!                                                           the descriptor of a manifest with this subject
//! access/users/<name>/<number>                              {"time","account"}: a user, password hashed
//! access/robots/<id>/<number>                               {"time","account"}: a robot, token hashed
//! access/keys/<number>                                      what bearer tokens are signed with
//! quarantine/<algorithm>/<hex>/<name>                       what was found to be damaged, kept for its operator
//!
//! <generation>  <time>.<16 hex digits at random>
//! <stamp>       <time>.<size, 16 hex digits>.<generation>
//! <time>        seconds since 1970, 16 hex digits
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
//! - A blob's content may be there in several generations, which are all the same bytes. A name is
//!   drawn once and never used again, so whoever deletes a generation, however late, deletes nothing
//!   else.
//! - A *stamp* says: at this time somebody relied on this generation here. A blob may be read in a
//!   repository that has a stamp of it. That content is stored for one repository lets nobody read it
//!   through another.
//! - An upload is a session of the storage. Its id is a digest of the repository, of whoever began it,
//!   and of what the client knows, so an upload is nobody else's and exists in its repository only.
//! - An account's log says what is true of it; its newest entry may say that it is removed. That there
//!   is any account, or was, closes the registry to strangers. See [`crate::access`].
//!
//! # Stamp, then look
//!
//! Content is deleted while others push, mount and ask for it, without a lock:
//!
//! ```text
//! whoever needs a generation            whoever collects garbage
//!   1. has a stamp, or puts one           1. closes a generation that has no stamp
//!   2. looks: is it here, not closed?     2. looks: has it a stamp?
//!      yes: relies on it                     no: deletes the content, then the marks
//!      no: stores the content anew           yes: leaves it until the stamps are gone
//! ```
//!
//! Each acts first and looks then, so at least one of the two sees the other. Closing is never
//! undone, and a stamp goes only when it is old or by a client's order: once a look, which lists all
//! stamps, finds none on a closed generation, none can come that anybody relies on, and deleting is
//! right at any later time, by anybody, also twice. Who finds a generation closed leaves the stamp where
//! it is, since others may have seen it while the generation was open.
//!
//! Stamps age. One of a blob that no manifest of the repository names is taken away by the collector when
//! it is older than one and a half grace periods, and whoever relies on one that is older than half a
//! period first renews it. So whatever somebody was told of stays for a period, in which the manifest is
//! put. Here, and nowhere else, clocks matter: what those of several servers differ by is taken from that,
//! and it must be less than half a period.
//!
//! That alone would lose nothing, but now and then refuse a manifest whose blobs a client was told of:
//! those that it stamped after the collector found them unused and before it closed them. So the
//! collector marks them `.closing` first, and looks at the stamps, before it closes. Who has no stamp of
//! a generation that is being closed gets none to rely on; whose stamp the look finds keeps what it was
//! told. The mark is taken away when it is so old that hardly another collector is between its look and
//! closing, or when its space is needed to close others.
//!
//! Order of writing: stamp and content, then manifest, then tag. So whatever can be found leads to
//! what is there; only a stamp may lead to nothing, where whoever put it was stopped or came too late. New content is
//! stamped before it is here, and looked for afterwards: so the client whose upload it was has the
//! upload or the blob at any moment. Nothing is overwritten, and no two servers need to agree on
//! anything but who created a key. So several may serve one storage.

use std::fmt;

use appliance::Digest;
use blob_store::{Key, SessionId};

use crate::access::principal::{AccountName, Principal};
use crate::access::robot_token::RobotId;
use crate::clock::Time;
use crate::name::{RepositoryName, Tag, UploadId};

/// What the key `layout` holds.
pub(crate) const LAYOUT: &[u8] = b"2\n";
/// What the names of a generation's marks end with.
const CLOSING: &str = ".closing";
const CLOSED: &str = ".closed";

/// One of the copies of a blob's content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Generation(String); // Invariant: `<time>.<16 hex digits>`.

/// At this time, somebody relied on this generation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Stamp {
    pub(crate) time: Time,
    /// Size of the blob in bytes.
    pub(crate) size_bytes: u64,
    pub(crate) generation: Generation,
}

/// What a name among a blob's generations says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContentEntry {
    Content(Generation),
    // The marks of a generation list after its content, in this order.
    Closed(Generation),
    Closing(Generation),
}

impl Generation {
    /// A generation that begins now. `random` must be.
    pub(crate) fn new(now: Time, random: u64) -> Self {
        Self(format!("{:016x}.{random:016x}", now.as_secs()))
    }

    /// When it was stored.
    pub(crate) fn time(&self) -> Time {
        parse_hex(&self.0[..16]).map(Time::from_secs).expect("see the invariant")
    }

    /// What is random in its name.
    pub(crate) fn random(&self) -> u64 {
        parse_hex(&self.0[17..]).expect("see the invariant")
    }

    fn parse(text: &str) -> Option<Self> {
        let (time, random) = text.split_once('.')?;
        (parse_hex(time).is_some() && parse_hex(random).is_some()).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Stamp {
    /// Reads the last part of a stamp's key.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let time = Time::from_secs(parse_hex(parts.next()?)?);
        let size_bytes = parse_hex(parts.next()?)?;
        Some(Self { time, size_bytes, generation: Generation::parse(parts.next()?)? })
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{:016x}.{}", self.time.as_secs(), self.size_bytes, self.generation)
    }
}

impl ContentEntry {
    /// Reads the last part of a key in [`contents`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(generation) = text.strip_suffix(CLOSED) {
            Generation::parse(generation).map(Self::Closed)
        } else if let Some(generation) = text.strip_suffix(CLOSING) {
            Generation::parse(generation).map(Self::Closing)
        } else {
            Generation::parse(text).map(Self::Content)
        }
    }

    /// Whose content or mark it is.
    pub(crate) fn generation(&self) -> &Generation {
        let (Self::Content(generation) | Self::Closed(generation) | Self::Closing(generation)) = self;
        generation
    }
}

/// The key that says how everything else is laid out.
pub(crate) fn layout() -> Key {
    key("layout".to_owned())
}

/// The folder of a blob's generations.
pub(crate) fn contents(digest: &Digest) -> Key {
    let hex = digest.hex();
    key(format!("blobs/{}/{}/{hex}", digest.algorithm().as_str(), &hex[..2]))
}

/// A generation's content.
pub(crate) fn content(digest: &Digest, generation: &Generation) -> Key {
    key(format!("{}/{generation}", contents(digest)))
}

/// The mark of a generation that is being closed.
pub(crate) fn closing(digest: &Digest, generation: &Generation) -> Key {
    key(format!("{}/{generation}{CLOSING}", contents(digest)))
}

/// The mark of a closed generation.
pub(crate) fn closed(digest: &Digest, generation: &Generation) -> Key {
    key(format!("{}/{generation}{CLOSED}", contents(digest)))
}

/// The folder of all contents.
pub(crate) fn all_contents() -> Key {
    key("blobs".to_owned())
}

/// What a key below [`all_contents`] says.
pub(crate) fn content_of_key(key: &Key) -> Option<(Digest, ContentEntry)> {
    let parts: Vec<&str> = key.as_str().split('/').collect();
    let ["blobs", algorithm, _, hex, entry] = parts[..] else { return None };
    Some((format!("{algorithm}:{hex}").parse().ok()?, ContentEntry::parse(entry)?))
}

/// Where content or a copy that is damaged is kept. `name` is the last part of the key that it had.
pub(crate) fn quarantine(digest: &Digest, name: &str) -> Key {
    key(format!("quarantine/{}/{}/{name}", digest.algorithm().as_str(), digest.hex()))
}

/// The folder of all repositories.
pub(crate) fn repositories() -> Key {
    key("repositories".to_owned())
}

/// Everything that is known of a repository.
pub(crate) fn repository(name: &RepositoryName) -> Key {
    key(format!("repositories/{}", repository_folder(name)))
}

/// The name of a repository's folder.
pub(crate) fn repository_folder(name: &RepositoryName) -> String {
    name.as_str().replace('/', "+")
}

/// The repository that has this folder.
pub(crate) fn repository_of_folder(folder: &str) -> Option<RepositoryName> {
    RepositoryName::parse(&folder.replace('+', "/")).ok()
}

/// The folder of a blob's stamps in a repository.
pub(crate) fn stamps(name: &RepositoryName, digest: &Digest) -> Key {
    of_digest(name, "blobs", digest)
}

/// The permission to read a blob in a repository.
pub(crate) fn stamp(name: &RepositoryName, digest: &Digest, stamp: &Stamp) -> Key {
    key(format!("{}/{stamp}", stamps(name, digest)))
}

/// The folder of all stamps in a repository.
pub(crate) fn all_stamps(name: &RepositoryName) -> Key {
    key(format!("{}/blobs", repository(name)))
}

/// The stamp that a key below [`repositories`] is, if it is one, and of which blob.
pub(crate) fn stamp_of_key(key: &Key) -> Option<(Digest, Stamp)> {
    let parts: Vec<&str> = key.as_str().split('/').collect();
    let ["repositories", _, "blobs", algorithm, hex, stamp] = parts[..] else { return None };
    Some((format!("{algorithm}:{hex}").parse().ok()?, Stamp::parse(stamp)?))
}

/// The folder of all manifests in a repository.
pub(crate) fn all_manifests(name: &RepositoryName) -> Key {
    key(format!("{}/manifests", repository(name)))
}

/// The copy of a manifest that a key below [`all_manifests`] is: of which manifest, and when it was put.
pub(crate) fn copy_of_key(key: &Key) -> Option<(Digest, Time)> {
    let parts: Vec<&str> = key.as_str().split('/').collect();
    let ["repositories", _, "manifests", algorithm, hex, time] = parts[..] else { return None };
    Some((format!("{algorithm}:{hex}").parse().ok()?, time_of_copy(time)?))
}

/// The folder of all referrers in a repository.
pub(crate) fn all_referrers(name: &RepositoryName) -> Key {
    key(format!("{}/referrers", repository(name)))
}

/// The manifest whose record as a referrer a key below [`all_referrers`] is.
pub(crate) fn referrer_of_key(key: &Key) -> Option<Digest> {
    manifest_of_referrer(key.as_str().rsplit('/').next()?)
}

/// The folder of a manifest's copies in a repository.
pub(crate) fn manifest_copies(name: &RepositoryName, digest: &Digest) -> Key {
    of_digest(name, "manifests", digest)
}

/// A manifest as it was put at this time.
pub(crate) fn manifest_copy(name: &RepositoryName, digest: &Digest, time: Time) -> Key {
    key(format!("{}/{:016x}", manifest_copies(name, digest), time.as_secs()))
}

/// When the copy with this name was put.
pub(crate) fn time_of_copy(name: &str) -> Option<Time> {
    parse_hex(name).map(Time::from_secs)
}

/// The folder of the manifests that have this subject.
pub(crate) fn referrers(name: &RepositoryName, subject: &Digest) -> Key {
    of_digest(name, "referrers", subject)
}

/// What is told about a manifest to whoever asks for its subject's referrers.
pub(crate) fn referrer(name: &RepositoryName, subject: &Digest, manifest: &Digest) -> Key {
    key(format!("{}/{}", referrers(name, subject), referrer_name(manifest)))
}

/// The name of a manifest among the referrers of its subject.
pub(crate) fn referrer_name(manifest: &Digest) -> String {
    format!("{}+{}", manifest.algorithm().as_str(), manifest.hex())
}

/// The manifest that has this name among the referrers of its subject.
pub(crate) fn manifest_of_referrer(name: &str) -> Option<Digest> {
    name.replacen('+', ":", 1).parse().ok()
}

/// The folder of a repository's tags.
pub(crate) fn tags(name: &RepositoryName) -> Key {
    key(format!("repositories/{}/tags", repository_folder(name)))
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
pub(crate) fn tag_of_folder(folder: &str) -> Option<Tag> {
    folder.strip_suffix('+').and_then(|tag| Tag::parse(tag).ok())
}

/// An entry of a log. Places count from 0; the newest entry lists first.
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

/// The storage's session of an upload that `owner` began.
pub(crate) fn session(name: &RepositoryName, owner: &Principal, upload: UploadId) -> SessionId {
    // Neither a repository nor a principal has a line feed in it.
    let whose = format!("{name}\n{owner}\n{upload}");
    let digest = Digest::sha256(whose.as_bytes());
    SessionId::new(digest.as_bytes().try_into().expect("a sha256 has 32 bytes"))
}

/// The folder of all that is known of accounts.
pub(crate) fn accounts() -> Key {
    key("access".to_owned())
}

/// The folder of all users.
pub(crate) fn users() -> Key {
    key("access/users".to_owned())
}

/// The folder of a user's log.
pub(crate) fn user(name: &AccountName) -> Key {
    // `+` stands for what keys do not hold.
    account(&users(), &name.as_str().replace('+', "++").replace('@', "+a"))
}

/// The folder of all robots.
pub(crate) fn robots() -> Key {
    key("access/robots".to_owned())
}

/// The folder of a robot's log. `id` is 16 hex digits of a hash of its name.
pub(crate) fn robot(id: &RobotId) -> Key {
    account(&robots(), id.as_str())
}

/// The folder of one account in a folder of accounts.
pub(crate) fn account(accounts: &Key, folder: &str) -> Key {
    key(format!("{accounts}/{folder}"))
}

/// The log of the keys that bearer tokens are signed with.
pub(crate) fn token_keys() -> Key {
    key("access/keys".to_owned())
}

fn of_digest(name: &RepositoryName, kind: &str, digest: &Digest) -> Key {
    let algorithm = digest.algorithm().as_str();
    key(format!("repositories/{}/{kind}/{algorithm}/{}", repository_folder(name), digest.hex()))
}

/// Reads a number as times and sizes are written in keys.
fn parse_hex(text: &str) -> Option<u64> {
    let canonical =
        text.len() == 16 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    canonical.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn key(text: String) -> Key {
    Key::new(text).expect("names and digests consist of what keys may hold")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(key: &Key, want: &str) {
        assert_eq!(key.as_str(), want.replace("HEX", HEX));
    }

    #[test]
    fn everything_has_its_place() {
        let name = RepositoryName::parse("team/web").unwrap();
        let digest = Digest::sha256(b"");
        let generation = Generation::new(Time::from_secs(0x10), 0xff);
        let relied = Stamp { time: Time::from_secs(0x20), size_bytes: 3, generation: generation.clone() };
        let (time, random) = ("0000000000000010", "00000000000000ff");
        check(&content(&digest, &generation), &format!("blobs/sha256/e3/HEX/{time}.{random}"));
        check(&closing(&digest, &generation), &format!("blobs/sha256/e3/HEX/{time}.{random}.closing"));
        check(&closed(&digest, &generation), &format!("blobs/sha256/e3/HEX/{time}.{random}.closed"));
        check(
            &stamp(&name, &digest, &relied),
            &format!(
                "repositories/team+web/blobs/sha256/HEX/0000000000000020.0000000000000003.{time}.{random}"
            ),
        );
        check(
            &manifest_copy(&name, &digest, Time::from_secs(1)),
            "repositories/team+web/manifests/sha256/HEX/0000000000000001",
        );
        check(&referrer(&name, &digest, &digest), "repositories/team+web/referrers/sha256/HEX/sha256+HEX");
        check(&tag(&name, &Tag::parse("latest").unwrap()), "repositories/team+web/tags/latest+");
    }

    #[test]
    fn names_in_keys_read_back() {
        let name = RepositoryName::parse("team/web_1/a-b").unwrap();
        assert_eq!(repository_of_folder(&repository_folder(&name)), Some(name));
        let generation = Generation::new(Time::from_secs(u64::MAX), 7);
        assert_eq!(generation.time().as_secs(), u64::MAX);
        let stamp = Stamp { time: Time::from_secs(1), size_bytes: u64::MAX, generation: generation.clone() };
        assert_eq!(Stamp::parse(&stamp.to_string()), Some(stamp));
        for entry in [ContentEntry::Content, ContentEntry::Closed, ContentEntry::Closing]
            .map(|kind| kind(generation.clone()))
        {
            let mark = match entry {
                ContentEntry::Content(_) => "",
                ContentEntry::Closed(_) => CLOSED,
                ContentEntry::Closing(_) => CLOSING,
            };
            assert_eq!(ContentEntry::parse(&format!("{generation}{mark}")), Some(entry));
        }
        let digest = Digest::sha256(b"x");
        assert_eq!(manifest_of_referrer(&referrer_name(&digest)), Some(digest));
        for strange in ["", ".", "x", "0000000000000010", "0000000000000010.00000000000000FF", "1.2"] {
            assert_eq!(ContentEntry::parse(strange), None, "{strange}");
            assert_eq!(Stamp::parse(strange), None, "{strange}");
        }
    }

    #[test]
    fn the_longest_names_have_keys() {
        let name = RepositoryName::parse(&"a".repeat(255)).unwrap();
        let digest: Digest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
        let generation = Generation::new(Time::from_secs(0), 0);
        stamp(&name, &digest, &Stamp { time: Time::from_secs(0), size_bytes: 0, generation });
        referrer(&name, &digest, &digest);
        tag(&name, &Tag::parse(&"t".repeat(128)).unwrap());
    }

    #[test]
    fn an_upload_belongs_to_its_repository_and_its_owner() {
        let session = |name: &str, owner: &str, begun, random| {
            let upload = UploadId::new(Time::from_secs(begun), [random; 16]);
            session(&RepositoryName::parse(name).unwrap(), &owner.parse().unwrap(), upload)
        };
        let upload = session("a", "user:alice", 1, 1);
        assert_eq!(session("a", "user:alice", 1, 1), upload);
        assert_ne!(session("b", "user:alice", 1, 1), upload);
        assert_ne!(session("a", "user:bob", 1, 1), upload);
        assert_ne!(session("a", "robot:alice", 1, 1), upload);
        assert_ne!(session("a", "user:alice", 2, 1), upload);
        assert_ne!(session("a", "user:alice", 1, 2), upload);
    }

    #[test]
    fn accounts_have_folders_of_their_own() {
        let folder = |name: &str| user(&name.parse().unwrap()).to_string();
        assert_eq!(folder("alice"), "access/users/alice");
        assert_eq!(folder("me+x@r.example"), "access/users/me++x+ar.example");
        assert_ne!(folder("a@b"), folder("a+ab"));
        user(&"a".repeat(128).replace("aa", "a+").parse().unwrap());
        assert_eq!(robot(&RobotId::of(&"ci".parse().unwrap())).as_str().len(), "access/robots/".len() + 16);
    }

    #[test]
    fn tags_sort_by_their_own_bytes() {
        let mut tags = ["1.0", "1.0-rc", "1.0.1", "1.00", "1.0_x", "1.0A"];
        tags.sort_unstable();
        let folders = tags.map(|tag| tag_folder(tag) + "/");
        assert!(folders.is_sorted(), "{folders:?}");
    }
}
