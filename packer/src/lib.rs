//! From `hull.toml` and disk images to an appliance in the local store, and from there to a file.

mod archive;
mod contents;
pub mod disks;
mod folder;
pub mod hull_toml;
mod image;
pub mod import;
mod pack;
mod parts;

pub use archive::{ArchiveError, write_archive};
pub use contents::{Contents, ContentsError, Platform, needed_by};
pub use disks::{PackOptions, Progress};
pub use folder::{FolderError, OpenedFolder, open_folder};
pub use image::{ImageFiles, OpenImageError, open_image};
pub use pack::{Appliance, PackError, PackRequest, Packed};
pub use parts::FolderParts;

pub use formats::image::{Format, Image};
