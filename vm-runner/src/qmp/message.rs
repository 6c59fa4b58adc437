//! The wire types of QMP, reduced to the members that are used here.
//!
//! Source: QMP specification, "Protocol specification"; QAPI `run-state.json`, `block.json`.

use serde::Deserialize;
use serde_json::Value;

/// Any line that QEMU sends. Which members are present says which kind it is.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    #[serde(rename = "QMP")]
    pub(super) greeting: Option<Greeting>,
    #[serde(rename = "return")]
    pub(super) returned: Option<Value>,
    pub(super) error: Option<ErrorBody>,
    pub(super) event: Option<String>,
    #[serde(default)]
    pub(super) data: Value,
    #[serde(default)]
    pub(super) id: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct Greeting {
    pub(super) version: Version,
}

/// `VersionInfo` of the schema.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    qemu: QemuVersion,
}

impl From<Version> for QemuVersion {
    fn from(version: Version) -> Self {
        version.qemu
    }
}

/// The three numbers of a QEMU release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct QemuVersion {
    /// The 7 of 7.2.22.
    pub major: u32,
    /// The 2 of 7.2.22.
    pub minor: u32,
    /// The 22 of 7.2.22.
    pub micro: u32,
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody {
    #[serde(default)]
    pub(super) class: String,
    #[serde(default)]
    pub(super) desc: String,
}

/// Something that happened without being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name in the schema, such as `SHUTDOWN`.
    pub name: String,
    /// Its members; `Null` where it has none.
    pub data: Value,
}

/// What the machine is doing: QEMU's `RunState`, by its names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RunState {
    /// Started with `-S` and not yet told to go.
    Prelaunch,
    /// The guest runs.
    Running,
    /// Stopped by a command.
    Paused,
    /// Stopped by a disk error that the guest was not told about.
    IoError,
    /// The guest panicked.
    GuestPanicked,
    /// KVM cannot go on.
    InternalError,
    /// Shut down, the process still there.
    Shutdown,
    /// A state that is not in this list.
    #[serde(other)]
    Other,
}

/// The answer to `query-status`.
#[derive(Debug, Deserialize)]
pub(super) struct StatusInfo {
    pub(super) status: RunState,
}

/// What a drive has read and written since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockStats {
    /// Its node name.
    pub node: String,
    /// Bytes read by the guest.
    pub read_bytes: u64,
    /// Bytes written by the guest.
    pub written_bytes: u64,
    /// Read requests.
    pub reads: u64,
    /// Write requests.
    pub writes: u64,
}

/// One element of the answer to `query-blockstats`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct BlockStatsBody {
    node_name: Option<String>,
    stats: BlockCounters,
}

#[derive(Debug, Deserialize)]
struct BlockCounters {
    #[serde(default)]
    rd_bytes: u64,
    #[serde(default)]
    wr_bytes: u64,
    #[serde(default)]
    rd_operations: u64,
    #[serde(default)]
    wr_operations: u64,
}

impl BlockStatsBody {
    /// The counters by node; `None` for a drive without a named node.
    pub(super) fn into_stats(self) -> Option<BlockStats> {
        Some(BlockStats {
            node: self.node_name?,
            read_bytes: self.stats.rd_bytes,
            written_bytes: self.stats.wr_bytes,
            reads: self.stats.rd_operations,
            writes: self.stats.wr_operations,
        })
    }
}
