//! The tokens of robots: what a program shows instead of a user's password.
//!
//! ```text
//! hull_  <account, 16 hex digits>  <secret, 64 hex digits>
//! ```
//!
//! The first word is there so that scanners find tokens that lie where they should not. The account
//! is a hash of the robot's name and leads to its record; the secret is 256 random bits, so that its
//! plain sha256 gives nobody a start.

use appliance::Digest;
use serde::{Deserialize, Serialize};

use super::principal::AccountName;
use super::secret::Secret;
use crate::random;

/// What all tokens begin with.
const HEAD: &str = "hull_";
const ACCOUNT_DIGITS: usize = 16;
const SECRET_BYTES: usize = 32;

/// Which robot: leads to its record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RobotId(String); // Invariant: 16 lower-case hex digits.

/// A token, as it was shown.
pub(crate) struct RobotToken {
    pub(crate) id: RobotId,
    secret: [u8; SECRET_BYTES],
}

/// What is kept of a token: enough to know it again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct StoredToken(String);

impl RobotId {
    pub(crate) fn of(name: &AccountName) -> Self {
        let mut hex = Digest::sha256(name.as_str().as_bytes()).hex();
        hex.truncate(ACCOUNT_DIGITS);
        Self(hex)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl RobotToken {
    /// A new token for a robot.
    pub(crate) fn draw(name: &AccountName) -> Self {
        Self { id: RobotId::of(name), secret: random::bytes() }
    }

    /// Reads what a client showed; `None` if it is no token of a robot.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, hex) = text.strip_prefix(HEAD)?.split_at_checked(ACCOUNT_DIGITS)?;
        let is_canonical = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        let mut secret = [0; SECRET_BYTES];
        hex::decode_to_slice(hex, &mut secret).ok()?;
        (id.bytes().all(is_canonical) && hex.bytes().all(is_canonical))
            .then(|| Self { id: RobotId(id.to_owned()), secret })
    }

    /// The text for the robot. It is shown once.
    pub(crate) fn show(&self) -> Secret {
        Secret::new(format!("{HEAD}{}{}", self.id.0, hex::encode(self.secret)))
    }

    /// What is kept. Comparing it takes no care: whoever knows which hash is wanted cannot choose a
    /// secret that has it.
    pub(crate) fn stored(&self) -> StoredToken {
        StoredToken(Digest::sha256(&self.secret).hex())
    }
}

impl StoredToken {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for RobotToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RobotToken(***)")
    }
}

impl std::fmt::Debug for StoredToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoredToken(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_to_its_robot_and_is_known_again() {
        let ci: AccountName = "ci".parse().unwrap();
        let token = RobotToken::draw(&ci);
        let shown = token.show();
        assert_eq!(shown.reveal().len(), 85);
        assert!(shown.reveal().starts_with("hull_"));
        let read = RobotToken::parse(shown.reveal()).unwrap();
        assert_eq!((&read.id, read.stored()), (&RobotId::of(&ci), token.stored()));
        assert_ne!(RobotToken::draw(&ci).stored(), token.stored());
        assert_eq!(format!("{shown:?} {token:?}"), "Secret(***) RobotToken(***)");
    }

    #[test]
    fn other_texts_are_no_tokens() {
        let good = format!("hull_{}", "a".repeat(80));
        assert!(RobotToken::parse(&good).is_some());
        for bad in [
            String::new(),
            "hull_".to_owned(),
            good[..84].to_owned(),
            format!("{good}a"),
            good.to_uppercase(),
            good.replace("hull_", "Hull_"),
            good.replace("hull_a", "hull_A"),
            good.replace("hull_aaaa", "hull_../"),
            good.replace("hull_aaaaaaaaaaaaaaaa", "hull_aaaaaaaaaaaaaaaä"),
        ] {
            assert!(RobotToken::parse(&bad).is_none(), "{bad}");
        }
    }
}
