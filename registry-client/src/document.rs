//! A manifest or an index as a copy sees it: what it leads to, whatever it is about.
//!
//! A document's kind follows from its fields alone, never from a header, so that one digest means one
//! thing everywhere. One that could be read both ways is refused.
//!
//! Source: OCI image-spec 1.1, "Image Index" and "Image Manifest"; CVE-2021-41190.

use appliance::{Blob, Digest, DigestError, media_type};
use serde::Deserialize;

use crate::request::printable;

/// What a document leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) kind: Kind,
    /// The media type to send it under.
    pub(crate) media_type: String,
    /// What it names: manifests for an index, config and layers for a manifest.
    pub(crate) children: Vec<Blob>,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Index,
    Manifest,
}

/// Why a document is neither a manifest nor an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Not JSON, or not of the specification's shape.
    #[error("it is not as the OCI image specification says")]
    Malformed(#[source] serde_json::Error),
    /// It has the fields of both.
    #[error("it could be read as a manifest and as an index")]
    Ambiguous,
    /// It has the fields of neither.
    #[error("it is neither a manifest nor an index")]
    Neither,
    /// Its media type cannot be sent.
    #[error("its media type is `{found}`; expected printable ASCII")]
    BadMediaType {
        /// What was found, escaped and cut short.
        found: String,
    },
    /// One of its descriptors names no content.
    #[error("one of its descriptors has no usable digest")]
    BadDigest(#[source] DigestError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

impl Document {
    /// Reads a document's fields.
    ///
    /// # Errors
    ///
    /// [`DocumentError`].
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let fields: Fields = serde_json::from_slice(bytes).map_err(DocumentError::Malformed)?;
        let (kind, default_type, descriptors) = match (fields.config, fields.layers, fields.manifests) {
            (None, None, Some(manifests)) => (Kind::Index, media_type::INDEX, manifests),
            (Some(config), layers, None) => {
                let layers = layers.unwrap_or_default();
                (Kind::Manifest, media_type::MANIFEST, [config].into_iter().chain(layers).collect())
            }
            (_, _, Some(_)) => return Err(DocumentError::Ambiguous),
            (None, _, None) => return Err(DocumentError::Neither),
        };
        let blob = |descriptor: &Descriptor| {
            let digest: Digest = descriptor.digest.parse().map_err(DocumentError::BadDigest)?;
            Ok(Blob { digest, size_bytes: descriptor.size })
        };
        let media_type = fields.media_type.unwrap_or_else(|| default_type.to_owned());
        if !media_type.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(DocumentError::BadMediaType { found: printable(&media_type) });
        }
        Ok(Self { kind, media_type, children: descriptors.iter().map(blob).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Result<(Kind, usize), &str>) {
        let digest = Digest::sha256(b"");
        let text = text.replace('D', &format!(r#"{{"digest":"{digest}","size":0}}"#));
        let got = Document::parse(text.as_bytes());
        match (got, want) {
            (Ok(got), Ok(want)) => assert_eq!((got.kind, got.children.len()), want),
            (Err(error), Err(want)) => assert_eq!(error.to_string(), want),
            (got, want) => panic!("{got:?}, not {want:?}"),
        }
    }

    #[test]
    fn a_document_is_a_manifest_or_an_index_and_never_both() {
        check(r#"{"manifests":[D,D]}"#, Ok((Kind::Index, 2)));
        check(r#"{"config":D,"layers":[D]}"#, Ok((Kind::Manifest, 2)));
        check(r#"{"config":D}"#, Ok((Kind::Manifest, 1)));
        let both = Err("it could be read as a manifest and as an index");
        check(r#"{"config":D,"layers":[D],"manifests":[D]}"#, both);
        check(r#"{"layers":[],"manifests":[]}"#, both);
        check("{}", Err("it is neither a manifest nor an index"));
        check(
            r#"{"manifests":[],"mediaType":"a\nb"}"#,
            Err("its media type is `a\\nb`; expected printable ASCII"),
        );
        check("[]x", Err("it is not as the OCI image specification says"));
        check(
            r#"{"manifests":[{"digest":"md5:0","size":0}]}"#,
            Err("one of its descriptors has no usable digest"),
        );
    }

    proptest::proptest! {
        #[test]
        fn no_document_is_too_strange_to_be_read(bytes: Vec<u8>, text in r#"\{("(config|layers|manifests)":[\[\]{}0,]{0,6},?){0,4}\}"#) {
            let _ = Document::parse(&bytes);
            let _ = Document::parse(text.as_bytes());
        }
    }
}
