//! Text that is shown to nobody by accident: its `Debug` is a mask, and it has no `Display`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::random;

/// A password or a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A new password: 24 characters, 144 bits at random.
    pub fn draw() -> Self {
        Self(URL_SAFE_NO_PAD.encode(random::bytes::<18>()))
    }

    /// The hidden text, for whoever checks it, or shows it to its owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
