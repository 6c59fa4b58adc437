//! `convert`: copy the disk in an image file to an image file of another format.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use packer::{Progress as _, WriteImageError, WriteImageOptions, write_image};

use crate::error::{CommandError, Exit};
use crate::image::ImageArgs;
use crate::packing::Bar;
use crate::target::{self, OUTPUT, TargetArgs, TargetFormat};
use crate::text::{self, size};

/// Copy the disk in an image file to an image file of another format
///
/// The image is read by hull alone, which opens no file that is not named here, so it may come from a stranger.
/// The new image appears when it is complete, in place of the file that was there before; it is not flushed to
/// the device, which `sync` does.
#[derive(Debug, clap::Args)]
pub(crate) struct ConvertArgs {
    /// The image
    image: PathBuf,
    /// What the new image is
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: TargetFormat,
    /// Where the new image goes
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    image_args: ImageArgs,
    /// Threads that read, decompress and compress [default: one for each processor]
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
}

pub(crate) fn run(args: &ConvertArgs) -> Result<(), CommandError> {
    let start = Instant::now();
    let target = args.target.target(args.to)?;
    let image = args.image_args.open(&args.image)?;
    let mut options = WriteImageOptions::new()?;
    options.threads = args.threads.unwrap_or(options.threads);

    let bar = Bar::new();
    let name = text::plain(&args.image.file_name().unwrap_or_default().to_string_lossy());
    let progress = |done_bytes| bar.packed(&name, done_bytes, image.disk.size_bytes());
    let written = write_image(&*image.disk, target, &args.output, &options, &progress);
    bar.finish();

    let bytes = written.map_err(|error| {
        let error = CommandError::from(error);
        let context = format!("cannot convert `{}`", args.image.display());
        CommandError { error: error.error.context(context), ..error }
    })?;
    for left_out in &image.left_out {
        text::say(format_args!("Left out: {left_out}."));
    }
    text::say(format_args!(
        "Wrote {} ({}) from a disk of {} in {}.",
        text::plain(&args.output.display().to_string()),
        size(bytes),
        size(image.disk.size_bytes()),
        text::duration(start.elapsed())
    ));
    Ok(())
}

impl From<WriteImageError> for CommandError {
    fn from(error: WriteImageError) -> Self {
        const DAMAGED: &str = "the image is damaged, or uses what docs/formats/disk-images.md does not list: \
                               have it made anew where it came from";
        let hint = match &error {
            WriteImageError::NotAFile { .. } => {
                return Self::from_error(Exit::Usage, error)
                    .hint("`--output` names a file that is there or is to be made");
            }
            WriteImageError::Read(_) => DAMAGED,
            WriteImageError::Image { source, .. } => target::hint(source, DAMAGED),
            _ => OUTPUT,
        };
        Self::at_output(error, hint)
    }
}
