//! An import as a folder: a `hull.toml` with the disks beside it, for its author to go on from.
//!
//! All or nothing: the folder is made under another name beside its place, and moved there when it is whole. The files
//! in it have names of our own making.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use appliance::policy::Firewall;
use formats::Disk;
use formats::image::{self, Compression, Format, ImageWriteError, Target, WriteOptions};
use sha2::{Digest as _, Sha256};

use super::Import;
use crate::Progress;
use crate::hull_toml::{DiskSource, HullToml, NamedFile, Remarks, Subject, Unwritable};

/// Where the OVF goes.
const OVF: &str = "source.ovf";
/// Where the licences go.
const EULA: &str = "EULA.txt";

/// What a disk is written as that has no image of its own.
const TARGET: Target = Target::Qcow2(Compression::Zstd);

/// Rules that an author may begin with.
const EXAMPLE: &str = r#"Without a rule nothing passes, in either direction. For instance:

    [[firewall.ingress]]
    name = "http"
    proto = "tcp"
    ports = [80]
    from = ["0.0.0.0/0", "::/0"]
    publish = { host-port = 8080 }

    [[firewall.egress]]
    name = "packages"
    proto = "tcp"
    ports = [443]
    to = ["192.0.2.0/24"]

docs/hull-toml.md has every key."#;

/// Why no folder was written. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteFolderError {
    /// There is something where it is to be.
    #[error("`{}` is there already; wanted a folder that is empty, or none yet", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// A file or folder cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A disk cannot be written as an image.
    #[error("cannot write disk {disk}")]
    Disk {
        /// The disk's name.
        disk: String,
        /// The reason.
        #[source]
        source: ImageWriteError,
    },
    /// The appliance is nothing that a `hull.toml` could describe.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
}

impl Import {
    /// Writes `folder`, which is empty or not there: a `hull.toml` that says the same as this import, the disks, the
    /// OVF and the licences. `origin` is what comments call the file that was imported.
    ///
    /// Packing the folder gives the same config as packing the import.
    ///
    /// # Errors
    ///
    /// [`WriteFolderError`]. `folder` is then as it was.
    pub fn write_folder(
        &self,
        folder: &Path,
        origin: &str,
        progress: &dyn Progress,
    ) -> Result<(), WriteFolderError> {
        check_free(folder)?;
        let hull_toml = self.hull_toml();
        let text = hull_toml.write(&self.comments(origin))?;
        let unfinished = Unfinished::create(folder)?;
        unfinished.write("hull.toml", text.as_bytes())?;
        let sources = hull_toml.sources.iter().zip(&self.whole_images);
        for ((name, disk), (source, whole)) in self.appliance.disks().zip(sources) {
            let path = unfinished.path.join(&source.image.path);
            let failed = |source| WriteFolderError::Write { path: path.clone(), source };
            let file = File::create_new(&path).map_err(failed)?;
            let told = |done| progress.packed(name, done, disk.size_bytes());
            match whole {
                Some(whole) => whole.source.copy_to(&file, &told).map_err(failed)?,
                None => self.write_image(name, disk, file.try_clone().map_err(failed)?, &told)?,
            }
            file.sync_all().map_err(failed)?;
        }
        if let Some(ovf) = self.appliance.ovf() {
            unfinished.write(OVF, ovf)?;
        }
        if !self.eulas.is_empty() {
            unfinished.write(EULA, self.eulas.join("\n\n----\n\n").as_bytes())?;
        }
        unfinished.publish(folder)
    }

    fn hull_toml(&self) -> HullToml {
        let named = |path: String| NamedFile { path: path.into(), line: 0, column: 0 };
        let disks = self.appliance.disks().zip(&self.whole_images);
        let sources = disks.map(|((name, _), whole)| {
            let format = whole.as_ref().map_or(TARGET.format(), |whole| whole.format);
            // What the image looks like is not what it was read as, where somebody has said so.
            let said = whole.as_ref().is_some_and(|whole| image::detect(&whole.source).ok() != Some(format));
            DiskSource {
                disk: name.to_owned(),
                image: named(format!("{name}.{}", extension(format))),
                backing: Vec::new(),
                parts: None,
                format: said.then_some(format),
            }
        });
        HullToml {
            config: self.appliance.config().clone(),
            policy: self.appliance.policy().clone(),
            ovf: self.appliance.ovf().map(|_| named(OVF.to_owned())),
            sources: sources.collect(),
        }
    }

    fn comments(&self, origin: &str) -> Remarks {
        let mut remarks = Remarks::default();
        remarks.add(Subject::File, format_args!("Made by `hull import` from {origin}."));
        if !self.eulas.is_empty() {
            remarks.add(Subject::File, format_args!("{EULA} has what its author wants agreed to."));
        }
        remarks.append(self.remarks.clone());
        for notice in &self.notices {
            match &notice.machine {
                Some(machine) => remarks.add(Subject::Machine(machine.clone()), &notice.what),
                None => remarks.add(Subject::File, &notice.what),
            }
        }
        let policy = self.appliance.policy();
        let closed = self.appliance.config().machines.iter().find(|machine| {
            !machine.nics.is_empty() && policy.machine(&machine.name).firewall == Firewall::default()
        });
        if let Some(machine) = closed {
            let alone = self.appliance.config().machines.len() == 1;
            let of = if alone { String::new() } else { format!("machines.{}.", machine.name) };
            for line in EXAMPLE.lines() {
                let line = line.replace("[[firewall", &format!("[[{of}firewall"));
                remarks.add(Subject::Firewall(machine.name.clone()), line);
            }
        }
        remarks
    }

    fn write_image(
        &self,
        name: &str,
        disk: &dyn Disk,
        out: File,
        told: &(dyn Fn(u64) + Sync),
    ) -> Result<(), WriteFolderError> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        // Of the disk's name, so that importing again gives the same bytes.
        let mut identity = [0; 16];
        identity.iter_mut().zip(Sha256::digest(name.as_bytes())).for_each(|(to, from)| *to = from);
        let options = WriteOptions { threads, identity };
        match image::write(disk, TARGET, out, &options, told) {
            Ok(_) => Ok(()),
            Err(source) => Err(WriteFolderError::Disk { disk: name.to_owned(), source }),
        }
    }
}

/// What a file of this format is called after the full stop.
fn extension(format: Format) -> &'static str {
    match format {
        Format::Raw => "img",
        format => format.name(),
    }
}

/// Refuses a place where there is something.
fn check_free(folder: &Path) -> Result<(), WriteFolderError> {
    let occupied = || WriteFolderError::Occupied { path: folder.to_owned() };
    match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().map_or(Ok(()), |_| Err(occupied())),
        // A link that leads nowhere is something too.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_symlink() => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::NotFound) => {
            Err(occupied())
        }
        Err(source) => Err(WriteFolderError::Write { path: folder.to_owned(), source }),
    }
}

/// A folder beside the one that it will become; gone again unless it is published.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    published: bool,
}

impl Unfinished {
    fn create(folder: &Path) -> Result<Self, WriteFolderError> {
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = folder.with_file_name(name);
        let failed = |source| WriteFolderError::Write { path: path.clone(), source };
        fs::create_dir(&path).map_err(failed)?;
        Ok(Self { path, published: false })
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), WriteFolderError> {
        let path = self.path.join(name);
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
        written.map_err(|source| WriteFolderError::Write { path, source })
    }

    fn publish(mut self, folder: &Path) -> Result<(), WriteFolderError> {
        let failed = |source| WriteFolderError::Write { path: folder.to_owned(), source };
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(failed)?;
        // Takes the place of an empty folder, and of nothing else.
        fs::rename(&self.path, folder).map_err(failed)?;
        self.published = true;
        let around = folder.parent().filter(|around| !around.as_os_str().is_empty());
        // Without this, a power cut may undo the renaming.
        File::open(around.unwrap_or(Path::new("."))).and_then(|around| around.sync_all()).map_err(failed)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the error that led here is what the caller hears of.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
