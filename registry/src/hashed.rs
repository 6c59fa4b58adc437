//! The hash of what an upload holds, as far as that has been hashed.

use appliance::{Algorithm, Digest, Hasher};
use blob_store::Session;

/// The hash of the first `bytes` bytes.
#[derive(Debug)]
pub(crate) struct Hashed {
    algorithm: Algorithm,
    hasher: Hasher,
    bytes: u64,
    /// Of the session when it held these bytes. Another server may have put others in their place since.
    revision: u64,
}

impl Hashed {
    /// Nothing, so far.
    pub(crate) fn new(algorithm: Algorithm, session: &dyn Session) -> Self {
        Self { algorithm, hasher: Hasher::new(algorithm), bytes: 0, revision: session.revision() }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Takes the next piece.
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
    }

    /// The session has become durable with these bytes.
    pub(crate) fn synced(&mut self, session: &dyn Session) {
        self.revision = session.revision();
    }

    /// Whether it is the hash of what the session holds.
    pub(crate) fn is_of(&self, session: &dyn Session) -> bool {
        (self.bytes, self.revision) == (session.size_bytes(), session.revision())
    }

    pub(crate) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}
