//! A container image, from a registry into files without names: its config and its layers.
//!
//! For images that somebody looks into, not for appliances, which [`pull`](crate::Client::pull) copies. Every byte is
//! checked against the digest that leads to it before it is handed out, no layer may be longer than its descriptor
//! says, and all of them together no longer than the caller accepts.
//!
//! Source: OCI distribution-spec 1.1, "Pull"; image-spec 1.1, "Image Index", "Image Manifest"; Docker's image manifest
//! version 2, schema 2, which has the same shape.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use appliance::manifest::MAX_BYTES;
use appliance::{Blob, Digest, DigestError, Hasher, Reference, Version, media_type};
use bytes::Bytes;
use reqwest::header::{ACCEPT, RANGE};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use crate::fetch::content_range;
use crate::progress::{Event, Plan};
use crate::session::{Access, Call, Session};
use crate::{Client, Progress, RequestError};

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The most layers of an image: what container engines accept.
const MAX_LAYERS: usize = 128;

/// A container image, fetched.
#[derive(Debug)]
pub struct FetchedImage {
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Its config, as JSON.
    pub config: Vec<u8>,
    /// Its layers, the lowest first, as the registry has them: compressed or not. The files have no names.
    pub layers: Vec<File>,
}

/// Why an image was not fetched. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchImageError {
    /// The reference has no host.
    #[error("`{reference}` names no registry; expected HOST/NAME, such as quay.io/{reference}")]
    NoRegistry {
        /// The reference.
        reference: Reference,
    },
    /// The registry failed or refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What was fetched is not what its digest promises.
    #[error("the registry sent {what} with digest {found}; {wanted} was promised")]
    WrongDigest {
        /// What was fetched.
        what: String,
        /// Its digest.
        found: Digest,
        /// The digest that was promised.
        wanted: Digest,
    },
    /// A descriptor names no content.
    #[error("a descriptor of {reference} has no usable digest")]
    BadDigest {
        /// The image.
        reference: Reference,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// What the reference names is no index or manifest.
    #[error("what {reference} names is not as the OCI image specification says")]
    Malformed {
        /// The reference.
        reference: Reference,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// What the reference names is something else.
    #[error("{reference} is no container image; it is for hull, or for somebody else")]
    NotAnImage {
        /// The reference.
        reference: Reference,
    },
    /// An index without an image for this architecture.
    #[error("{reference} has no image for linux/{wanted}")]
    NoPlatform {
        /// The reference.
        reference: Reference,
        /// The architecture that was asked for.
        wanted: String,
    },
    /// The image is larger than was accepted, or has more layers than any.
    #[error(
        "{reference} has {found_bytes} bytes in {layers} layers; accepted are {most_bytes} in {MAX_LAYERS}"
    )]
    TooLarge {
        /// The reference.
        reference: Reference,
        /// The layers' bytes together, as their descriptors say.
        found_bytes: u64,
        /// How many layers there are.
        layers: usize,
        /// The most bytes that are accepted.
        most_bytes: u64,
    },
    /// A layer cannot be written.
    #[error("cannot write a layer in `{}`", folder.display())]
    Write {
        /// Where it was to be.
        folder: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// What is read of an index or a manifest.
#[derive(Debug, Deserialize)]
struct Document {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

impl Client {
    /// Fetches the container image that `reference` names, for Linux on `architecture` (such as `amd64`), into files
    /// without names in `folder`; at most `most_bytes` of layers.
    ///
    /// # Errors
    ///
    /// [`FetchImageError`].
    pub async fn fetch_image(
        &self,
        reference: &Reference,
        architecture: &str,
        (folder, most_bytes): (&Path, u64),
        progress: &dyn Progress,
    ) -> Result<FetchedImage, FetchImageError> {
        let no_registry = || FetchImageError::NoRegistry { reference: reference.clone() };
        let registry = reference.host().ok_or_else(no_registry)?;
        let session = Session::new(self, registry, reference, Access::Pull)?;
        let fetch = Fetch { session: &session, reference, folder, progress };
        fetch.run(architecture, most_bytes).await
    }
}

#[derive(Clone, Copy)]
struct Fetch<'a> {
    session: &'a Session<'a>,
    reference: &'a Reference,
    folder: &'a Path,
    progress: &'a dyn Progress,
}

impl Fetch<'_> {
    async fn run(self, architecture: &str, most_bytes: u64) -> Result<FetchedImage, FetchImageError> {
        let mut bytes = self.document(self.reference.version()).await?;
        let mut document = self.parse(&bytes)?;
        if let Some(manifests) = &document.manifests {
            let chosen = self.blob(self.select(manifests, architecture)?)?;
            bytes = self.document(&Version::Digest(chosen.digest)).await?;
            document = self.parse(&bytes)?;
        }
        let not_an_image = || FetchImageError::NotAnImage { reference: self.reference.clone() };
        let (Some(config), Some(layers)) = (document.config, document.layers) else {
            return Err(not_an_image());
        };
        let layers = layers.iter().map(|layer| self.blob(layer)).collect::<Result<Vec<_>, _>>()?;
        let found_bytes = layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size_bytes));
        if found_bytes > most_bytes || layers.len() > MAX_LAYERS {
            let (reference, layers) = (self.reference.clone(), layers.len());
            return Err(FetchImageError::TooLarge { reference, found_bytes, layers, most_bytes });
        }
        self.progress.report(Event::Planned(Plan::new(&layers, &layers)));
        let config = self.config(self.blob(&config)?).await?;
        let mut files = Vec::new();
        for layer in layers {
            files.push(self.layer(layer).await?);
        }
        Ok(FetchedImage { manifest: Digest::sha256(&bytes), config, layers: files })
    }

    /// The entry for `architecture`; the only one, whatever it is for.
    fn select<'m>(
        self,
        manifests: &'m [Descriptor],
        architecture: &str,
    ) -> Result<&'m Descriptor, FetchImageError> {
        let is_wanted = |entry: &&Descriptor| {
            let platform = entry.platform.as_ref();
            platform.is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture)
        };
        match manifests {
            [only] => Ok(only),
            several => several.iter().find(is_wanted).ok_or_else(|| FetchImageError::NoPlatform {
                reference: self.reference.clone(),
                wanted: architecture.to_owned(),
            }),
        }
    }

    fn parse(self, bytes: &[u8]) -> Result<Document, FetchImageError> {
        let reference = || self.reference.clone();
        serde_json::from_slice(bytes)
            .map_err(|source| FetchImageError::Malformed { reference: reference(), source })
    }

    fn blob(self, descriptor: &Descriptor) -> Result<Blob, FetchImageError> {
        let digest = descriptor.digest.parse();
        let digest = digest
            .map_err(|source| FetchImageError::BadDigest { reference: self.reference.clone(), source })?;
        Ok(Blob { digest, size_bytes: descriptor.size })
    }

    /// A manifest or an index; what a tag names is taken as it comes.
    async fn document(self, version: &Version) -> Result<Bytes, FetchImageError> {
        let what = self.reference.to_string();
        let mut call = Call::new(Method::GET, self.session.manifest_url(version), &what, &[StatusCode::OK]);
        for kind in [media_type::INDEX, media_type::MANIFEST, DOCKER_LIST, DOCKER_MANIFEST] {
            call = call.header(ACCEPT, kind);
        }
        let (_, body) = self.session.read(&call, MAX_BYTES, self.progress).await?;
        if let Version::Digest(wanted) = *version {
            check(&what, &body, wanted)?;
        }
        Ok(body)
    }

    async fn config(self, config: Blob) -> Result<Vec<u8>, FetchImageError> {
        let what = format!("blob {}", config.digest);
        let url = self.session.blob_url(&config.digest);
        let call = Call::new(Method::GET, url, &what, &[StatusCode::OK]);
        let (_, body) = self.session.read(&call, MAX_BYTES, self.progress).await?;
        check(&what, &body, config.digest)?;
        Ok(body.to_vec())
    }

    /// One layer. After a failure it goes on where that was, if the registry can do that.
    async fn layer(self, layer: Blob) -> Result<File, FetchImageError> {
        let mut failures = self.session.failures();
        let file = tempfile::tempfile_in(self.folder).map_err(|source| self.unwritten(source))?;
        let mut arriving = Arriving { file, hasher: Hasher::new(layer.digest.algorithm()), bytes: 0 };
        self.progress.report(Event::Started { blob: layer, at_bytes: 0 });
        while arriving.bytes < layer.size_bytes {
            match self.attempt(layer, &mut arriving).await {
                Err(FetchImageError::Request(error)) => {
                    let have = arriving.bytes;
                    self.session.wait_or_give_up(&mut failures, error, have, self.progress).await?;
                }
                attempt => attempt?,
            }
        }
        match arriving.hasher.finish() {
            found if found == layer.digest => {
                self.progress.report(Event::Finished { blob: layer });
                Ok(arriving.file)
            }
            found => {
                let what = format!("blob {}", layer.digest);
                Err(FetchImageError::WrongDigest { what, found, wanted: layer.digest })
            }
        }
    }

    /// One request for what has not arrived of a layer. What arrives is kept, however it ends.
    async fn attempt(self, layer: Blob, arriving: &mut Arriving) -> Result<(), FetchImageError> {
        let what = format!("blob {}", layer.digest);
        let (wanted, start) = (layer.size_bytes, arriving.bytes);
        let statuses = [StatusCode::OK, StatusCode::PARTIAL_CONTENT, StatusCode::RANGE_NOT_SATISFIABLE];
        let url = self.session.blob_url(&layer.digest);
        let mut call = Call::new(Method::GET, url, &what, &statuses[..1]);
        if start > 0 {
            call = call.header(RANGE, &format!("bytes={start}-{}", wanted - 1));
            call.wanted = &statuses;
        }
        let mut response = self.session.send_once(&call).await?;
        let goes_on = response.status() == StatusCode::PARTIAL_CONTENT
            && content_range(response.headers()).is_some_and(|range| range.first == start);
        if start > 0 && !goes_on {
            arriving.restart(layer).map_err(|source| self.unwritten(source))?;
            self.progress.report(Event::Resumed { blob: layer, at_bytes: 0 });
        }
        let announced = response.content_length().filter(|_| !goes_on);
        match (response.status(), announced) {
            (StatusCode::OK, Some(announced)) if announced != wanted => {
                let (found, wanted) = (format!("{announced} bytes"), format!("{wanted}, as promised"));
                return Err(RequestError::protocol(&what, found, wanted).into());
            }
            (status, _) if !goes_on && status != StatusCode::OK => {
                // This registry cannot go on in the middle; the next attempt begins anew.
                return Err(RequestError::Short { what, found: 0, wanted }.into());
            }
            _ => {}
        }
        while let Some(piece) = self.session.piece(&mut response).await? {
            let bytes = piece.len() as u64;
            if bytes > wanted - arriving.bytes {
                let (found, wanted) = (format!("more than {wanted} bytes"), "what it promised");
                return Err(RequestError::protocol(&what, found, wanted).into());
            }
            arriving.append(&piece).map_err(|source| self.unwritten(source))?;
            self.progress.report(Event::Moved { blob: layer, bytes });
        }
        match arriving.bytes {
            found if found < wanted => Err(RequestError::Short { what, found, wanted }.into()),
            _ => Ok(()),
        }
    }

    fn unwritten(self, source: io::Error) -> FetchImageError {
        FetchImageError::Write { folder: self.folder.to_owned(), source }
    }
}

/// A layer of which some has arrived.
#[derive(Debug)]
struct Arriving {
    file: File,
    /// Of all that is in the file.
    hasher: Hasher,
    bytes: u64,
}

impl Arriving {
    fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn restart(&mut self, layer: Blob) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        (self.hasher, self.bytes) = (Hasher::new(layer.digest.algorithm()), 0);
        Ok(())
    }
}

fn check(what: &str, bytes: &[u8], wanted: Digest) -> Result<(), FetchImageError> {
    let mut hasher = Hasher::new(wanted.algorithm());
    hasher.update(bytes);
    match hasher.finish() {
        found if found == wanted => Ok(()),
        found => Err(FetchImageError::WrongDigest { what: what.to_owned(), found, wanted }),
    }
}
