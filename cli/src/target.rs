//! Image files that are written: the options that say of which kind, shared by `convert` and `export`.

use clap::ValueEnum;
use packer::{Compression, ImageWriteError, Target, VmdkAdapter};

use crate::error::{CommandError, Exit};

/// Formats that a disk can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetFormat {
    /// The disk's bytes, with holes where they are zero
    Raw,
    /// QEMU's, version 3
    Qcow2,
    /// VMware's
    Vmdk,
    /// Virtual PC's, Azure's and Hyper-V's older one
    Vhd,
    /// Hyper-V's
    Vhdx,
    /// VirtualBox's
    Vdi,
}

/// Which kind of its format an image becomes.
#[derive(Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// How clusters are compressed, with `--to qcow2` [default: none]
    #[arg(long, value_enum)]
    compression: Option<CompressionArg>,
    /// Which kind, with `--to vmdk` and `--to vhd` [default: stream, dynamic]
    #[arg(long, value_enum)]
    subformat: Option<Subformat>,
}

/// How a qcow2 image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressionArg {
    /// Not at all
    None,
    /// What every reader knows
    Zlib,
    /// Smaller and faster; QEMU knows it since 5.1
    Zstd,
}

/// Kinds of VMDK and VHD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subformat {
    /// VMDK for transport, compressed: streamOptimized
    Stream,
    /// VMDK for use: monolithicSparse
    Sparse,
    /// VHD that grows
    Dynamic,
    /// VHD of the disk's whole size, as Azure takes it
    Fixed,
}

impl TargetArgs {
    /// What a disk is written as where `--to` names `format`.
    pub(crate) fn target(&self, format: TargetFormat) -> Result<Target, CommandError> {
        let adapter = VmdkAdapter::default();
        self.check(Some(format), &name(format))?;
        Ok(match (format, self.subformat) {
            (TargetFormat::Raw, _) => Target::Raw,
            (TargetFormat::Qcow2, _) => Target::Qcow2(match self.compression {
                None | Some(CompressionArg::None) => Compression::None,
                Some(CompressionArg::Zlib) => Compression::Zlib,
                Some(CompressionArg::Zstd) => Compression::Zstd,
            }),
            (TargetFormat::Vmdk, Some(Subformat::Sparse)) => Target::VmdkSparse(adapter),
            (TargetFormat::Vmdk, _) => Target::VmdkStream(adapter),
            (TargetFormat::Vhd, Some(Subformat::Fixed)) => Target::VhdFixed,
            (TargetFormat::Vhd, _) => Target::VhdDynamic,
            (TargetFormat::Vhdx, _) => Target::Vhdx,
            (TargetFormat::Vdi, _) => Target::Vdi,
        })
    }

    /// Refuses an option that would do nothing with `--to NAME`, which is `format` where it is an image format.
    pub(crate) fn check(&self, format: Option<TargetFormat>, name: &str) -> Result<(), CommandError> {
        let goes_with = |subformat| match subformat {
            Subformat::Stream | Subformat::Sparse => format == Some(TargetFormat::Vmdk),
            Subformat::Dynamic | Subformat::Fixed => format == Some(TargetFormat::Vhd),
        };
        let (option, wanted) = match (self.subformat, self.compression) {
            (Some(subformat), _) if !goes_with(subformat) => {
                let option = format!("--subformat {}", self::name(subformat));
                (option, "`stream` and `sparse` go with `--to vmdk`, `dynamic` and `fixed` with `--to vhd`")
            }
            (_, Some(_)) if format != Some(TargetFormat::Qcow2) => (
                "--compression".to_owned(),
                "it goes with `--to qcow2`; streamOptimized VMDKs are always compressed",
            ),
            _ => return Ok(()),
        };
        Err(CommandError::new(Exit::Usage, format!("`{option}` cannot be used with `--to {name}`"))
            .hint(wanted))
    }
}

/// The word for a value on the command line.
pub(crate) fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("none is hidden").get_name().to_owned()
}

/// What to do where `--output` cannot be written.
pub(crate) const OUTPUT: &str =
    "`--output` is a path in a folder that is there, may be written to and has room";

/// What to do about an image that was not written; `damaged` is for a disk that cannot be read.
pub(crate) fn hint(error: &ImageWriteError, damaged: &'static str) -> &'static str {
    match error {
        ImageWriteError::Read(_) => damaged,
        ImageWriteError::TooLarge { .. }
        | ImageWriteError::FileTooLarge { .. }
        | ImageWriteError::NoBytes { .. } => "another format may hold it: `--to qcow2` and `--to raw` do",
        _ => OUTPUT,
    }
}
