//! `hull-conformance`: runs a suite and prints what it found.
//!
//! Results on stdout, a table or JSON; what is found meanwhile on stderr. Exit codes: 0 nothing failed, 1 something did,
//! 2 the suite could not run.

mod commands;

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Judges what hull makes by the specifications alone
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    Appliance(commands::appliance::Arguments),
    Images(commands::images::Arguments),
    Hostile(commands::hostile::Arguments),
    Registry(commands::registry::Arguments),
}

fn main() -> ExitCode {
    let result = match &Arguments::parse().suite {
        Suite::Appliance(arguments) => commands::appliance::run(arguments),
        Suite::Images(arguments) => commands::images::run(arguments),
        Suite::Hostile(arguments) => commands::hostile::run(arguments),
        Suite::Registry(arguments) => commands::registry::run(arguments),
    };
    match result {
        Ok(failed) => ExitCode::from(u8::from(failed)),
        Err(error) => {
            let causes = std::iter::successors(Some(&*error as &dyn Error), |error| (*error).source());
            let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            // Nothing is left to do where stderr is closed.
            let _ = writeln!(io::stderr(), "error: {text}");
            ExitCode::from(2)
        }
    }
}
