//! `convert`: copy the disk in an image file to an image file of another format.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use packer::{
    Compression, ImageWriteError, Target, VmdkAdapter, WriteImageError, WriteImageOptions, write_image,
};

use crate::error::{CommandError, Exit};
use crate::image::ImageArgs;
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
    to: To,
    /// Where the new image goes
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// How the new image's clusters are compressed, where it is a qcow2 [default: none]
    #[arg(long, value_enum)]
    compression: Option<CompressionArg>,
    #[command(flatten)]
    image_args: ImageArgs,
    /// Threads that read, decompress and compress [default: one for each processor]
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
}

/// What an image can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// The disk's bytes, with holes where they are zero
    Raw,
    /// QEMU's, version 3
    Qcow2,
    /// VMware's for transport, compressed: streamOptimized
    Vmdk,
    /// VMware's for use: monolithicSparse
    VmdkSparse,
    /// Virtual PC's and Hyper-V's, growing
    Vhd,
    /// Virtual PC's and Azure's: the disk's bytes and a footer
    VhdFixed,
    /// Hyper-V's newer one, growing
    Vhdx,
    /// VirtualBox's, growing
    Vdi,
}

/// How a qcow2 image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CompressionArg {
    /// Not at all
    None,
    /// What every reader knows
    Zlib,
    /// Smaller and faster; QEMU knows it since 5.1
    Zstd,
}

impl From<CompressionArg> for Compression {
    fn from(compression: CompressionArg) -> Self {
        match compression {
            CompressionArg::None => Self::None,
            CompressionArg::Zlib => Self::Zlib,
            CompressionArg::Zstd => Self::Zstd,
        }
    }
}

impl ConvertArgs {
    fn target(&self) -> Result<Target, CommandError> {
        if self.compression.is_some() && self.to != To::Qcow2 {
            return Err(CommandError::new(Exit::Usage, "only a qcow2 image has a compression to choose")
                .hint("use `--compression` with `--to qcow2`; `--to vmdk` is always compressed"));
        }
        let adapter = VmdkAdapter::default();
        Ok(match self.to {
            To::Raw => Target::Raw,
            To::Qcow2 => Target::Qcow2(self.compression.map_or(Compression::None, Into::into)),
            To::Vmdk => Target::VmdkStream(adapter),
            To::VmdkSparse => Target::VmdkSparse(adapter),
            To::Vhd => Target::VhdDynamic,
            To::VhdFixed => Target::VhdFixed,
            To::Vhdx => Target::Vhdx,
            To::Vdi => Target::Vdi,
        })
    }
}

pub(crate) fn run(args: &ConvertArgs) -> Result<(), CommandError> {
    let start = Instant::now();
    let target = args.target()?;
    let image = args.image_args.open(&args.image)?;
    let mut options = WriteImageOptions::new()?;
    options.threads = args.threads.unwrap_or(options.threads);

    let bar = ProgressBar::with_draw_target(Some(image.disk.size_bytes()), ProgressDrawTarget::stderr());
    let style = "{bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is right"));
    let progress = |done_bytes| bar.set_position(done_bytes);
    let written = write_image(&*image.disk, target, &args.output, &options, &progress);
    bar.finish_and_clear();

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
        let hint = match &error {
            WriteImageError::NotAFile { .. } => {
                return Self::from_error(Exit::Usage, error)
                    .hint("`--output` names a file that is there or is to be made");
            }
            WriteImageError::Image { source, .. } => match source {
                ImageWriteError::Read(_) => {
                    "the image is damaged: have it checked or made anew where it came from"
                }
                ImageWriteError::TooLarge { .. }
                | ImageWriteError::FileTooLarge { .. }
                | ImageWriteError::NoBytes { .. } => {
                    "another format may hold it: `--to qcow2` and `--to raw` do"
                }
                _ => FOLDER,
            },
            _ => FOLDER,
        };
        // The place that is full is not HULL_HOME, which the hint for a full disk is about.
        Self { hint: Some(hint.to_owned()), ..Self::from_error(Exit::Failed, error) }
    }
}

const FOLDER: &str = "`--output` names a file, in a folder that is there, may be written to and has room";
