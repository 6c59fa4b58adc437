//! Image files that a person hands over: the options that say how they are read, and what to do when they are not.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use packer::import::ImageOptions;
use packer::{Format, ImageFiles, Missing, OpenImageError, open_image};

use crate::error::{CommandError, Exit};

/// What to do about an image that cannot be read.
pub(crate) const IMAGES: &str =
    "docs/formats/disk-images.md says which images are read; do not give a stranger's to tools that guess";
/// What to do about an image that is not all of its disk, where options hand over the rest.
pub(crate) fn hand_over(missing: Missing) -> &'static str {
    match missing {
        Missing::Backing => {
            "`--backing FILE` hands over the image below it; an archive or package must bring it along"
        }
        Missing::Parts => {
            "`--parts DIR` hands over the folder that they are in; an archive or package must bring them along"
        }
    }
}

/// What to do about a disk that is larger than was accepted.
pub(crate) const LARGER: &str = "`--max-size` accepts larger disks";

/// How an image file is read, and what may be used for it.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    /// What the image is read as [default: what its first and last bytes say]
    #[arg(long, value_parser = PossibleValuesParser::new(Format::ALL.iter().map(|format| format.name())).map(format))]
    format: Option<Format>,
    /// The image that it is a difference to; the next one's own comes after it
    #[arg(long, value_name = "FILE")]
    backing: Vec<PathBuf>,
    /// The folder whose files an image cut into several may name
    #[arg(long, value_name = "DIR")]
    parts: Option<PathBuf>,
    /// The largest disk that is accepted, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 64 << 10)]
    max_size: u64,
}

impl ImageArgs {
    /// As an import takes them.
    pub(crate) fn options(&self) -> ImageOptions<'_> {
        ImageOptions { format: self.format, backing: &self.backing, parts: self.parts.as_deref() }
    }

    /// The largest disk that is accepted, in bytes.
    pub(crate) fn max_size_bytes(&self) -> u64 {
        self.max_size.saturating_mul(1 << 30)
    }

    /// Opens `image` as a disk.
    pub(crate) fn open(&self, image: &Path) -> Result<packer::Image, CommandError> {
        let files = ImageFiles {
            image,
            format: self.format,
            backing: &self.backing,
            parts: self.parts.as_deref(),
            max_size_bytes: self.max_size_bytes(),
        };
        Ok(open_image(&files)?)
    }
}

fn format(name: String) -> Format {
    let found = Format::ALL.iter().find(|format| format.name() == name);
    *found.expect("clap accepts no other name")
}

impl From<OpenImageError> for CommandError {
    fn from(error: OpenImageError) -> Self {
        let is_too_large = error.is_too_large();
        match error {
            OpenImageError::File { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::from_error(Exit::NotFound, error).hint("check the path")
            }
            error if is_too_large => Self::from_error(Exit::Failed, error).hint(LARGER),
            error => {
                let hint = error.missing().map_or(IMAGES, hand_over);
                Self::from_error(Exit::Failed, error).hint(hint)
            }
        }
    }
}
