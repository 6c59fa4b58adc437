//! An OVA archive, written: descriptor, files, manifest.
//!
//! The descriptor must come first, but says how long the files are, which is known last. So room is kept for it; it is
//! written into the room at the end and padded with spaces, which XML allows. The manifest stands last, as DSP0243 allows.
//! All files have one date and one owner, so the same content makes the same archive.
//!
//! Source: DSP0243 1.1.0, 5; POSIX.1-2017, pax, "ustar Interchange Format".

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};

use super::error::quoted;
use crate::tar::{BLOCK, encode};

/// The longest name that a header has room for.
const MOST_NAME_BYTES: usize = 100;

/// Why an archive is not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OvaWriteError {
    /// A name that is none for a file of an archive, or is too long for it.
    #[error(
        "OVA: the name {name} cannot be written; wanted 1 to {MOST_NAME_BYTES} bytes without slashes and control characters"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A name is there already.
    #[error("OVA: the archive has a file {name} already")]
    Repeated {
        /// The name.
        name: String,
    },
    /// The descriptor is longer than the room that was kept for it.
    #[error("OVA: the descriptor has {bytes} bytes; {reserved} were kept for it")]
    DescriptorTooLong {
        /// Its length.
        bytes: u64,
        /// The room.
        reserved: u64,
    },
    /// A file was begun and not finished.
    #[error("OVA: the file {name} was not finished")]
    Unfinished {
        /// The file's name.
        name: String,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Io(#[from] io::Error),
}

/// An archive that is being written.
#[derive(Debug)]
pub struct OvaWriter {
    out: File,
    stem: String,
    reserved_bytes: u64,
    /// Where the next header goes.
    at: u64,
    names: HashSet<String>,
    /// Lines of the manifest.
    manifest: String,
    /// The file that was begun last, until it is finished.
    open: Option<String>,
}

/// A file of an archive that is being written. It must be [finished](MemberWriter::finish).
#[derive(Debug)]
pub struct MemberWriter<'a> {
    archive: &'a mut OvaWriter,
    name: String,
    written_bytes: u64,
    digest: Sha256,
}

impl OvaWriter {
    /// Begins an archive in the empty file `out`. Its descriptor is called `stem.ovf`, its manifest `stem.mf`; the
    /// descriptor may take `reserved_bytes`.
    ///
    /// # Errors
    ///
    /// [`OvaWriteError::Name`].
    pub fn create(out: File, stem: &str, reserved_bytes: u64) -> Result<Self, OvaWriteError> {
        let mut writer = OvaWriter {
            out,
            stem: stem.to_owned(),
            reserved_bytes,
            at: BLOCK + reserved_bytes.next_multiple_of(BLOCK),
            names: HashSet::new(),
            manifest: String::new(),
            open: None,
        };
        writer.take_name(&format!("{stem}.ovf"))?;
        writer.take_name(&format!("{stem}.mf"))?;
        Ok(writer)
    }

    /// Begins a file.
    ///
    /// # Errors
    ///
    /// [`OvaWriteError::Name`], [`OvaWriteError::Repeated`], [`OvaWriteError::Unfinished`].
    pub fn member(&mut self, name: &str) -> Result<MemberWriter<'_>, OvaWriteError> {
        self.check_finished()?;
        self.take_name(name)?;
        self.open = Some(name.to_owned());
        Ok(MemberWriter { archive: self, name: name.to_owned(), written_bytes: 0, digest: Sha256::new() })
    }

    /// Writes descriptor and manifest; gives back the length of the archive in bytes. Nothing is flushed to the disk.
    ///
    /// # Errors
    ///
    /// [`OvaWriteError::DescriptorTooLong`], [`OvaWriteError::Unfinished`], [`OvaWriteError::Io`].
    pub fn finish(self, descriptor: &str) -> Result<u64, OvaWriteError> {
        self.check_finished()?;
        let bytes = descriptor.len() as u64;
        if bytes > self.reserved_bytes {
            return Err(OvaWriteError::DescriptorTooLong { bytes, reserved: self.reserved_bytes });
        }
        let mut padded = descriptor.as_bytes().to_vec();
        padded.resize(self.reserved_bytes as usize, b' ');
        let name = format!("{}.ovf", self.stem);
        self.out.write_all_at(&encode(&name, self.reserved_bytes), 0)?;
        self.out.write_all_at(&padded, BLOCK)?;
        let manifest = manifest_line(&name, &Sha256::digest(&padded)) + &self.manifest;
        let name = format!("{}.mf", self.stem);
        self.out.write_all_at(&encode(&name, manifest.len() as u64), self.at)?;
        self.out.write_all_at(manifest.as_bytes(), self.at + BLOCK)?;
        let end = self.at + BLOCK + (manifest.len() as u64).next_multiple_of(BLOCK) + 2 * BLOCK;
        self.out.set_len(end)?;
        Ok(end)
    }

    fn check_finished(&self) -> Result<(), OvaWriteError> {
        match &self.open {
            None => Ok(()),
            Some(name) => Err(OvaWriteError::Unfinished { name: quoted(name) }),
        }
    }

    fn take_name(&mut self, name: &str) -> Result<(), OvaWriteError> {
        let is_good = (1..=MOST_NAME_BYTES).contains(&name.len())
            && !name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\'))
            && !matches!(name, "." | "..");
        if !is_good {
            return Err(OvaWriteError::Name { name: quoted(name) });
        }
        if !self.names.insert(name.to_owned()) {
            return Err(OvaWriteError::Repeated { name: quoted(name) });
        }
        Ok(())
    }
}

impl MemberWriter<'_> {
    /// Ends the file; gives back its length in bytes.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn finish(self) -> Result<u64, OvaWriteError> {
        let archive = self.archive;
        archive.out.write_all_at(&encode(&self.name, self.written_bytes), archive.at)?;
        archive.manifest += &manifest_line(&self.name, &self.digest.finalize());
        archive.at += BLOCK + self.written_bytes.next_multiple_of(BLOCK);
        archive.open = None;
        Ok(self.written_bytes)
    }
}

impl io::Write for MemberWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.archive.out.write_at(bytes, self.archive.at + BLOCK + self.written_bytes)?;
        self.digest.update(&bytes[..written]);
        self.written_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn manifest_line(name: &str, digest: &[u8]) -> String {
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("SHA256({name})= {digest}\n")
}
