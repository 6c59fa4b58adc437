//! `hull-conformance`: runs a suite and prints what it found.
//!
//! Results on stdout, a table or JSON. Exit codes: 0 nothing failed, 1 something did, 2 the suite could not
//! run.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use conformance::{RawDisk, appliance};

/// Judges what hull makes by the specifications alone
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Check an appliance: an OCI image-layout archive, as `hull pack -o` writes it, or such a folder
    Appliance {
        /// The archive or folder
        archive: PathBuf,
        /// A raw image that the appliance's disk NAME must be equal to
        #[arg(long = "disk", value_name = "NAME=RAW", value_parser = raw_disk)]
        disks: Vec<RawDisk>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            // Nothing is left to do where stderr is closed.
            let _ = writeln!(io::stderr(), "error: {error}{cause}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let Suite::Appliance { archive, disks, json } = &arguments.suite;
    let report = appliance::check(archive, disks)?;
    let mut out = io::stdout().lock();
    if *json {
        writeln!(out, "{:#}", report.to_json())?;
    } else {
        write!(out, "{}", report.to_table())?;
    }
    out.flush()?;
    Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn raw_disk(text: &str) -> Result<RawDisk, String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok(RawDisk { name: name.to_owned(), path: path.into() })
        }
        _ => Err("expected NAME=RAW, such as root=disk.raw".to_owned()),
    }
}
