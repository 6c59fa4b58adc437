//! Blobs that a registry has in another repository: one request brings them over, and nothing is sent.
//!
//! ```text
//! POST /v2/<name>/blobs/uploads/?mount=<digest>&from=<source>   201: it is there   202: an upload is open
//! ```
//!
//! Where a blob lies is a guess: from another repository of the same registry that the local store has an
//! appliance of. Without a guess the registry may find a source itself. Nothing rests on it: who cannot
//! mount, for whatever reason, uploads.
//!
//! Source: OCI distribution-spec 1.1, "Mounting a blob from another repository" (end-11).

use std::collections::HashSet;

use appliance::{Blob, Digest, Reference};
use blob_store::{LocalStore, LocalStoreError};

use crate::RequestError;
use crate::push::Tree;
use crate::session::{Access, Session};

/// The most repositories that are tried; each costs a login of its own, where one is asked for.
const MAX_SOURCES: usize = 8;

/// A repository that some of the blobs probably are in.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// A conversation about the repository that is pushed to, which may read this one too.
    pub(crate) session: Session<'a>,
    pub(crate) name: String,
    blobs: HashSet<Digest>,
}

/// Some of the blobs that are pushed, and whose they are.
#[derive(Debug)]
pub(crate) struct Guess {
    name: String,
    blobs: HashSet<Digest>,
}

impl<'a> Source<'a> {
    /// The source of `guess` for a push of `reference` by `session`.
    pub(crate) fn new(
        session: &Session<'a>,
        reference: &Reference,
        guess: Guess,
    ) -> Result<Self, RequestError> {
        let Guess { name, blobs } = guess;
        let session = Session::new(session.client, &session.registry, reference, Access::PullPush)?;
        Ok(Self { session: session.reading_too(&name), name, blobs })
    }

    pub(crate) fn has(&self, blob: &Digest) -> bool {
        self.blobs.contains(blob)
    }
}

/// Where else in the registry of `reference` the `wanted` blobs may be, as far as `store` knows. Each blob
/// is in one guess at most.
pub(crate) fn guesses(
    store: &LocalStore,
    reference: &Reference,
    wanted: &[Blob],
) -> Result<Vec<Guess>, LocalStoreError> {
    let mut wanted: HashSet<Digest> = wanted.iter().map(|blob| blob.digest).collect();
    let mut guesses: Vec<Guess> = Vec::new();
    if wanted.is_empty() {
        return Ok(guesses);
    }
    let is_elsewhere =
        |other: &Reference| other.host() == reference.host() && other.name() != reference.name();
    for other in store.references()?.into_iter().map(|tagged| tagged.reference).filter(is_elsewhere) {
        // One that cannot be read is no source, and no reason not to push this one.
        let Ok(tree) = Tree::load(store, &other) else { continue };
        let found = tree.blobs.iter().filter_map(|blob| wanted.take(&blob.digest));
        match guesses.last_mut().filter(|last| last.name == other.name()) {
            Some(last) => last.blobs.extend(found),
            None => guesses.push(Guess { name: other.name().to_owned(), blobs: found.collect() }),
        }
        guesses.pop_if(|last| last.blobs.is_empty());
        if wanted.is_empty() || guesses.len() == MAX_SOURCES {
            break;
        }
    }
    Ok(guesses)
}
