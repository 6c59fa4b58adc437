//! `push`: an appliance, from the local store to a registry.
//!
//! ```text
//! ask for each blob (HEAD) --> mount or upload those that are missing --> manifests by digest --> index by tag
//! ```
//!
//! The tag comes last, so nobody ever finds it leading to something incomplete. Documents go as the bytes
//! that they are here. What is pushed is everything that the index leads to, appliance or not: an index
//! may list an ordinary container image too.
//!
//! Source: OCI distribution-spec 1.1, "Push".

use std::collections::HashSet;

use appliance::manifest::MAX_BYTES;
use appliance::{Blob, Digest, Reference, Version};
use blob_store::{LocalStore, LocalStoreError};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};

use crate::document::{Document, DocumentError, Kind};
use crate::mount::{self, Source};
use crate::on_thread::on_thread;
use crate::progress::{Event, Plan};
use crate::resolve::claimed_digest;
use crate::session::{Access, Call, Session};
use crate::upload::{Arrival, Uploader};
use crate::{Client, Progress, RequestError};

/// A finished push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// What the reference names in the registry now.
    pub digest: Digest,
    /// Blobs that were uploaded.
    pub uploaded_blobs: usize,
    /// Their bytes.
    pub uploaded_bytes: u64,
    /// Blobs that the registry had already, in this repository or another.
    pub present_blobs: usize,
    /// Their bytes.
    pub present_bytes: u64,
}

/// Why a push did not finish. In the registry the reference names what it named before; blobs that got
/// there are found by the next attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The reference has no host.
    #[error("`{reference}` names no registry; expected HOST/NAME, such as localhost:5000/{reference}")]
    NoRegistry {
        /// The reference.
        reference: Reference,
    },
    /// The registry failed or refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The registry failed or refused in the middle of a blob.
    #[error("blob {blob} did not get there")]
    Blob {
        /// The blob.
        blob: Digest,
        /// The reason.
        #[source]
        source: RequestError,
    },
    /// The index lists a manifest that is neither here nor there, say of a platform that was not pulled.
    #[error("the index of {reference} lists manifest {manifest}, which is neither here nor in the registry")]
    Incomplete {
        /// The reference.
        reference: Reference,
        /// The manifest.
        manifest: Digest,
    },
    /// A document in the local store is neither a manifest nor an index.
    #[error("{document} in the local store cannot be pushed")]
    Document {
        /// Its digest.
        document: Digest,
        /// The reason.
        #[source]
        source: DocumentError,
    },
    /// An index that lists another index.
    #[error("{document} in the local store is an index inside an index; appliances have none")]
    Nested {
        /// The inner index.
        document: Digest,
    },
    /// The local copy does not have the size in its descriptor.
    #[error("blob {blob} has {found} bytes in the local store; its descriptor says {wanted}")]
    WrongSize {
        /// The blob.
        blob: Digest,
        /// The size of the local copy.
        found: u64,
        /// The size in the descriptor.
        wanted: u64,
    },
    /// The local store failed, or lacks what is to be pushed.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
}

impl PushError {
    /// The request that failed, where that is the reason.
    pub fn request(&self) -> Option<&RequestError> {
        match self {
            Self::Request(error) | Self::Blob { source: error, .. } => Some(error),
            _ => None,
        }
    }
}

impl Client {
    /// Copies what `reference` names in `store` to the registry in `reference`, under the same name.
    ///
    /// # Errors
    ///
    /// [`PushError`]. The same push may be tried again; what got there is not sent again.
    pub async fn push(
        &self,
        reference: &Reference,
        store: &LocalStore,
        progress: &dyn Progress,
    ) -> Result<Pushed, PushError> {
        let registry =
            reference.host().ok_or_else(|| PushError::NoRegistry { reference: reference.clone() })?;
        let session = Session::new(self, registry, reference, Access::PullPush)?;
        let push = Push { session: &session, reference, store, progress };
        push.run().await
    }
}

#[derive(Clone, Copy)]
struct Push<'a> {
    session: &'a Session<'a>,
    reference: &'a Reference,
    store: &'a LocalStore,
    progress: &'a dyn Progress,
}

/// A document of the local store, and what it leads to.
struct Stored {
    digest: Digest,
    bytes: Bytes,
    document: Document,
}

/// What has to be in the registry at the end.
pub(crate) struct Tree {
    root: Stored,
    /// What an index lists and the store has.
    manifests: Vec<Stored>,
    /// What an index lists and the store does not have.
    absent: Vec<Digest>,
    /// What the manifests lead to, each once.
    pub(crate) blobs: Vec<Blob>,
    seen: HashSet<Digest>,
}

impl<'a> Push<'a> {
    async fn run(self) -> Result<Pushed, PushError> {
        let store = self.store.clone();
        let _hold = on_thread(move || store.hold()).await?;
        let (store, reference) = (self.store.clone(), self.reference.clone());
        let tree = on_thread(move || Tree::load(&store, &reference)).await?;
        for manifest in &tree.absent {
            self.expect_manifest(manifest).await?;
        }
        let missing = self.missing(&tree.blobs).await?;
        self.progress.report(Event::Planned(Plan::new(&tree.blobs, &missing)));
        let sent = self.send(missing).await?;
        for manifest in &tree.manifests {
            self.put(manifest, &Version::Digest(manifest.digest)).await?;
        }
        self.put(&tree.root, self.reference.version()).await?;
        let done = Plan::new(&tree.blobs, &sent);
        Ok(Pushed {
            digest: tree.root.digest,
            uploaded_blobs: done.blobs,
            uploaded_bytes: done.bytes,
            present_blobs: done.present_blobs,
            present_bytes: done.present_bytes,
        })
    }

    fn uploader<'u>(&'u self, sources: &'u [Source<'u>]) -> Uploader<'u> {
        Uploader { session: self.session, sources, store: self.store, progress: self.progress }
    }

    /// The blobs that the registry does not have, in their order.
    async fn missing(self, blobs: &[Blob]) -> Result<Vec<Blob>, PushError> {
        let uploader = self.uploader(&[]);
        // By value: futures over borrowed items are not `Send`, as far as the compiler can tell.
        let asked = blobs.iter().copied().map(|blob| async move {
            let present = uploader.is_present(&blob.digest).await?;
            Ok::<_, RequestError>((!present).then_some(blob))
        });
        let found: Vec<Option<Blob>> =
            stream::iter(asked).buffered(self.session.client.concurrency()).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Gets blobs there. Returns those that had to be sent.
    async fn send(self, blobs: Vec<Blob>) -> Result<Vec<Blob>, PushError> {
        let sources = self.sources(&blobs).await?;
        let uploader = self.uploader(&sources);
        let uploads = blobs.into_iter().map(|blob| async move {
            let arrival = uploader.upload(blob).await?;
            Ok::<_, PushError>((arrival == Arrival::Sent).then_some(blob))
        });
        let sent: Vec<Option<Blob>> =
            stream::iter(uploads).buffer_unordered(self.session.client.concurrency()).try_collect().await?;
        Ok(sent.into_iter().flatten().collect())
    }

    /// Where blobs may be mounted from.
    async fn sources(self, blobs: &[Blob]) -> Result<Vec<Source<'a>>, PushError> {
        let (store, reference, blobs) = (self.store.clone(), self.reference.clone(), blobs.to_owned());
        let guesses = on_thread(move || mount::guesses(&store, &reference, &blobs)).await?;
        let source = |guess| Source::new(self.session, self.reference, guess);
        Ok(guesses.into_iter().map(source).collect::<Result<_, _>>()?)
    }

    async fn expect_manifest(self, manifest: &Digest) -> Result<(), PushError> {
        let what = self.reference.with_digest(*manifest).to_string();
        let url = self.session.manifest_url(&Version::Digest(*manifest));
        match self.session.send(&Call::new(Method::HEAD, url, &what, &[StatusCode::OK]), self.progress).await
        {
            Ok(_) => Ok(()),
            Err(RequestError::NotFound { .. }) => {
                Err(PushError::Incomplete { reference: self.reference.clone(), manifest: *manifest })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn put(self, stored: &Stored, version: &Version) -> Result<(), PushError> {
        let what = format!("manifest {version}");
        let url = self.session.manifest_url(version);
        let call = Call::new(Method::PUT, url, &what, &[StatusCode::CREATED, StatusCode::OK])
            .header(CONTENT_TYPE, &stored.document.media_type)
            .body(stored.bytes.clone());
        let response = self.session.send(&call, self.progress).await?;
        match claimed_digest(response.headers()) {
            Some(found) if found.algorithm() == stored.digest.algorithm() && found != stored.digest => {
                Err(RequestError::protocol(&what, found.to_string(), stored.digest.to_string()).into())
            }
            _ => Ok(()),
        }
    }
}

impl Tree {
    pub(crate) fn load(store: &LocalStore, reference: &Reference) -> Result<Self, PushError> {
        let root = Stored::load(store, store.resolve(reference)?)?;
        let (manifests, absent, blobs, seen) = Default::default();
        let mut tree = Self { root, manifests, absent, blobs, seen };
        if tree.root.document.kind == Kind::Manifest {
            tree.add_blobs(&tree.root.document.children.clone());
            return Ok(tree);
        }
        for child in tree.root.document.children.clone() {
            if !store.contains(&child.digest) {
                tree.absent.push(child.digest);
                continue;
            }
            let manifest = Stored::load(store, child.digest)?;
            if manifest.document.kind == Kind::Index {
                return Err(PushError::Nested { document: child.digest });
            }
            tree.add_blobs(&manifest.document.children);
            tree.manifests.push(manifest);
        }
        Ok(tree)
    }

    fn add_blobs(&mut self, blobs: &[Blob]) {
        for blob in blobs {
            if self.seen.insert(blob.digest) {
                self.blobs.push(*blob);
            }
        }
    }
}

impl Stored {
    fn load(store: &LocalStore, digest: Digest) -> Result<Self, PushError> {
        let bytes: Bytes = store.read(&digest, MAX_BYTES)?.into();
        let document =
            Document::parse(&bytes).map_err(|source| PushError::Document { document: digest, source })?;
        Ok(Self { digest, bytes, document })
    }
}
