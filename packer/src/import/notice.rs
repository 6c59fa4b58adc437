//! What a person should know of an import: what was assumed, what became of it, and what was left out.
//!
//! Everything that came out of a file is escaped when it is shown.

use std::fmt;

use formats::image::LeftOut;
use formats::ovf::{Certificate, Warning};

/// One thing that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The machine that it is about, by its name in `hull.toml`; `None` for all of it.
    pub machine: Option<String>,
    /// What it is.
    pub what: What,
}

/// What a [`Notice`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// A value that nothing says was chosen.
    Assumed {
        /// The key in `hull.toml`.
        key: &'static str,
        /// The value.
        value: String,
        /// Why that one.
        why: &'static str,
    },
    /// An image holds more than the disk.
    ImageHoldsMore {
        /// The disk.
        disk: String,
        /// What else.
        what: LeftOut,
    },
    /// The image's size is not what the descriptor says; the image counts.
    OtherSize {
        /// The disk.
        disk: String,
        /// The size that the descriptor says, in bytes.
        said_bytes: u64,
        /// The size of the image, in bytes.
        found_bytes: u64,
    },
    /// A disk that starts empty became a volume.
    BecameVolume {
        /// The volume.
        volume: String,
    },
    /// Several machines write to one disk; each has a copy now.
    WasShared {
        /// The disk as the descriptor calls it.
        disk: String,
    },
    /// A network became a private one of the appliance's machines.
    PrivateNetwork {
        /// Its name in the descriptor.
        network: String,
        /// Its name in `hull.toml`.
        name: String,
    },
    /// A network became the outside.
    Outside {
        /// Its name in the descriptor.
        network: String,
    },
    /// Devices that hull's machines do not have.
    DevicesLeftOut {
        /// What they are.
        devices: Vec<String>,
    },
    /// Something that is kept in the OVF and has no effect here.
    KeptOnly {
        /// What it is.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The first of them.
        examples: Vec<String>,
    },
    /// A licence that the author wants agreed to.
    Licence {
        /// How many there are.
        count: usize,
    },
    /// One of several configurations was taken.
    Configuration {
        /// The one.
        taken: String,
        /// The others.
        others: Vec<String>,
    },
    /// Nothing says that the files are those that the author made.
    NoManifest,
    /// A certificate is there. Whether it is to be trusted was not examined.
    Certificate(Certificate),
    /// A file's size is not what the descriptor says; the file counts.
    OtherFileSize {
        /// The file's name in the descriptor.
        file: String,
        /// The size that the descriptor says, in bytes.
        said_bytes: u64,
        /// The size of the file, in bytes.
        found_bytes: u64,
    },
    /// Files with a machine's firmware variables.
    VariablesLeftOut {
        /// Their names.
        names: Vec<String>,
    },
    /// Files of the package that nothing here uses.
    FilesLeftOut {
        /// Their names.
        names: Vec<String>,
    },
    /// The OVF holds a policy of hull's own, which holds here too.
    OwnPolicy,
    /// The reader of the OVF has a doubt.
    Doubt(Warning),
}

/// The most examples of one kind that are shown.
pub(super) const MAX_EXAMPLES: usize = 8;

impl What {
    /// [`What::KeptOnly`] of these, if there are any.
    pub(super) fn kept_only(what: &'static str, all: Vec<String>) -> Option<Self> {
        let count = all.len();
        let examples = all.into_iter().take(MAX_EXAMPLES).collect();
        (count > 0).then_some(Self::KeptOnly { what, count, examples })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.machine {
            Some(machine) => write!(f, "machine {machine}: {}", self.what),
            None => write!(f, "{}", self.what),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assumed { key, value, why } => write!(f, "`{key}` is {value}: {why}"),
            Self::ImageHoldsMore { disk, what } => write!(f, "left out of disk {disk}: {what}"),
            Self::OtherSize { disk, said_bytes, found_bytes } => write!(
                f,
                "disk {disk} has {found_bytes} bytes; the OVF says {said_bytes}, which the image overrules"
            ),
            Self::BecameVolume { volume } => {
                write!(f, "volume {volume} was a disk that starts empty; it comes after the disks now")
            }
            Self::WasShared { disk } => {
                write!(f, "disk {} was shared by several machines; each has one of its own", quoted(disk))
            }
            Self::PrivateNetwork { network, name } => write!(
                f,
                "network {} is private between machines by its name or description, and is `{name}` here",
                quoted(network)
            ),
            Self::Outside { network } => {
                write!(f, "network {} is the outside here, behind the firewall", quoted(network))
            }
            Self::DevicesLeftOut { devices } => write!(f, "left out: {}", list(devices, devices.len())),
            Self::KeptOnly { what, count, examples } => {
                write!(
                    f,
                    "kept in the OVF, without effect here: {what} ({count}): {}",
                    list(examples, *count)
                )
            }
            Self::Licence { count: 1 } => f.write_str("it has a licence (EULA) to be agreed to"),
            Self::Licence { count } => write!(f, "it has {count} licences (EULA) to be agreed to"),
            Self::Configuration { taken, others } => write!(
                f,
                "configuration {} was taken; the others are {}",
                quoted(taken),
                list(others, others.len())
            ),
            Self::NoManifest => {
                f.write_str("there is no manifest: nothing says that the files are as their author made them")
            }
            Self::Certificate(Certificate { subject: Some(subject), sha256, .. }) => {
                let sha256 = sha256.iter().flatten().map(|byte| format!("{byte:02x}")).collect::<String>();
                let name = quoted(subject);
                write!(
                    f,
                    "it is signed in the name of {name} (certificate sha256:{sha256}); that was not verified"
                )
            }
            Self::Certificate(Certificate { file, .. }) => {
                write!(f, "it is signed with a certificate that cannot be read, {}", quoted(file))
            }
            Self::FilesLeftOut { names } => {
                write!(f, "files that nothing here uses: {}", list(names, names.len()))
            }
            Self::OtherFileSize { file, said_bytes, found_bytes } => write!(
                f,
                "file {} has {found_bytes} bytes; the OVF says {said_bytes}, which the file overrules",
                quoted(file)
            ),
            Self::VariablesLeftOut { names } => write!(
                f,
                "left out: firmware variables, {}; the machine starts with those that a new one has",
                list(names, names.len())
            ),
            Self::OwnPolicy => {
                f.write_str("the OVF brings a policy of hull's, which holds; `hull inspect` shows it")
            }
            Self::Doubt(warning) => write!(f, "{warning}"),
        }
    }
}

/// Names from a file, of which `count` there are in all.
fn list(names: &[String], count: usize) -> String {
    let mut shown: Vec<String> = names.iter().take(MAX_EXAMPLES).map(|name| quoted(name)).collect();
    if count > shown.len() {
        shown.push(format!("{} more", count - shown.len()));
    }
    shown.join(", ")
}

/// Text from a file: escaped, and cut off where it is long.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 80;
    let mut short: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        short.push_str("...");
    }
    format!("`{short}`")
}
