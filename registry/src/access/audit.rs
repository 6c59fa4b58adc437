//! What is worth remembering of who did what.

use std::fmt;
use std::net::IpAddr;

use appliance::Digest;

/// Somebody changed something, or tried to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audit {
    /// Who: `user:NAME`, `robot:NAME`, `anonymous`, or `operator` for the command line. Of a login that
    /// failed, who was claimed to be there; control characters are escaped.
    pub principal: String,
    /// From where; `None` for the command line.
    pub address: Option<IpAddr>,
    /// What.
    pub action: AuditedAction,
    /// Where, if it is about a repository.
    pub repository: Option<String>,
    /// The tag, or several with `,` between them, or the account, if it is about one.
    pub object: Option<String>,
    /// The content, if it is about some.
    pub digest: Option<Digest>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditedAction {
    /// Something was read. Only told where it was denied.
    Pull,
    /// A manifest was pushed; with tags, they moved. Where it was denied, anything was to be pushed.
    Push,
    /// A blob was pushed, or mounted.
    PushBlob,
    /// A tag was deleted, or a manifest, or a blob.
    Delete,
    /// Somebody wanted to be somebody.
    LogIn,
    /// A user was added.
    AddUser,
    /// A user has another password.
    SetPassword,
    /// A user has other rights.
    SetGrants,
    /// A user was removed.
    RemoveUser,
    /// A robot was added.
    AddRobot,
    /// A robot's token was made worth nothing.
    RevokeRobot,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was done.
    Done,
    /// Whoever asked may not, or is not who they say.
    Denied,
    /// It was wrong, or went wrong.
    Failed,
}

impl fmt::Display for AuditedAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::PushBlob => "push-blob",
            Self::Delete => "delete",
            Self::LogIn => "log-in",
            Self::AddUser => "add-user",
            Self::SetPassword => "set-password",
            Self::SetGrants => "set-grants",
            Self::RemoveUser => "remove-user",
            Self::AddRobot => "add-robot",
            Self::RevokeRobot => "revoke-robot",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Denied => "denied",
            Self::Failed => "failed",
        })
    }
}
