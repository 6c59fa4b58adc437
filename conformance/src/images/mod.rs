//! The suite for disk images: random ones, read and written by hull, judged by QEMU's programs.
//!
//! ```text
//! seed --> recipe --qemu-img, qemu-io--> image --qemu-img convert, map--> reference
//!                                          |                                  |
//!                                          |--hull nbd --image--> disk ----- compare: size, sha256, 100 ranges, holes
//!                                          `--hull convert--> another image --qemu-img compare, check
//! ```
//!
//! Every image comes from the run's seed and its own number alone, so that one can be made again without the
//! others. hull is a program on the other side of a socket; nothing of it is linked. With
//! [`Subject::Qemu`] the same suite judges `qemu-nbd`, which proves the suite.

mod compare;
mod nbd;
mod qemu;
mod random;
mod recipes;
mod subject;
mod tally;
mod workshop;

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub use compare::{Difference, Holes};
pub use recipes::Kind;
pub use subject::Subject;
pub use tally::{Summary, Tally};

use compare::Compared;
use random::Random;
use subject::TARGETS;
use workshop::Workshop;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose programs are judged.
    pub subject: Subject,
    /// The numbers of the images.
    pub numbers: Range<u64>,
    /// What all of them are made from.
    pub seed: u64,
    /// Kinds to make; all where that is empty.
    pub only: Vec<Kind>,
    /// Images that are made and compared at a time.
    pub jobs: NonZeroUsize,
    /// Where images are made. Everything there is removed again.
    pub scratch: PathBuf,
}

/// One image, and what was found.
#[derive(Debug)]
pub struct Case {
    /// Its number in the run.
    pub number: u64,
    /// Its kind.
    pub kind: Kind,
    /// How many were made before it in its place that QEMU could not read itself.
    pub unreadable: u64,
    /// How it was made, as lines of a shell script.
    pub recipe: String,
    /// How many comparisons were made.
    pub comparisons: u64,
    /// Those that failed.
    pub differences: Vec<Difference>,
    /// How much of it is zero without being stored.
    pub holes: Holes,
}

/// Why the suite cannot run: nothing that is said of hull.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuiteError {
    /// A program is missing.
    #[error("cannot start `{program}`")]
    NotStarted {
        /// Its name or path.
        program: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// One of QEMU's programs did not do its part.
    #[error("`{command}` failed: {said}")]
    Failed {
        /// The whole command.
        command: String,
        /// How it ended and what it said, escaped.
        said: String,
    },
    /// `qemu-img map` prints something else than expected.
    #[error("`qemu-img map` printed no map: {}", found.escape_debug())]
    NoMap {
        /// What it printed.
        found: String,
    },
    /// The place where images are made.
    #[error("cannot work in `{}`", folder.display())]
    Scratch {
        /// The folder.
        folder: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Makes and compares all images, several at a time, and calls `tell` after each, in no order.
///
/// # Errors
///
/// [`SuiteError`], for the first image that could not be made; the others are not begun then.
pub fn run(options: &Options, tell: &(dyn Fn(&Case) + Sync)) -> Result<Summary, SuiteError> {
    let next = AtomicU64::new(options.numbers.start);
    let state = Mutex::new((Summary::default(), None));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= options.numbers.end {
                return;
            }
            let result = case(options, number);
            let mut state = state.lock().expect("no thread panics while it tells");
            match result {
                Ok(case) => {
                    state.0.add(&case);
                    tell(&case);
                }
                Err(error) => {
                    next.store(options.numbers.end, Ordering::Relaxed);
                    state.1.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.get() {
            scope.spawn(work);
        }
    });
    let (summary, error) = state.into_inner().expect("no thread panics while it tells");
    error.map_or(Ok(summary), Err)
}

/// Now and then QEMU makes an image that it cannot read itself, most often by compressing clusters whose narrow
/// refcounts cannot hold it. Nothing can be held against such a one; another is made in its place.
const MOST_ATTEMPTS: u64 = 3;

/// An image that QEMU can read.
struct Made {
    shop: Workshop,
    image: recipes::Made,
    reference: compare::Reference,
    unreadable: u64,
}

/// An image, and what QEMU says is in it.
fn make(options: &Options, number: u64, random: &mut Random) -> Result<Made, SuiteError> {
    let mut unreadable = 0;
    loop {
        let mut shop = Workshop::open(options.scratch.join(format!("image-{number}-{unreadable}")))?;
        let image = recipes::make(&mut shop, &options.only, random)?;
        match qemu::reference(&image, &mut shop) {
            Ok(reference) => return Ok(Made { shop, image, reference, unreadable }),
            Err(SuiteError::Failed { .. }) if unreadable + 1 < MOST_ATTEMPTS => unreadable += 1,
            Err(error) => return Err(error),
        }
    }
}

/// One image, from its recipe to its last comparison.
fn case(options: &Options, number: u64) -> Result<Case, SuiteError> {
    let mut random = Random::of_image(options.seed, number);
    let Made { mut shop, image, reference, unreadable } = make(options, number, &mut random)?;
    let read = options.subject.with_disk(&image, &shop, |disk| {
        compare::compare(disk, &reference, &mut random).map_err(|error| shop.failed(error))
    })?;
    let mut compared = read.unwrap_or_else(|difference| Compared {
        comparisons: 1,
        differences: vec![difference],
        holes: Holes::default(),
    });
    let target = &TARGETS[random.below(TARGETS.len() as u64) as usize];
    compared.note(options.subject.write(&image, target, &mut shop)?);
    let Compared { comparisons, differences, holes } = compared;
    Ok(Case { number, kind: image.kind, unreadable, recipe: shop.recipe(), comparisons, differences, holes })
}
