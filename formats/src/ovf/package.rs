//! A package: descriptor, disks, manifest and certificate, in a folder or in a tar archive (OVA).
//!
//! The descriptor's names are compared with those of the files that lie beside it; none is ever used as a path. Where there
//! is a manifest, nothing is handed out that it does not cover, and the descriptor has been checked against it.
//!
//! Source: DSP0243 1.1.0, 5 (packages) and 7.1 (references); virt-v2v and VirtualBox for where the descriptor may stand.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::certificate::{self, Certificate};
use super::error::quoted;
use super::manifest::{self, Hasher, Manifest, ManifestDigest};
use super::model::FileReference;
use super::xml;
use crate::image::{Parts, Source};
use crate::tar::{Members, TarError};

/// The most files that one file of a package may be cut into.
const MOST_CHUNKS: u64 = 4096;
/// How much is read at once to be checked.
const PIECE_BYTES: u64 = 1 << 20;

/// Why a package, or a file of it, is not read. Text from it is escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The archive is refused.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// There is no descriptor, or more than one.
    #[error("OVF: the package has {found}; wanted one file whose name ends with `.ovf`")]
    Descriptors {
        /// What there is instead.
        found: String,
    },
    /// There is more than one manifest or certificate.
    #[error("OVF: the package has {first} and {second} beside its descriptor; wanted one at most")]
    Several {
        /// The name of one.
        first: String,
        /// The name of another.
        second: String,
    },
    /// A file that is kept in memory is too long.
    #[error("OVF: {name} has {bytes} bytes; the limit is {most}")]
    TooLarge {
        /// The file's name.
        name: String,
        /// Its length.
        bytes: u64,
        /// The longest accepted.
        most: u64,
    },
    /// The manifest cannot be read.
    #[error("OVF: line {line} of the manifest is {found}; wanted {wanted}")]
    Manifest {
        /// Counted from 1.
        line: usize,
        /// What was found.
        found: String,
        /// What could stand there.
        wanted: &'static str,
    },
    /// There is a manifest, and a file is not in it.
    #[error("OVF: the manifest has no digest of {name}; wanted one for each file that is used")]
    NotInManifest {
        /// The file's name.
        name: String,
    },
    /// A file is not what the manifest says.
    #[error("OVF: the digest of {name} is {found}; wanted {wanted}, as in the manifest")]
    Digest {
        /// The file's name.
        name: String,
        /// Of its content.
        found: ManifestDigest,
        /// In the manifest.
        wanted: ManifestDigest,
    },
    /// A reference is not the name of a file beside the descriptor.
    #[error(
        "OVF: ovf:href of File is {found}; wanted the name of a file beside the descriptor, without folders or a scheme"
    )]
    NotAName {
        /// What was found.
        found: String,
    },
    /// A file that the descriptor names is missing.
    #[error("OVF: the package has no file {name}, which the descriptor refers to")]
    Missing {
        /// The file's name.
        name: String,
    },
    /// The parts of a file are not as long as the descriptor says.
    #[error("OVF: {name} has {found} bytes; wanted {wanted}, as ovf:chunkSize and ovf:size say")]
    ChunkSize {
        /// The part's name.
        name: String,
        /// Its length.
        found: u64,
        /// The length of all parts but the last, or its bound.
        wanted: u64,
    },
    /// A file is cut into more parts than are read.
    #[error("OVF: {name} is cut into more than {most} parts")]
    TooManyChunks {
        /// The file's name.
        name: String,
        /// The most accepted.
        most: u64,
    },
    /// A file cannot be read.
    #[error("cannot read {name}")]
    Io {
        /// The file's name.
        name: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// A package, opened.
#[derive(Debug)]
pub struct Package<'a> {
    files: Files<'a>,
    /// The folder in the archive that the descriptor lies in, with a slash at its end; names are relative to it.
    folder: String,
    descriptor_name: String,
    descriptor: Vec<u8>,
    manifest: Option<Manifest>,
    certificate: Option<Certificate>,
    /// The names of the files that are what the manifest says. Many things may name one file.
    checked: Mutex<HashSet<String>>,
}

/// Where the files of a package are.
#[derive(Debug)]
enum Files<'a> {
    Archive(Members),
    Folder(&'a dyn Parts),
}

/// A file of a package.
#[derive(Debug, Clone)]
pub struct PackageFile {
    /// Its parts, by their names in the package: one, unless it was cut into chunks.
    pub names: Vec<String>,
    /// Its content, all parts end to end; still packed if the reference says so.
    pub source: Source,
}

impl<'a> Package<'a> {
    /// Opens an archive. Its descriptor is the one member whose name ends with `.ovf`, wherever that stands.
    ///
    /// # Errors
    ///
    /// [`PackageError`]; among them a descriptor that is not what the manifest says.
    pub fn from_archive(source: &Source) -> Result<Package<'static>, PackageError> {
        let members = Members::read(source)?;
        let names = members.iter().map(|member| member.name.as_str());
        let descriptors: Vec<&str> = names.filter(|name| is_kind(name, ".ovf")).take(2).collect();
        let (folder, name) = match descriptors[..] {
            [descriptor] => split_folder(descriptor),
            [first, second] => {
                let found = format!("{} and {}", quoted(first), quoted(second));
                return Err(PackageError::Descriptors { found });
            }
            _ => return Err(PackageError::Descriptors { found: "none".to_owned() }),
        };
        let beside = |ending| {
            let names = members.iter().filter_map(|member| member.name.strip_prefix(folder));
            let mut names = names.filter(|name| !name.contains('/') && is_kind(name, ending));
            match (names.next(), names.next()) {
                (Some(first), Some(second)) => {
                    Err(PackageError::Several { first: quoted(first), second: quoted(second) })
                }
                (name, _) => Ok(name.map(str::to_owned)),
            }
        };
        let (manifest, certificate) = (beside(".mf")?, beside(".cert")?);
        let (folder, name) = (folder.to_owned(), name.to_owned());
        Package::open_files(Files::Archive(members), folder, name, manifest, certificate)
    }

    /// Opens the package whose descriptor is called `descriptor`, of the files that lie beside it. Manifest and
    /// certificate are called as the descriptor is, with their own endings.
    ///
    /// # Errors
    ///
    /// As [`Package::from_archive`].
    pub fn from_folder(descriptor: &str, files: &'a dyn Parts) -> Result<Self, PackageError> {
        let stem = descriptor.rsplit_once('.').map_or(descriptor, |(stem, _)| stem);
        let beside = |ending: &str| {
            let name = format!("{stem}{ending}");
            let found =
                files.part(&name).map_err(|source| PackageError::Io { name: quoted(&name), source })?;
            Ok::<_, PackageError>(found.map(|_| name))
        };
        let (manifest, certificate) = (beside(".mf")?, beside(".cert")?);
        let name = descriptor.to_owned();
        Package::open_files(Files::Folder(files), String::new(), name, manifest, certificate)
    }

    fn open_files(
        files: Files<'a>,
        folder: String,
        descriptor_name: String,
        manifest: Option<String>,
        certificate: Option<String>,
    ) -> Result<Self, PackageError> {
        let mut package = Package {
            files,
            folder,
            descriptor_name,
            descriptor: Vec::new(),
            manifest: None,
            certificate: None,
            checked: Mutex::default(),
        };
        package.descriptor = package.content(&package.descriptor_name, xml::MOST_BYTES as u64)?;
        if let Some(name) = manifest {
            package.manifest = Some(Manifest::parse(&package.content(&name, manifest::MOST_BYTES)?)?);
        }
        if let Some(name) = certificate {
            let content = package.content(&name, certificate::MOST_BYTES)?;
            package.certificate = Some(Certificate::read(&name, &content));
        }
        package.check(&package.descriptor_name, &|_| ())?;
        Ok(package)
    }

    /// The descriptor's name.
    pub fn descriptor_name(&self) -> &str {
        &self.descriptor_name
    }

    /// The descriptor, for [`parse`](super::parse). It is what the manifest says, if there is one.
    pub fn descriptor(&self) -> &[u8] {
        &self.descriptor
    }

    /// The digests of the package's files.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Who says to have signed the manifest. The signature has not been verified.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// Finds a file that the descriptor refers to. Its content is not checked yet: see [`Package::check`].
    ///
    /// # Errors
    ///
    /// [`PackageError::NotAName`], [`PackageError::Missing`], [`PackageError::NotInManifest`],
    /// [`PackageError::ChunkSize`], [`PackageError::TooManyChunks`], [`PackageError::Io`].
    pub fn open(&self, reference: &FileReference) -> Result<PackageFile, PackageError> {
        let names = names(&reference.href)?;
        let (chunk_name, count): (fn(&str, u64) -> String, _) = match reference.chunk_bytes {
            None => (|name, _| name.to_owned(), Some(1)),
            Some(chunk_bytes) => {
                let count = reference.size_bytes.map(|bytes| bytes.div_ceil(chunk_bytes).max(1));
                (|name, index| format!("{name}.{index:09}"), count)
            }
        };
        let mut file = PackageFile { names: Vec::new(), source: Source::concat([]) };
        let mut sources = Vec::new();
        let mut spelling = None;
        for index in 0..count.unwrap_or(u64::MAX) {
            if index == MOST_CHUNKS {
                let name = quoted(&reference.href);
                return Err(PackageError::TooManyChunks { name, most: MOST_CHUNKS });
            }
            let mut found = None;
            for name in names.iter().filter(|name| spelling.is_none_or(|chosen| chosen == name.as_ref())) {
                let chunk = chunk_name(name, index);
                if let Some(source) = self.file(&chunk)? {
                    spelling = Some(name.as_ref());
                    found = Some((chunk, source));
                    break;
                }
            }
            match found {
                Some((name, source)) => {
                    self.digest(&name)?;
                    file.names.push(name);
                    sources.push(source);
                }
                None if count.is_none() && index > 0 => {
                    self.check_no_gap(&names, index, chunk_name)?;
                    break;
                }
                None => {
                    let name = quoted(&chunk_name(&names[0], index));
                    return Err(PackageError::Missing { name });
                }
            }
        }
        if let (Some(_), Some(count)) = (reference.chunk_bytes, count) {
            self.check_end(&names, count, chunk_name)?;
        }
        check_chunks(reference, &file.names, &sources)?;
        file.source = Source::concat(sources);
        Ok(file)
    }

    /// Refuses a part behind the last one that there should be.
    fn check_end(
        &self,
        names: &[Cow<'_, str>],
        count: u64,
        chunk_name: fn(&str, u64) -> String,
    ) -> Result<(), PackageError> {
        for name in names {
            let name = chunk_name(name, count);
            if let Some(more) = self.file(&name)? {
                let found = more.size_bytes();
                return Err(PackageError::ChunkSize { name: quoted(&name), found, wanted: 0 });
            }
        }
        Ok(())
    }

    /// Refuses a part behind the first one that is missing.
    fn check_no_gap(
        &self,
        names: &[Cow<'_, str>],
        missing: u64,
        chunk_name: fn(&str, u64) -> String,
    ) -> Result<(), PackageError> {
        for name in names {
            if self.file(&chunk_name(name, missing + 1))?.is_some() {
                return Err(PackageError::Missing { name: quoted(&chunk_name(name, missing)) });
            }
        }
        Ok(())
    }

    /// Checks the content of the file called `name` against the manifest, if there is one and it was not done before. May
    /// run for several files at once. `progress` is told how many bytes more have been read.
    ///
    /// # Errors
    ///
    /// [`PackageError::Digest`], [`PackageError::NotInManifest`], [`PackageError::Missing`], [`PackageError::Io`].
    pub fn check(&self, name: &str, progress: &(dyn Fn(u64) + Sync)) -> Result<(), PackageError> {
        let Some(wanted) = self.digest(name)? else { return Ok(()) };
        let checked = || self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked().contains(name) {
            return Ok(());
        }
        let failed = |source| PackageError::Io { name: quoted(name), source };
        let source = self.file(name)?.ok_or_else(|| PackageError::Missing { name: quoted(name) })?;
        let mut hasher = Hasher::like(&wanted);
        let mut piece = vec![0; source.size_bytes().min(PIECE_BYTES) as usize];
        let mut at = 0;
        while at < source.size_bytes() {
            let here = (source.size_bytes() - at).min(PIECE_BYTES);
            let piece = &mut piece[..here as usize];
            source.read_exact_at(piece, at).map_err(failed)?;
            hasher.update(piece);
            progress(here);
            at += here;
        }
        let found = hasher.finish();
        if found != wanted {
            return Err(PackageError::Digest { name: quoted(name), found, wanted });
        }
        checked().insert(name.to_owned());
        Ok(())
    }

    /// The digest that the file must have; `None` if there is no manifest.
    fn digest(&self, name: &str) -> Result<Option<ManifestDigest>, PackageError> {
        let Some(manifest) = &self.manifest else { return Ok(None) };
        match manifest.digest(name) {
            Some(digest) => Ok(Some(digest)),
            None => Err(PackageError::NotInManifest { name: quoted(name) }),
        }
    }

    /// The file called `name` beside the descriptor.
    fn file(&self, name: &str) -> Result<Option<Source>, PackageError> {
        let found = match &self.files {
            Files::Archive(members) => members.part(&format!("{}{name}", self.folder)),
            Files::Folder(files) => files.part(name),
        };
        found.map_err(|source| PackageError::Io { name: quoted(name), source })
    }

    /// All of a file that is kept in memory.
    fn content(&self, name: &str, most: u64) -> Result<Vec<u8>, PackageError> {
        let source = self.file(name)?.ok_or_else(|| PackageError::Missing { name: quoted(name) })?;
        let bytes = source.size_bytes();
        if bytes > most {
            return Err(PackageError::TooLarge { name: quoted(name), bytes, most });
        }
        let mut content = vec![0; bytes as usize];
        source
            .read_exact_at(&mut content, 0)
            .map_err(|source| PackageError::Io { name: quoted(name), source })?;
        Ok(content)
    }
}

impl Parts for Package<'_> {
    /// The file beside the descriptor, unless there is a manifest that does not cover it.
    fn part(&self, name: &str) -> io::Result<Option<Source>> {
        if !is_file_name(name) || self.digest(name).is_err() {
            return Ok(None);
        }
        self.file(name).map_err(|error| match error {
            PackageError::Io { source, .. } => source,
            other => io::Error::other(other),
        })
    }
}

/// All chunks but the last are as long as the descriptor says. The last has the rest, or where the descriptor does not
/// say how much that is, no more than the others.
fn check_chunks(reference: &FileReference, names: &[String], sources: &[Source]) -> Result<(), PackageError> {
    let Some(chunk_bytes) = reference.chunk_bytes else { return Ok(()) };
    let last = sources.len().saturating_sub(1);
    let before = chunk_bytes.saturating_mul(last as u64);
    for (index, (name, source)) in names.iter().zip(sources).enumerate() {
        let found = source.size_bytes();
        let rest = reference.size_bytes.map(|bytes| bytes.saturating_sub(before));
        let wanted = rest.filter(|_| index == last).unwrap_or(chunk_bytes);
        let may_be_shorter = index == last && rest.is_none();
        if found > wanted || (found < wanted && !may_be_shorter) {
            return Err(PackageError::ChunkSize { name: quoted(name), found, wanted });
        }
    }
    Ok(())
}

/// Whether this is a file of the kind, and not what macOS writes beside one.
fn is_kind(name: &str, ending: &str) -> bool {
    let (_, file) = split_folder(name);
    let at = file.len().checked_sub(ending.len());
    let has_ending = at.and_then(|at| file.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(ending));
    has_ending && !file.starts_with("._")
}

/// The folders, with the slash behind them, and the file.
fn split_folder(name: &str) -> (&str, &str) {
    name.split_at(name.rfind('/').map_or(0, |slash| slash + 1))
}

/// The names that a reference may mean: as it stands, and with its percent signs resolved.
fn names(href: &str) -> Result<Vec<Cow<'_, str>>, PackageError> {
    let mut names = vec![Cow::Borrowed(href)];
    if href.contains('%') {
        names.extend(percent_decoded(href).map(Cow::Owned));
    }
    match names.iter().all(|name| is_file_name(name)) {
        true => Ok(names),
        false => Err(PackageError::NotAName { found: quoted(href) }),
    }
}

/// Whether the text can only be the name of a file.
fn is_file_name(text: &str) -> bool {
    let has_scheme = text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    });
    let is_bad = |c: char| c.is_control() || matches!(c, '/' | '\\');
    !has_scheme && !text.contains(is_bad) && !matches!(text, "" | "." | "..")
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits)
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}
