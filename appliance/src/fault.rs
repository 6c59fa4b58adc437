//! A value that cannot be, and where in its document it stands.
//!
//! What a document says is judged here alone; a reader of another form of it (`hull.toml`) knows from
//! the place which of its own lines to show. Never says what is wrong: that is the error's business.
//!
//! Source: RFC 6901 (JSON Pointer).

use std::fmt::Display;

/// An error about one value of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault<E> {
    /// The value, as a JSON pointer such as `/machines/0/memoryBytes`; empty for the whole document.
    pub at: String,
    /// What is wrong with it.
    pub error: E,
}

impl<E> Fault<E> {
    /// An error about the value at `place`, such as `memoryBytes` or `disks/3`.
    pub(crate) fn new(place: impl Display, error: E) -> Self {
        Self { at: format!("/{place}"), error }
    }

    /// The same, where the document is the value at `outer` of another one.
    pub(crate) fn within(self, outer: impl Display) -> Self {
        Self { at: format!("/{outer}{}", self.at), error: self.error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_from_the_outside_in() {
        let fault = Fault::new("name", ()).within(format_args!("disks/{}", 3)).within("machines/0");
        assert_eq!(fault.at, "/machines/0/disks/3/name");
    }
}
