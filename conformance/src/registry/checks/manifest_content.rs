//! Manifests of every kind that image-spec describes: a registry stores what it does not understand.

use std::slice;

use serde_json::{Value, json};

use crate::registry::answer::Verdict;
use crate::registry::check::{Section, may, must, should, sound};
use crate::registry::checks::pushing_manifests::there;
use crate::registry::content::{Blob, CONFIG, EMPTY, LAYER, Manifest, image, index};
use crate::registry::lab::Lab;

const IMAGE_SPEC: &str = "image-spec, Image Manifest";
const INDEX_SPEC: &str = "image-spec, Image Index";
const ARTIFACTS: &str = "image-spec, Image Manifest, Guidelines for Artifact Usage";

pub(super) const SECTION: Section = Section {
    name: "manifest-content",
    heading: "distribution-spec, Push, Pushing Manifests; image-spec",
    checks: &[
        must("content-image", "an image manifest is stored", plain_image).from(IMAGE_SPEC),
        must("content-index", "an index of one image, with a platform", plain_index).from(INDEX_SPEC),
        must("content-index-of-indexes", "an index of an index is stored", nested_index).from(INDEX_SPEC),
        must("content-index-of-nothing", "an index whose list of manifests is empty", empty_index)
            .from(INDEX_SPEC),
        must(
            "content-index-of-anything",
            "an index entry of an unknown media type is no error",
            index_of_anything,
        )
        .from("image-spec, Image Index, manifests, mediaType"),
        must(
            "content-artifact",
            "an artifact: artifactType, the empty config, a layer of its own type",
            artifact,
        )
        .from(ARTIFACTS),
        must(
            "content-artifact-of-nothing",
            "an artifact without content: the empty blob as config and layer",
            metadata,
        )
        .from(ARTIFACTS),
        must("content-artifact-index", "an index with an artifactType", artifact_index).from(INDEX_SPEC),
        should("content-no-layers", "an image manifest whose list of layers is empty", no_layers)
            .from("distribution-spec, Push, Pushing Manifests (the list of blobs MAY be empty)"),
        must("content-many-layers", "an image of a hundred layers is stored", many_layers).from(IMAGE_SPEC),
        must("content-unknown-config-type", "a config of an unknown media type is no error", unknown_config)
            .from("image-spec, Image Manifest, config, mediaType"),
        must("content-unknown-layer-type", "a layer of an unknown media type is no error", unknown_layer)
            .from("image-spec, Image Manifest, layers, mediaType"),
        must("content-unknown-artifact-type", "an unknown artifactType is no error", unknown_artifact)
            .from("image-spec, Image Manifest, artifactType"),
        must("content-unknown-fields", "fields that nobody knows are kept", unknown_fields)
            .from("image-spec, Considerations, Extensibility"),
        must("content-annotations", "annotations in number, in length and in any language", annotations)
            .from("image-spec, Annotations"),
        must("content-data-field", "descriptors that carry their content in data", data_field)
            .from("image-spec, Descriptors, Embedded Content"),
        should(
            "content-non-distributable",
            "layers that are not to be uploaded may be absent",
            non_distributable,
        )
        .from("image-spec, Image Layer Filesystem Changeset, Non-Distributable Layers"),
        sound("content-foreign-layers", "the same for Docker's foreign layers, with urls", foreign_layers)
            .from("image-spec, Media Types, Compatibility Matrix"),
        may("content-docker-image", "Docker's image manifest, schema 2", docker_image)
            .from("distribution-spec, Definitions, Manifest"),
        may("content-docker-list", "Docker's manifest list", docker_list)
            .from("distribution-spec, Definitions, Manifest"),
        must("content-same-layer-twice", "a layer that stands in the list twice", layer_twice)
            .from(IMAGE_SPEC),
        should(
            "content-without-media-type",
            "a manifest without mediaType, named by Content-Type",
            no_media_type,
        )
        .from("image-spec, Image Manifest, mediaType (SHOULD be used)"),
    ],
};

/// Pushed by tag, it comes back with its type and its bytes.
fn kept(lab: &Lab<'_>, value: &Value) -> Verdict {
    let manifest = Manifest::of(value);
    lab.put(&manifest, "a")?;
    let answer = lab.get_manifest("a")?;
    answer.is(&[200])?.header_is("Content-Type", &manifest.media_type)?;
    there(lab, "a", &manifest)?;
    there(lab, &manifest.digest, &manifest)
}

/// The blob of `{}`, pushed, described as the empty value.
fn empty(lab: &Lab<'_>) -> Result<Value, crate::registry::answer::Problem> {
    let blob = Blob::of("{}");
    lab.push(&blob)?;
    Ok(blob.descriptor(EMPTY))
}

fn plain_image(lab: &Lab<'_>) -> Verdict {
    kept(lab, &lab.image()?)
}

fn plain_index(lab: &Lab<'_>) -> Verdict {
    kept(lab, &lab.index()?)
}

fn nested_index(lab: &Lab<'_>) -> Verdict {
    let inner = Manifest::of(&lab.index()?);
    lab.put(&inner, &inner.digest)?;
    kept(lab, &index(&[inner.descriptor()]))
}

fn empty_index(lab: &Lab<'_>) -> Verdict {
    kept(lab, &index(&[]))
}

fn index_of_anything(lab: &Lab<'_>) -> Verdict {
    // A blob is what it can be pushed as.
    let blob = lab.push_random(100)?;
    let manifest = Manifest::of(&index(&[blob.descriptor("application/vnd.example.thing+json")]));
    // Whether an entry must be there is left to the registry.
    let answer = lab.send(&manifest, "a")?;
    match answer.status() {
        201 => there(lab, "a", &manifest),
        _ => answer.is(&[400, 404])?.says(&["MANIFEST_BLOB_UNKNOWN"]).map(drop),
    }
}

fn artifact(lab: &Lab<'_>) -> Verdict {
    let layer = lab.push_random(100)?;
    let mut value = image(&empty(lab)?, &[layer.descriptor("application/vnd.example.sbom+json")]);
    value["artifactType"] = json!("application/vnd.example.sbom.v1");
    kept(lab, &value)
}

fn metadata(lab: &Lab<'_>) -> Verdict {
    let empty = empty(lab)?;
    let mut value = image(&empty, slice::from_ref(&empty));
    value["artifactType"] = json!("application/vnd.example.note.v1");
    kept(lab, &value)
}

fn artifact_index(lab: &Lab<'_>) -> Verdict {
    let mut value = lab.index()?;
    value["artifactType"] = json!("application/vnd.example.set.v1");
    kept(lab, &value)
}

fn no_layers(lab: &Lab<'_>) -> Verdict {
    let config = Blob::of("{}");
    lab.push(&config)?;
    kept(lab, &image(&config.descriptor(CONFIG), &[]))
}

fn many_layers(lab: &Lab<'_>) -> Verdict {
    let config = Blob::of("{}");
    lab.push(&config)?;
    let mut layers = Vec::new();
    for number in 0..100 {
        let layer = Blob::of(format!("{number} of {}", lab.name));
        lab.push(&layer)?;
        layers.push(layer.descriptor(LAYER));
    }
    kept(lab, &image(&config.descriptor(CONFIG), &layers))
}

fn unknown_config(lab: &Lab<'_>) -> Verdict {
    let mut value = lab.image()?;
    value["config"]["mediaType"] = json!("application/vnd.example.unheard-of.config.v7+toml");
    kept(lab, &value)
}

fn unknown_layer(lab: &Lab<'_>) -> Verdict {
    let mut value = lab.image()?;
    value["layers"][0]["mediaType"] = json!("application/vnd.example.unheard-of.layer.v7");
    kept(lab, &value)
}

fn unknown_artifact(lab: &Lab<'_>) -> Verdict {
    let mut value = lab.image()?;
    value["artifactType"] = json!("x.example/unheard.of+thing");
    kept(lab, &value)
}

fn unknown_fields(lab: &Lab<'_>) -> Verdict {
    let mut value = lab.image()?;
    value["org.example.extra"] = json!({ "deep": [1, { "er": null }] });
    value["config"]["extra"] = json!("x");
    value["layers"][0]["extra"] = json!([true, 1e3]);
    kept(lab, &value)
}

fn annotations(lab: &Lab<'_>) -> Verdict {
    let mut value = lab.image()?;
    for number in 0..500 {
        value["annotations"][format!("org.example.{number}")] = json!("v".repeat(number));
    }
    value["annotations"]["org.example.\u{65e5}\u{672c}"] = json!("\u{1f433} \"quoted\" \\ \u{7f}\n\u{0}");
    value["annotations"]["org.example.empty"] = json!("");
    value["layers"][0]["annotations"] = json!({ "org.opencontainers.image.title": "../name" });
    kept(lab, &value)
}

fn data_field(lab: &Lab<'_>) -> Verdict {
    let mut value = lab.image()?;
    value["config"]["data"] = json!("e30="); // {}
    kept(lab, &value)
}

/// An image with one layer that is there and one that is not.
fn with_absent(lab: &Lab<'_>, media_type: &str) -> Verdict {
    let mut value = lab.image()?;
    let mut absent = Blob::random(100).descriptor(media_type);
    absent["urls"] = json!(["https://content.example/layer"]);
    value["layers"].as_array_mut().expect("an image has layers").push(absent);
    kept(lab, &value)
}

fn non_distributable(lab: &Lab<'_>) -> Verdict {
    with_absent(lab, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")
}

fn foreign_layers(lab: &Lab<'_>) -> Verdict {
    with_absent(lab, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
}

fn docker(lab: &Lab<'_>) -> Result<Value, crate::registry::answer::Problem> {
    let mut value = lab.image()?;
    value["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    value["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    value["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    Ok(value)
}

fn docker_image(lab: &Lab<'_>) -> Verdict {
    kept(lab, &docker(lab)?)
}

fn docker_list(lab: &Lab<'_>) -> Verdict {
    let image = Manifest::of(&docker(lab)?);
    lab.put(&image, &image.digest)?;
    let mut child = image.descriptor();
    child["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let mut value = index(&[child]);
    value["mediaType"] = json!("application/vnd.docker.distribution.manifest.list.v2+json");
    kept(lab, &value)
}

fn layer_twice(lab: &Lab<'_>) -> Verdict {
    let mut value = lab.image()?;
    let layer = value["layers"][0].clone();
    value["layers"].as_array_mut().expect("an image has layers").push(layer);
    kept(lab, &value)
}

fn no_media_type(lab: &Lab<'_>) -> Verdict {
    let mut value = lab.image()?;
    value.as_object_mut().expect("a manifest is an object").remove("mediaType");
    kept(lab, &value)
}
