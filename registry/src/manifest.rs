//! What a registry checks of a manifest before it stores it. The bytes are kept as they came.
//!
//! Checked is what others rely on: that the document has one meaning, that it is of the type it was
//! sent as, and which content it cannot do without. What the content is for is its reader's business.
//!
//! Source: OCI distribution-spec 1.1, "Pushing Manifests"; OCI image-spec 1.1, "Image Manifest",
//! "Image Index", "Descriptor". The rule against `layers` beside `manifests`: CVE-2021-41190.

use appliance::{Digest, media_type};
use serde_json::{Map, Value};

use crate::json::{self, JsonError};

/// Docker's forerunner of the OCI image manifest.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's forerunner of the OCI image index.
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The media types that are stored as manifests.
const MANIFEST_TYPES: [&str; 4] = [media_type::MANIFEST, media_type::INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// What is known about a manifest that was checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// One of the four that are stored.
    pub(crate) media_type: &'static str,
    /// The blobs that must be in the repository: config and layers, without those that registries do
    /// not distribute. An index needs none; it may name manifests that are elsewhere.
    pub(crate) blobs: Vec<Digest>,
    /// The manifests that an index names, here or elsewhere.
    pub(crate) children: Vec<Digest>,
    /// The manifest that this one is about.
    pub(crate) subject: Option<Digest>,
    /// What kind of thing it is. An image that does not say so is what its config is.
    pub(crate) artifact_type: Option<String>,
    /// The annotations of the whole document.
    pub(crate) annotations: Map<String, Value>,
}

/// Why a document is not stored as a manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("a manifest is a JSON object")]
    NotAnObject,
    #[error("the request has no Content-Type and the manifest no `mediaType`")]
    NoMediaType,
    #[error("`{found}` is not a media type of manifests that is stored here")]
    UnknownMediaType { found: String },
    #[error("the manifest was sent as `{sent}`; it says that it is `{found}`")]
    OtherMediaType { sent: String, found: String },
    #[error("`schemaVersion` is {found}; 2 is wanted")]
    SchemaVersion { found: String },
    #[error("an image manifest has no `manifests` and an index no `layers`, `config` or `blobs`: `{field}`")]
    Ambiguous { field: &'static str },
    #[error("`{field}` {problem}")]
    BadField { field: &'static str, problem: &'static str },
    #[error("`{field}` names content by something that is no digest")]
    BadDigest {
        field: &'static str,
        #[source]
        reason: appliance::DigestError,
    },
}

impl Manifest {
    /// Checks a document that was sent as `content_type`.
    pub(crate) fn check(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        let Value::Object(document) = json::parse(bytes)? else { return Err(ManifestError::NotAnObject) };
        let media_type = known_media_type(&document, content_type)?;
        match document.get("schemaVersion") {
            Some(version) if *version == 2 => {}
            found => {
                let found = found.map_or("absent".to_owned(), Value::to_string).escape_debug().to_string();
                return Err(ManifestError::SchemaVersion { found });
            }
        }
        let subject = document.get("subject").map(|subject| descriptor("subject", subject)).transpose()?;
        let subject = subject.map(|subject| subject.digest);
        let is_index = matches!(media_type, media_type::INDEX | DOCKER_LIST);
        let foreign: &[&str] = if is_index { &["layers", "config", "blobs"] } else { &["manifests"] };
        if let Some(field) = foreign.iter().find(|field| document.contains_key(**field)) {
            return Err(ManifestError::Ambiguous { field });
        }
        let mut children = Vec::new();
        let mut blobs = Vec::new();
        match is_index {
            true => children.extend(descriptors("manifests", &document)?.iter().map(|child| child.digest)),
            false => blobs = image_blobs(&document)?,
        }
        children.sort_unstable();
        children.dedup();
        let artifact_type = artifact_type(&document)?;
        let annotations = annotations(&document)?;
        Ok(Self { media_type, blobs, children, subject, artifact_type, annotations })
    }
}

/// The type that both the request and the document agree on.
fn known_media_type(
    document: &Map<String, Value>,
    content_type: Option<&str>,
) -> Result<&'static str, ManifestError> {
    let found = match document.get("mediaType") {
        None => None,
        Some(Value::String(found)) => Some(found.as_str()),
        Some(_) => return Err(bad("mediaType", "is not a string")),
    };
    // Parameters such as `charset` say nothing about a manifest.
    let sent = content_type.map(|text| text.split(';').next().unwrap_or(text).trim());
    let media_type = match (sent, found) {
        (Some(sent), Some(found)) if sent != found => {
            let (sent, found) = (sent.escape_debug().to_string(), found.escape_debug().to_string());
            return Err(ManifestError::OtherMediaType { sent, found });
        }
        (sent, found) => sent.or(found).ok_or(ManifestError::NoMediaType)?,
    };
    MANIFEST_TYPES
        .into_iter()
        .find(|known| *known == media_type)
        .ok_or_else(|| ManifestError::UnknownMediaType { found: media_type.escape_debug().to_string() })
}

/// Source: OCI distribution-spec 1.1, "Listing Referrers".
fn artifact_type(document: &Map<String, Value>) -> Result<Option<String>, ManifestError> {
    let own = match document.get("artifactType") {
        None => "",
        Some(Value::String(own)) => own,
        Some(_) => return Err(bad("artifactType", "is not a string")),
    };
    let of_config = || document.get("config")?.get("mediaType")?.as_str().map(str::to_owned);
    Ok(if own.is_empty() { of_config() } else { Some(own.to_owned()) })
}

fn annotations(document: &Map<String, Value>) -> Result<Map<String, Value>, ManifestError> {
    match document.get("annotations") {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(annotations)) if annotations.values().all(Value::is_string) => {
            Ok(annotations.clone())
        }
        Some(_) => Err(bad("annotations", "is not an object of strings")),
    }
}

fn image_blobs(document: &Map<String, Value>) -> Result<Vec<Digest>, ManifestError> {
    let config = document.get("config").ok_or(bad("config", "is missing"))?;
    let mut blobs = vec![descriptor("config", config)?.digest];
    let layers = descriptors("layers", document)?;
    blobs.extend(layers.iter().filter(|layer| !is_foreign(layer.media_type)).map(|layer| layer.digest));
    blobs.sort_unstable();
    blobs.dedup();
    Ok(blobs)
}

/// True for layers whose licence forbids to distribute them; they are fetched from elsewhere.
fn is_foreign(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

struct Descriptor<'a> {
    media_type: &'a str,
    digest: Digest,
}

fn descriptors<'a>(
    field: &'static str,
    document: &'a Map<String, Value>,
) -> Result<Vec<Descriptor<'a>>, ManifestError> {
    match document.get(field) {
        Some(Value::Array(items)) => items.iter().map(|item| descriptor(field, item)).collect(),
        Some(_) => Err(bad(field, "is not an array")),
        None => Err(bad(field, "is missing")),
    }
}

fn descriptor<'a>(field: &'static str, value: &'a Value) -> Result<Descriptor<'a>, ManifestError> {
    let Value::Object(descriptor) = value else {
        return Err(bad(field, "holds something that is no object"));
    };
    let text = |name: &str| descriptor.get(name).and_then(Value::as_str);
    let media_type = text("mediaType").ok_or(bad(field, "has no `mediaType`"))?;
    let digest = text("digest").ok_or(bad(field, "has no `digest`"))?;
    let digest = digest.parse().map_err(|reason| ManifestError::BadDigest { field, reason })?;
    let size = descriptor.get("size").and_then(Value::as_u64);
    if size.is_none_or(|size| i64::try_from(size).is_err()) {
        return Err(bad(field, "has no `size` that is a count of bytes"));
    }
    Ok(Descriptor { media_type, digest })
}

const fn bad(field: &'static str, problem: &'static str) -> ManifestError {
    ManifestError::BadField { field, problem }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn blob(content: &str) -> Value {
        let digest = Digest::sha256(content.as_bytes());
        json!({ "mediaType": "application/octet-stream", "digest": digest, "size": content.len() })
    }

    fn image() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": media_type::MANIFEST,
            "config": blob("c"),
            "layers": [blob("l"), blob("m"), blob("l")],
        })
    }

    fn with(mut document: Value, field: &str, value: Value) -> Value {
        document[field] = value;
        document
    }

    fn without(mut document: Value, field: &str) -> Value {
        document.as_object_mut().unwrap().remove(field);
        document
    }

    #[track_caller]
    fn check_error(document: &Value, content_type: Option<&str>, want: &str) {
        let error = Manifest::check(document.to_string().as_bytes(), content_type).unwrap_err().to_string();
        assert_eq!(error, want);
    }

    #[test]
    fn an_image_needs_its_config_and_its_layers() {
        let manifest = Manifest::check(image().to_string().as_bytes(), None).unwrap();
        let mut blobs = ["c", "l", "m"].map(|content| Digest::sha256(content.as_bytes()));
        blobs.sort_unstable();
        assert_eq!(manifest.media_type, media_type::MANIFEST);
        assert_eq!(manifest.blobs, blobs);
    }

    #[test]
    fn layers_that_are_not_distributed_may_be_absent() {
        for kind in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            let layer = with(blob("l"), "mediaType", kind.into());
            let document = with(image(), "layers", json!([layer]));
            let manifest = Manifest::check(document.to_string().as_bytes(), None).unwrap();
            assert_eq!(manifest.blobs, [Digest::sha256(b"c")]);
        }
    }

    #[test]
    fn an_index_may_be_sparse() {
        let index = json!({ "schemaVersion": 2, "manifests": [blob("x")], "subject": blob("y") });
        let manifest = Manifest::check(index.to_string().as_bytes(), Some(media_type::INDEX)).unwrap();
        assert_eq!(manifest.media_type, media_type::INDEX);
        assert_eq!((manifest.blobs.len(), manifest.children), (0, vec![Digest::sha256(b"x")]));
        assert_eq!(manifest.subject, Some(Digest::sha256(b"y")));
    }

    #[test]
    fn what_kind_of_thing_it_is_comes_from_the_document_or_its_config() {
        let kind =
            |document: &Value| Manifest::check(document.to_string().as_bytes(), None).unwrap().artifact_type;
        assert_eq!(kind(&image()).unwrap(), "application/octet-stream");
        assert_eq!(kind(&with(image(), "artifactType", json!(""))).unwrap(), "application/octet-stream");
        assert_eq!(kind(&with(image(), "artifactType", json!("a/b"))).unwrap(), "a/b");
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [] });
        assert_eq!(kind(&index), None);
        assert_eq!(kind(&with(index, "artifactType", json!("a/b"))).unwrap(), "a/b");
        check_error(&with(image(), "artifactType", json!(1)), None, "`artifactType` is not a string");
        check_error(
            &with(image(), "annotations", json!({ "a": 1 })),
            None,
            "`annotations` is not an object of strings",
        );
    }

    #[test]
    fn the_content_type_and_the_document_agree_on_what_it_is() {
        let check = |content_type| Manifest::check(image().to_string().as_bytes(), content_type).is_ok();
        assert!(check(Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")));
        assert!(!check(Some(media_type::INDEX)));
        check_error(
            &image(),
            Some("text/\x1b"),
            "the manifest was sent as `text/\\u{1b}`; it says that it is `application/vnd.oci.image.manifest.v1+json`",
        );
        let silent = without(image(), "mediaType");
        check_error(&silent, None, "the request has no Content-Type and the manifest no `mediaType`");
        check_error(
            &silent,
            Some("text/html"),
            "`text/html` is not a media type of manifests that is stored here",
        );
        check_error(&with(image(), "mediaType", json!(1)), None, "`mediaType` is not a string");
    }

    #[test]
    fn a_document_that_could_be_two_things_is_refused() {
        let want = "an image manifest has no `manifests` and an index no `layers`, `config` or `blobs`: ";
        check_error(&with(image(), "manifests", json!([])), None, &format!("{want}`manifests`"));
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [] });
        check_error(&with(index.clone(), "layers", json!([])), None, &format!("{want}`layers`"));
        check_error(&with(index, "config", blob("c")), None, &format!("{want}`config`"));
        let twice = br#"{"schemaVersion":2,"layers":[],"layers":[]}"#;
        let error = Manifest::check(twice, Some(media_type::MANIFEST)).unwrap_err().to_string();
        assert_eq!(error, "the key `layers` is there twice");
    }

    #[test]
    fn each_descriptor_must_be_one() {
        check_error(&json!([]), None, "a manifest is a JSON object");
        check_error(&with(image(), "schemaVersion", json!(1)), None, "`schemaVersion` is 1; 2 is wanted");
        check_error(&without(image(), "schemaVersion"), None, "`schemaVersion` is absent; 2 is wanted");
        check_error(&without(image(), "config"), None, "`config` is missing");
        check_error(&without(image(), "layers"), None, "`layers` is missing");
        check_error(&with(image(), "layers", json!({})), None, "`layers` is not an array");
        check_error(&with(image(), "layers", json!([1])), None, "`layers` holds something that is no object");
        check_error(&with(image(), "config", without(blob("c"), "digest")), None, "`config` has no `digest`");
        check_error(
            &with(image(), "subject", without(blob("c"), "mediaType")),
            None,
            "`subject` has no `mediaType`",
        );
        for size in [json!(-1), json!("1"), json!(1.5), json!(u64::MAX), json!(null)] {
            let config = with(blob("c"), "size", size);
            check_error(
                &with(image(), "config", config),
                None,
                "`config` has no `size` that is a count of bytes",
            );
        }
        let config = with(blob("c"), "digest", json!("sha256:../../etc"));
        check_error(
            &with(image(), "config", config),
            None,
            "`config` names content by something that is no digest",
        );
    }
}
