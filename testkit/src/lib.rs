//! Fixtures: tiny guests, disks, services and patience, shared by every crate's tests. Never a test case.

mod boot_sector;
pub mod guest;
mod rom;
mod s3_server;
pub mod wait;

pub use boot_sector::{BOOT_SECTOR_SAYS, boot_sector};
pub use rom::{ROM_SAYS, rom};
pub use s3_server::{NoS3Server, S3Server};
