//! `appliance`: one appliance as a file.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;

use conformance::{RawDisk, appliance};

/// Check an appliance: an OCI image-layout archive, as `hull pack -o` writes it, or such a folder
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The archive or folder
    archive: PathBuf,
    /// A raw image that the appliance's disk NAME must be equal to
    #[arg(long = "disk", value_name = "NAME=RAW", value_parser = raw_disk)]
    disks: Vec<RawDisk>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let report = appliance::check(&arguments.archive, &arguments.disks)?;
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{:#}", report.to_json())?;
    } else {
        write!(out, "{}", report.to_table())?;
    }
    out.flush()?;
    Ok(report.failed())
}

fn raw_disk(text: &str) -> Result<RawDisk, String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok(RawDisk { name: name.to_owned(), path: path.into() })
        }
        _ => Err("expected NAME=RAW, such as root=disk.raw".to_owned()),
    }
}
