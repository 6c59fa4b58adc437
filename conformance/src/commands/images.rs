//! `images`: random disk images, read and written by hull, judged by QEMU's programs.

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;

use conformance::images::{self, Case, Kind, Options, Subject};

/// Let hull read and write random disk images, and QEMU's programs judge
///
/// Made by `qemu-img` and `qemu-io` from the seed. Ends with `N images, N comparisons, N differences`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The `hull` binary
    #[arg(long, required_unless_present = "reader", conflicts_with = "reader")]
    hull: Option<PathBuf>,
    /// Judge somebody else's programs in place of hull's, to prove the suite
    #[arg(long, value_parser = ["qemu-nbd"])]
    reader: Option<String>,
    /// How many images
    #[arg(long, default_value_t = 300)]
    count: u64,
    /// The number of the first image, to make one again
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// What the images are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only images of this kind; may be repeated
    #[arg(long, value_parser = kind)]
    only: Vec<Kind>,
    /// Images at a time [default: one for each processor]
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Where the recipes of images with differences are left
    #[arg(long, value_name = "DIR", default_value = "differences")]
    keep: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let subject = match &arguments.hull {
        Some(hull) => Subject::Hull(hull.canonicalize()?),
        None => Subject::Qemu,
    };
    let scratch = tempfile::tempdir()?;
    let options = Options {
        subject,
        numbers: arguments.first..arguments.first.saturating_add(arguments.count),
        seed: arguments.seed,
        only: arguments.only.clone(),
        jobs: arguments.jobs.unwrap_or_else(|| available_parallelism().unwrap_or(NonZeroUsize::MIN)),
        scratch: scratch.path().to_owned(),
    };
    let summary = images::run(&options, &|case| tell(case, arguments))?;
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{:#}", summary.to_json())?;
    } else {
        write!(out, "{}", summary.to_table())?;
    }
    out.flush()?;
    Ok(summary.total().differences > 0)
}

/// Prints and keeps the recipe of an image with differences.
fn tell(case: &Case, arguments: &Arguments) {
    if case.differences.is_empty() {
        return;
    }
    let Case { number, kind, recipe, .. } = case;
    let seed = arguments.seed;
    let only: String = arguments.only.iter().map(|kind| format!(" --only {}", kind.name())).collect();
    let differences = case.differences.iter().map(|difference| format!("# {difference}\n"));
    let text = format!(
        "# image {number} of seed {seed}, {}; make it again with: hull-conformance images --seed {seed} --first {number} --count 1{only}\n{}{recipe}\n",
        kind.name(),
        differences.collect::<String>(),
    );
    let path = arguments.keep.join(format!("seed-{seed}-image-{number}.sh"));
    let kept = fs::create_dir_all(&arguments.keep).and_then(|()| fs::write(&path, &text));
    let failed = kept.err().map(|error| format!("cannot keep `{}`: {error}\n", path.display()));
    // Nothing is left to do where stderr is closed.
    let _ = write!(io::stderr().lock(), "{text}{}", failed.unwrap_or_default());
}

fn kind(name: &str) -> Result<Kind, String> {
    let names = Kind::ALL.map(Kind::name);
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    kind.ok_or_else(|| format!("expected one of {}", names.join(", ")))
}
