//! Tar archives from strangers: which files are in them, and where. Nothing is unpacked.
//!
//! A member is a name and a stretch of the archive, so a disk image in an archive is read where it lies. Names are
//! compared, never used as paths. Whatever readers of tar disagree about is refused: links, devices, sparse members, names
//! and sizes that extended headers change against the header they belong to, two members of one name, and whatever
//! stands behind the end.
//!
//! ```text
//! | header 512 | content, padded to 512 | header | content | ... | 512 zeros | 512 zeros | zeros |
//! ```
//!
//! Accepted besides POSIX ustar: GNU's long names and sizes in base 256, PAX headers that change nothing or say what
//! ustar has no room for, folders, and `./` before a name.
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format".

mod header;
mod pax;

use std::collections::{HashMap, hash_map};
use std::io;

pub(crate) use header::{BLOCK, encode};
use header::{Header, Kind};
use pax::Extended;

use crate::image::{Parts, Source};

/// Regular files in one archive.
const MOST_MEMBERS: usize = 4096;
/// Headers of any kind in one archive.
const MOST_HEADERS: usize = 4 * MOST_MEMBERS;
/// Headers in an archive of which one folder counts: the others take time, but no memory.
const MOST_HEADERS_PASSED: usize = 1 << 18;
/// A long name or an extended header.
const MOST_EXTENDED_BYTES: u64 = 64 << 10;
/// Zeros behind the end. Tape records of 20 blocks are usual.
const MOST_PADDING_BYTES: u64 = 1 << 20;

/// What of an archive counts.
#[derive(Debug, Clone, Copy)]
enum Scope<'a> {
    /// All of it, and so nothing but files and folders may be in it.
    Everything,
    /// Everything but links and devices.
    AllButLinks,
    /// What is in this folder, and the files beside it.
    Folder(&'a str),
}

impl Scope<'_> {
    /// Whether nothing of a member of this name and kind counts.
    fn passes_over(self, name: &str, kind: Kind) -> bool {
        let is_special = matches!(kind, Kind::Special(_));
        let Self::Folder(folder) = self else { return is_special && matches!(self, Self::AllButLinks) };
        // However it is spelt.
        let mut parts = name.split('/').filter(|part| !matches!(*part, "" | "."));
        if parts.clone().any(|part| part == "..") {
            return false;
        }
        match (parts.next(), parts.next()) {
            (Some(first), _) if first == folder => false,
            (_, Some(_)) => true,
            (_, None) => is_special,
        }
    }

    /// Whether there may be links that do not count.
    fn has_links(self) -> bool {
        !matches!(self, Self::Everything)
    }

    fn most_headers(self) -> usize {
        if matches!(self, Self::Folder(_)) { MOST_HEADERS_PASSED } else { MOST_HEADERS }
    }
}

/// The regular files of an archive.
#[derive(Debug)]
pub struct Members {
    source: Source,
    /// In the order of the archive. Each stretch lies in `source`.
    members: Vec<Member>,
    /// Where in `members` a name is.
    places: HashMap<String, usize>,
}

/// A regular file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, with folders if it has any: relative, in UTF-8, without control characters, `.` and `..`.
    pub name: String,
    /// Where in the archive its content starts, in bytes.
    pub offset: u64,
    /// How long its content is.
    pub size_bytes: u64,
}

/// Why an archive is not read. Text from it is escaped; offsets are those of the header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The archive contradicts its format.
    #[error("tar: at byte {offset}, {field} is {found}; wanted {wanted}")]
    Malformed {
        /// Where.
        offset: u64,
        /// The field's name.
        field: &'static str,
        /// What was found.
        found: String,
        /// What could stand there.
        wanted: String,
    },
    /// The archive may be right, but has what is not read, for safety.
    #[error("tar: at byte {offset}, {} is {found}; wanted regular files and folders only", name.escape_debug())]
    Refused {
        /// Where.
        offset: u64,
        /// The member's name.
        name: String,
        /// What it is, with its article.
        found: &'static str,
    },
    /// Two members have one name.
    #[error("tar: at byte {offset}, {} is there again; wanted each member once", name.escape_debug())]
    Repeated {
        /// Where the second one is.
        offset: u64,
        /// The name.
        name: String,
    },
    /// The archive has more of something than is read.
    #[error("tar: at byte {offset}, the archive has more than {most} {what}")]
    TooMany {
        /// Where the limit is passed.
        offset: u64,
        /// Of what.
        what: &'static str,
        /// The most accepted.
        most: usize,
    },
    /// The archive cannot be read.
    #[error("cannot read the archive at byte {offset}")]
    Io {
        /// Where.
        offset: u64,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl Members {
    /// Finds the members of the archive in `source`.
    ///
    /// # Errors
    ///
    /// [`TarError`], naming the field, where it lies, what it holds and what could stand there.
    pub fn read(source: &Source) -> Result<Self, TarError> {
        Self::read_with(source, Scope::Everything)
    }

    /// As [`Members::read`], with links and devices passed over: they are no members, and nothing is read by way of them.
    /// For archives that have some beside what counts, as those of `docker save` do.
    ///
    /// # Errors
    ///
    /// As [`Members::read`].
    pub fn read_past_links(source: &Source) -> Result<Self, TarError> {
        Self::read_with(source, Scope::AllButLinks)
    }

    /// As [`Members::read`], of an archive of which only the files in `folder`, and those beside it, count: a layer of a
    /// container image, which may be a whole system. Neither may be a link; anything elsewhere is passed over.
    ///
    /// # Errors
    ///
    /// As [`Members::read`].
    pub fn read_folder(source: &Source, folder: &str) -> Result<Self, TarError> {
        Self::read_with(source, Scope::Folder(folder))
    }

    fn read_with(source: &Source, scope: Scope<'_>) -> Result<Self, TarError> {
        let mut members = Members { source: source.clone(), members: Vec::new(), places: HashMap::new() };
        let mut offset = 0;
        let mut headers = 0;
        let mut extended = Extended::default();
        while let Some(header) = Header::read(source, offset)? {
            let most = scope.most_headers();
            if headers == most {
                return Err(TarError::TooMany { offset, what: "headers", most });
            }
            headers += 1;
            let content = offset + BLOCK;
            let mut size_bytes = header.size_bytes;
            match header.kind {
                Kind::LongName => extended.add_long_name(offset, &extension(source, &header)?)?,
                Kind::LongLink if scope.has_links() => drop(extension(source, &header)?),
                Kind::LongLink => {
                    let found = "the long name of a link";
                    return Err(TarError::Refused { offset, name: header.name, found });
                }
                Kind::Extended => {
                    let content = extension(source, &header)?;
                    extended.add_records(offset, &content, scope.has_links())?;
                }
                Kind::Global => pax::check_global(offset, &extension(source, &header)?)?,
                kind @ (Kind::Special(_) | Kind::Folder | Kind::File) => {
                    let own = std::mem::take(&mut extended);
                    let name = own.name(&header)?;
                    size_bytes = own.size_bytes(&header)?;
                    match kind {
                        Kind::Special(_) if scope.passes_over(&name, kind) && size_bytes != 0 => {
                            let found = format!("{size_bytes} for what is no file");
                            return Err(malformed(offset, "size", &found, "0"));
                        }
                        _ if scope.passes_over(&name, kind) => {}
                        Kind::Special(found) => return Err(TarError::Refused { offset, name, found }),
                        _ => members.add(&header, &name, content, size_bytes)?,
                    }
                }
            }
            offset = next_header(source, &header, size_bytes)?;
        }
        if !extended.is_empty() {
            return Err(malformed(
                offset,
                "header",
                "the end of the archive",
                "the member that the extended header is for",
            ));
        }
        check_padding(source, offset)?;
        Ok(members)
    }

    /// The members, in the order of the archive.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// The member of this name.
    pub fn get(&self, name: &str) -> Option<&Member> {
        self.places.get(name).map(|place| &self.members[*place])
    }

    /// The content of a member of this archive.
    ///
    /// # Panics
    ///
    /// If it is a member of a longer one.
    pub fn source(&self, member: &Member) -> Source {
        let content = member.offset..member.offset + member.size_bytes;
        self.source.window(content).expect("members lie in their archive")
    }

    fn add(&mut self, header: &Header, name: &str, offset: u64, size_bytes: u64) -> Result<(), TarError> {
        let at = header.offset;
        let plain = name.strip_prefix("./").unwrap_or(name);
        if header.kind == Kind::Folder {
            if size_bytes != 0 {
                return Err(malformed(at, "size", &format!("{size_bytes} for a folder"), "0"));
            }
            // `./` is the folder that the archive was made in.
            let folder = plain.strip_suffix('/').unwrap_or(plain);
            return if matches!(folder, "" | ".") { Ok(()) } else { check_name(at, folder, name) };
        }
        check_name(at, plain, name)?;
        if self.members.len() == MOST_MEMBERS {
            return Err(TarError::TooMany { offset: at, what: "members", most: MOST_MEMBERS });
        }
        match self.places.entry(plain.to_owned()) {
            hash_map::Entry::Occupied(_) => Err(TarError::Repeated { offset: at, name: plain.to_owned() }),
            hash_map::Entry::Vacant(place) => {
                place.insert(self.members.len());
                self.members.push(Member { name: plain.to_owned(), offset, size_bytes });
                Ok(())
            }
        }
    }
}

impl Parts for Members {
    fn part(&self, name: &str) -> io::Result<Option<Source>> {
        Ok(self.get(name).map(|member| self.source(member)))
    }
}

fn malformed(offset: u64, field: &'static str, found: &str, wanted: &str) -> TarError {
    TarError::Malformed { offset, field, found: found.to_owned(), wanted: wanted.to_owned() }
}

/// The content of a header that is about the next one.
fn extension(source: &Source, header: &Header) -> Result<Vec<u8>, TarError> {
    if header.size_bytes > MOST_EXTENDED_BYTES {
        let wanted = format!("at most {MOST_EXTENDED_BYTES} bytes in an extended header");
        return Err(malformed(header.offset, "size", &header.size_bytes.to_string(), &wanted));
    }
    let offset = header.offset + BLOCK;
    next_header(source, header, header.size_bytes)?;
    let mut content = vec![0; header.size_bytes as usize];
    source.read_exact_at(&mut content, offset).map_err(|source| TarError::Io { offset, source })?;
    Ok(content)
}

/// Where the header behind this one's content starts; the content lies in the archive.
fn next_header(source: &Source, header: &Header, size_bytes: u64) -> Result<u64, TarError> {
    let next = size_bytes
        .checked_next_multiple_of(BLOCK)
        .and_then(|padded| padded.checked_add(header.offset + BLOCK))
        .filter(|next| *next <= source.size_bytes());
    next.ok_or_else(|| {
        let rest = source.size_bytes() - (header.offset + BLOCK);
        let wanted = format!("what lies in the archive, which has {rest} bytes more");
        malformed(header.offset, "size", &format!("{size_bytes} bytes, padded to blocks of {BLOCK}"), &wanted)
    })
}

/// Refuses names that could be taken for something else than a file below some folder.
fn check_name(offset: u64, plain: &str, name: &str) -> Result<(), TarError> {
    let is_good = !plain.is_empty()
        && !plain.contains(|c: char| c.is_control() || c == '\\')
        && plain.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if is_good {
        return Ok(());
    }
    let wanted = "a relative name without `.`, `..`, backslashes and control characters";
    Err(malformed(offset, "name", &format!("`{}`", name.escape_debug()), wanted))
}

/// Only zeros stand behind the end, and not many.
fn check_padding(source: &Source, offset: u64) -> Result<(), TarError> {
    let len = source.size_bytes() - offset;
    if len > MOST_PADDING_BYTES {
        let wanted = format!("at most {MOST_PADDING_BYTES} zeros");
        return Err(malformed(offset, "end of the archive", &format!("followed by {len} bytes"), &wanted));
    }
    let mut padding = vec![0; len as usize];
    source.read_exact_at(&mut padding, offset).map_err(|source| TarError::Io { offset, source })?;
    match padding.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => {
            let found = format!("followed by {:#04x}", padding[at]);
            Err(malformed(offset + at as u64, "end of the archive", &found, "zeros only"))
        }
    }
}
