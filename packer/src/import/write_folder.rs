//! An import as a folder: a `hull.toml` with the disks beside it, for its author to go on from.
//!
//! All or nothing: the folder appears when it is whole. The files in it have names of our own making.

use std::fs::File;
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
use crate::new_folder::{NewFolder, NewFolderError};

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
        let failed = |path: PathBuf| move |source| WriteFolderError::Write { path, source };
        let not_made = |error| match error {
            NewFolderError::NotFree => WriteFolderError::Occupied { path: folder.to_owned() },
            NewFolderError::Io(source) => failed(folder.to_owned())(source),
        };
        let mut new = NewFolder::create(folder).map_err(not_made)?;
        let hull_toml = self.hull_toml();
        let text = hull_toml.write(&self.comments(origin))?;
        let mut documents = vec![("hull.toml", text.into_bytes())];
        documents.extend(self.appliance.ovf().map(|ovf| (OVF, ovf.to_vec())));
        if !self.eulas.is_empty() {
            documents.push((EULA, self.eulas.join("\n\n----\n\n").into_bytes()));
        }
        for (name, content) in documents {
            let written = new.file(name).and_then(|mut file| file.write_all(&content));
            written.map_err(failed(new.path(name)))?;
        }
        let sources = hull_toml.sources.iter().zip(&self.whole_images);
        for ((name, disk), (source, whole)) in self.appliance.disks().zip(sources) {
            let file_name = source.image.path.to_str().expect("names of our own making");
            let path = new.path(file_name);
            let file = new.file(file_name).map_err(failed(path.clone()))?;
            let told = |done| progress.packed(name, done, disk.size_bytes());
            match whole {
                Some(whole) => whole.source.copy_to(&file, &told).map_err(failed(path))?,
                None => self.write_image(name, disk, file, &told)?,
            }
        }
        new.publish_durably().map_err(not_made)
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
