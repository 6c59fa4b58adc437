//! From `hull.toml` and disk images to an appliance in the local store, and from there to a file.

mod archive;
mod contents;
mod convert;
pub mod disks;
pub mod export;
mod folder;
pub mod hull_toml;
mod image;
pub mod import;
mod new_file;
mod new_folder;
mod pack;
mod parts;
mod policy_section;

pub use archive::{ArchiveError, write_archive};
pub use contents::{Contents, ContentsError, Platform, needed_by};
pub use convert::{WriteImageError, WriteImageOptions, write_image};
pub use disks::{PackOptions, Progress};
pub use folder::{FolderError, OpenedFolder, open_folder};
pub use image::{ImageFiles, OpenImageError, open_image};
pub use pack::{Appliance, PackError, PackRequest, Packed};
pub use parts::FolderParts;

pub use formats::image::{Compression, Format, Image, ImageWriteError, Missing, Target, VmdkAdapter};
