//! Bearer tokens: what a client shows instead of a password, for five minutes.
//!
//! ```text
//! base64url( {"principal","credential","scopes","issued","expires"} ) . base64url( HMAC-SHA256 of that )
//! ```
//!
//! Opaque to clients. A token says who asks and for what; what they may do is looked up at each
//! request, so a token gives nothing that its holder has lost since. `credential` tells which password
//! or robot's token it was issued for: when that is replaced, the bearer token is worth nothing.
//!
//! The key is random and lies in the storage, so all servers on one storage take one another's tokens.
//!
//! Source: RFC 2104; docker's "Token Authentication Specification".

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::principal::Principal;
use super::scope::Scopes;
use crate::clock::Time;

/// How long a token holds.
pub(crate) const LIFE: Duration = Duration::from_secs(5 * 60);
/// How far ahead the clock of another server on the same storage may be.
const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Longest text that is looked at: more than 32 scopes of the longest names take.
const MAX_TEXT: usize = 16 << 10;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) principal: Principal,
    /// Which of their passwords, or tokens, was shown. Not a secret.
    pub(crate) credential: String,
    pub(crate) scopes: Scopes,
    pub(crate) issued: Time,
    pub(crate) expires: Time,
}

/// The key that tokens are signed with.
#[derive(Clone)]
pub(crate) struct TokenKey(Hmac<Sha256>);

impl Token {
    pub(crate) fn new(principal: Principal, credential: String, scopes: Scopes, now: Time) -> Self {
        Self { principal, credential, scopes, issued: now, expires: now.after(LIFE) }
    }

    /// True if the token is good at this time.
    pub(crate) fn holds_at(&self, time: Time) -> bool {
        self.issued <= time.after(CLOCK_SKEW) && time < self.expires
    }
}

impl TokenKey {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("a key of any length does"))
    }

    pub(crate) fn sign(&self, token: &Token) -> String {
        let payload = serde_json::to_vec(token).expect("tokens serialise as JSON");
        let mac = self.0.clone().chain_update(&payload).finalize().into_bytes();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(mac))
    }

    /// What a token says, if we have issued it, however long ago. Nothing is read of others.
    pub(crate) fn verify(&self, text: &str) -> Option<Token> {
        let (payload, mac) = Some(text).filter(|text| text.len() <= MAX_TEXT)?.split_once('.')?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        // Takes as long wherever the difference is.
        self.0.clone().chain_update(&payload).verify_slice(&mac).ok()?;
        serde_json::from_slice(&payload).ok()
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::right::Action;
    use crate::name::RepositoryName;

    fn token(scope: &str) -> Token {
        let principal = "user:alice".parse().unwrap();
        Token::new(principal, "abc".to_owned(), Scopes::parse([scope]), Time::from_secs(1000))
    }

    #[test]
    fn what_was_signed_reads_back() {
        let key = TokenKey::new(&[1; 32]);
        let token = token("repository:team/web:pull,push");
        let text = key.sign(&token);
        assert_eq!(key.verify(&text), Some(token.clone()));
        assert!(token.scopes.allow(Action::Push, &RepositoryName::parse("team/web").unwrap()));
        assert!(text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_')), "{text}");
    }

    #[test]
    fn nothing_else_is_taken() {
        let key = TokenKey::new(&[1; 32]);
        let text = key.sign(&token("repository:a:pull"));
        let (payload, mac) = text.split_once('.').unwrap();
        let other = key.sign(&token("repository:a:push"));
        let (other_payload, _) = other.split_once('.').unwrap();
        for bad in [
            format!("{other_payload}.{mac}"),
            format!("{payload}."),
            format!("{payload}.{}", &mac[..20]),
            format!("{payload}.{mac}AA"),
            payload.to_owned(),
            format!(".{mac}"),
            String::new(),
            "a.b.c".to_owned(),
            "x".repeat(1 << 20),
            TokenKey::new(&[2; 32]).sign(&token("repository:a:pull")),
        ] {
            assert_eq!(key.verify(&bad), None, "{bad:.100}");
        }
    }

    #[test]
    fn a_token_holds_for_five_minutes() {
        let token = token("");
        let check = |second, want| assert_eq!(token.holds_at(Time::from_secs(second)), want, "{second}");
        check(939, false); // issued by nobody whose clock is right
        check(940, true);
        check(1000, true);
        check(1299, true);
        check(1300, false);
    }

    #[test]
    fn the_longest_token_is_read_and_fits_in_a_header() {
        let key = TokenKey::new(&[1; 32]);
        let scopes: Vec<_> = (0..100).map(|n| format!("repository:{n:0255}:*")).collect();
        let text = key.sign(&token(&scopes.join(" ")));
        assert!(text.len() <= MAX_TEXT, "{}", text.len());
        assert!(key.verify(&text).is_some());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_looked_at_without_a_panic(text in "\\PC{0,80}|[a-zA-Z0-9_.-]{0,80}") {
            proptest::prop_assert_eq!(TokenKey::new(&[1; 32]).verify(&text), None);
        }
    }
}
