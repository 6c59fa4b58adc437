//! What those who run a registry ask of it: accounts, garbage collection, a scrub.
//!
//! A folder that a server serves is that server's alone. So an [`Operator`] either opens the storage
//! itself, or speaks to the server that has it, and whoever gives the orders need not care which:
//!
//! ```text
//! Operator --+--> Keeper: Access, Caretaker                                        nobody else has the storage
//!            `--> <data>/.control/socket --> http::control --> Keeper of the server     a server has it
//! ```
//!
//! - The socket is a Unix socket in a folder that only the server's user can enter, and the server asks
//!   the kernel besides who has connected. Nothing else protects it, and passwords cross it as they are.
//! - An order is one request of HTTP/1, `POST /` with JSON, and is answered when it is done, which may
//!   take hours: there is no time limit. An operator who goes away stops a scrub.

mod client;
mod keeper;
mod operator;
mod socket;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::client::LinkError;
pub(crate) use self::keeper::Keeper;
pub use self::operator::{Operator, OperatorError};
pub(crate) use self::socket::Control;
use crate::access::principal::AccountName;
use crate::access::right::Grant;
use crate::access::secret::Secret;
use crate::access::{Expiry, Imported, RobotInfo, UserInfo};
use crate::lifecycle::{Collected, Mode, Scrubbed};

/// What an operator wants. As JSON this is an object with one key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Order {
    Collect {
        mode: Mode,
    },
    Scrub {
        mode: Mode,
        /// Bytes per second.
        rate: Option<u64>,
    },
    Users,
    AddUser {
        name: AccountName,
        #[serde(with = "revealed")]
        password: Secret,
        grants: Vec<Grant>,
    },
    SetPassword {
        name: AccountName,
        #[serde(with = "revealed")]
        password: Secret,
    },
    SetGrants {
        name: AccountName,
        grants: Vec<Grant>,
    },
    RemoveUser {
        name: AccountName,
    },
    /// `text` is a whole htpasswd file.
    ImportHtpasswd {
        #[serde(with = "revealed")]
        text: Secret,
        grants: Vec<Grant>,
    },
    Robots,
    AddRobot {
        name: AccountName,
        grants: Vec<Grant>,
        expiry: Expiry,
    },
    RevokeRobot {
        name: AccountName,
    },
}

/// What came of an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    Done,
    Collected(Collected),
    Scrubbed(Scrubbed),
    Users(Vec<UserInfo>),
    Imported(Imported),
    Robots(Vec<RobotInfo>),
    #[serde(with = "revealed")]
    Token(Secret),
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What is the matter.
    pub reason: Reason,
    /// A sentence with all that is known about it.
    pub message: String,
}

/// What is the matter with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// The account is there already.
    Exists,
    /// There is no such account.
    Unknown,
    /// It asks for what cannot be.
    Invalid,
    /// The storage failed, or what lies in it is damaged.
    Failed,
}

/// Secrets, as they cross the socket.
mod revealed {
    use super::{Deserialize as _, Deserializer, Secret, Serializer};

    pub(super) fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.reveal())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(Secret::new)
    }
}
