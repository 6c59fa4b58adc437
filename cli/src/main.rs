//! `hull`: the one binary, and the only part of hull that talks to a person.
//!
//! Reads the command line, calls the libraries, prints. Results go to stdout, talk and progress to
//! stderr. What a command does is in `commands/`, one file each.

mod commands;
mod context;
mod environment;
mod error;
mod host;
mod image;
mod packing;
mod prompt;
mod target;
mod text;
mod transfer;

use std::process::ExitCode;

use clap::Parser as _;

use crate::commands::Cli;
use crate::context::Context;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let run = Context::new().and_then(|context| commands::run(&context, cli.command));
    match run {
        Ok(exit) => exit,
        Err(error) => {
            text::print_error(&error);
            ExitCode::from(error.exit.code())
        }
    }
}
