//! Who asks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Who asks: somebody with an account, or anybody. Printed as `user:NAME`, `robot:NAME`, `anonymous`;
/// no two are printed the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Principal {
    /// Whoever shows nothing.
    Anonymous,
    /// A person, who has a password.
    User(AccountName),
    /// A program, which has a token.
    Robot(AccountName),
}

/// The name of a user or of a robot: `alice`, `ci@example.org`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AccountName(String); // Invariant: 1 to 128 of the characters below, the first a letter or digit.

/// Why a text names no account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` cannot be the name of an account; expected up to 128 letters, digits, `.`, `_`, `@`, `+` and \
     `-`, starting with a letter or a digit"
)]
pub struct AccountNameError {
    text: String,
}

/// Characters of a text that is no name which are shown.
const MAX_SHOWN: usize = 64;

impl AccountName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountName {
    type Err = AccountNameError;

    fn from_str(text: &str) -> Result<Self, AccountNameError> {
        let may_follow = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'@' | b'+' | b'-');
        let starts_well = text.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
        match starts_well && text.len() <= 128 && text.bytes().all(may_follow) {
            true => Ok(Self(text.to_owned())),
            false => {
                let shown: String = text.chars().take(MAX_SHOWN).collect();
                Err(AccountNameError { text: shown.escape_debug().to_string() })
            }
        }
    }
}

impl TryFrom<String> for AccountName {
    type Error = AccountNameError;

    fn try_from(text: String) -> Result<Self, AccountNameError> {
        text.parse()
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Robot(name) => write!(f, "robot:{name}"),
        }
    }
}

impl FromStr for Principal {
    type Err = AccountNameError;

    /// Reads what [`fmt::Display`] prints.
    fn from_str(text: &str) -> Result<Self, AccountNameError> {
        match text.split_once(':') {
            Some(("user", name)) => name.parse().map(Self::User),
            Some(("robot", name)) => name.parse().map(Self::Robot),
            None if text == "anonymous" => Ok(Self::Anonymous),
            _ => Err(AccountNameError { text: text.escape_debug().to_string() }),
        }
    }
}

impl TryFrom<String> for Principal {
    type Error = AccountNameError;

    fn try_from(text: String) -> Result<Self, AccountNameError> {
        text.parse()
    }
}

impl From<Principal> for String {
    fn from(principal: Principal) -> Self {
        principal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        let check = |text: &str, ok: bool| assert_eq!(text.parse::<AccountName>().is_ok(), ok, "{text}");
        check("alice", true);
        check("A.b-c_1", true);
        check("ci+deploy@example.org", true);
        check(&"a".repeat(128), true);
        check("", false);
        check(".alice", false);
        check("-alice", false);
        check("a:b", false);
        check("a/b", false);
        check("a b", false);
        check("älice", false);
        check(&"a".repeat(129), false);
    }

    #[test]
    fn a_principal_reads_back_as_it_prints() {
        let alice: AccountName = "alice".parse().unwrap();
        for principal in [Principal::Anonymous, Principal::User(alice.clone()), Principal::Robot(alice)] {
            assert_eq!(principal.to_string().parse(), Ok(principal));
        }
        assert!("alice".parse::<Principal>().is_err());
        assert!("root:alice".parse::<Principal>().is_err());
        assert_eq!("user:anonymous".parse::<Principal>().unwrap().to_string(), "user:anonymous");
    }

    #[test]
    fn what_is_no_name_is_shown_escaped_and_cut_short() {
        let error = format!("\x1b[2J{}", "a".repeat(500)).parse::<AccountName>().unwrap_err().to_string();
        assert!(error.starts_with("`\\u{1b}[2Ja") && error.len() < 300, "{error}");
    }
}
