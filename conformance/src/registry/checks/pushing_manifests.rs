//! "Pushing Manifests" (end-7): how it is done, and what is refused.

use serde_json::json;

use crate::registry::answer::{Answer, Problem, Verdict, hold};
use crate::registry::check::{Section, may, must, should, sound};
use crate::registry::content::{
    Algorithm, Blob, CONFIG, EMPTY, IMAGE, INDEX, LAYER, MANIFESTS, Manifest, image, index,
};
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "pushing-manifests",
    heading: "distribution-spec, Push, Pushing Manifests",
    checks: &[
        must("push-manifest-by-tag", "PUT by tag is answered 201 with a Location", by_tag),
        must(
            "push-manifest-by-digest",
            "PUT by digest is answered 201, and the manifest is there",
            by_digest,
        ),
        must(
            "push-manifest-location",
            "the Location of the 201 is where the manifest can be pulled",
            location,
        ),
        must(
            "push-manifest-digest-header",
            "where Docker-Content-Digest is given it is the manifest's",
            digest_header,
        ),
        must(
            "push-manifest-byte-for-byte",
            "white space, order and unknown fields are kept as they were sent",
            exact,
        ),
        must("push-manifest-twice", "a manifest that is there can be pushed again", twice),
        should("push-manifest-type-parameters", "parameters of Content-Type are ignored", parameters),
        sound(
            "push-manifest-without-type",
            "without Content-Type it is taken by its mediaType, or refused",
            without_type,
        ),
        sound(
            "push-manifest-other-type",
            "a Content-Type that is not the mediaType is refused, or kept",
            other_type,
        ),
        should("push-manifest-of-4-mib", "a manifest of 4 MiB is taken and given back", four_mib),
        should("push-manifest-too-large", "a manifest of 64 MiB is answered 413", too_large),
        must("push-manifest-wrong-digest", "PUT by another manifest's digest stores nothing", wrong_digest),
        should(
            "push-manifest-malformed-digest",
            "PUT by what is no digest is answered 400",
            malformed_digest,
        )
        .from("distribution-spec, Push, Pushing blobs; Endpoints, end-7"),
        must(
            "push-manifest-missing-blobs",
            "absent blobs: taken, or refused with MANIFEST_BLOB_UNKNOWN",
            missing_blobs,
        )
        .from("distribution-spec, Push"),
        must(
            "push-manifest-missing-config",
            "an absent config: taken, or refused with MANIFEST_BLOB_UNKNOWN",
            missing_config,
        )
        .from("distribution-spec, Push"),
        must(
            "push-index-missing-children",
            "a sparse index: taken, or refused with MANIFEST_BLOB_UNKNOWN",
            sparse,
        )
        .from("distribution-spec, Push"),
        sound(
            "push-manifest-blobs-elsewhere",
            "blobs that only another repository has count as absent",
            blobs_elsewhere,
        )
        .from("distribution-spec, Push"),
        sound("push-manifest-not-json", "what is not JSON is answered 400 with MANIFEST_INVALID", not_json)
            .from("distribution-spec, API, Error Codes, code-6"),
        sound("push-manifest-not-an-object", "JSON that is not an object is refused", not_object)
            .from("distribution-spec, API, Error Codes, code-6"),
        sound("push-manifest-empty", "a manifest of no bytes is refused", empty)
            .from("distribution-spec, API, Error Codes, code-6"),
        sound(
            "push-manifest-layers-and-manifests",
            "a document with both layers and manifests is refused",
            both,
        )
        .from("image-spec, Image Manifest and Image Index; GHSA-77vh-xpmg-72qh"),
        sound(
            "push-manifest-double-keys",
            "a key that stands twice is refused, or the bytes are kept",
            double_keys,
        )
        .from("RFC 8259, 4"),
        sound(
            "push-manifest-deep",
            "JSON nested 100,000 deep is refused, or kept, and the registry lives",
            deep,
        )
        .from("RFC 8259, 9"),
        sound(
            "push-manifest-bad-descriptors",
            "sizes below zero and malformed digests are refused",
            bad_descriptors,
        )
        .from("image-spec, Descriptors, Properties"),
        sound("push-manifest-wrong-types", "fields of the wrong JSON type are refused", wrong_types)
            .from("image-spec, Image Manifest, Properties"),
        may(
            "push-manifest-with-tags",
            "PUT by digest with tag parameters answers OCI-Tag for each",
            with_tags,
        )
        .dev(),
        should("push-manifest-with-ten-tags", "ten tags in one request are taken", with_ten_tags).dev(),
        sound(
            "push-manifest-with-bad-tags",
            "a tag parameter that is no tag is refused or left out",
            with_bad_tag,
        )
        .dev(),
    ],
};

fn by_tag(lab: &Lab<'_>) -> Verdict {
    let manifest = Manifest::of(&lab.image()?);
    lab.put(&manifest, "a")?.need("Location")?;
    there(lab, "a", &manifest)
}

fn by_digest(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.untagged()?;
    there(lab, &manifest.digest, &manifest)
}

/// The manifest is there, byte for byte.
pub(super) fn there(lab: &Lab<'_>, reference: &str, manifest: &Manifest) -> Verdict {
    lab.get_manifest(reference)?.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}

fn location(lab: &Lab<'_>) -> Verdict {
    let manifest = Manifest::of(&lab.image()?);
    for reference in ["a", &manifest.digest] {
        let target = lab.location(&lab.put(&manifest, reference)?)?;
        let answer = lab.client.ask_at("GET", target).with("Accept", MANIFESTS).send()?;
        answer.is(&[200])?.body_is(&manifest.bytes)?;
    }
    Ok(())
}

fn digest_header(lab: &Lab<'_>) -> Verdict {
    let manifest = Manifest::of(&lab.image()?);
    for reference in ["a", &manifest.digest] {
        let answer = lab.put(&manifest, reference)?;
        if answer.header("Docker-Content-Digest").is_some() {
            answer.header_is("Docker-Content-Digest", &manifest.digest)?;
        }
    }
    Ok(())
}

fn exact(lab: &Lab<'_>) -> Verdict {
    let mut value = lab.image()?;
    value["org.example.unknown"] = json!([{ "z": 1, "a": null }, 1.50, "\u{e9}"]);
    let text = serde_json::to_string_pretty(&value).unwrap_or_default().replace('\n', "\r\n\t ");
    let manifest = Manifest::raw(Algorithm::Sha256, IMAGE, format!("  {text}\n\n"));
    lab.put(&manifest, "a")?;
    there(lab, "a", &manifest)?;
    there(lab, &manifest.digest, &manifest)
}

fn twice(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    lab.put(&manifest, "a")?;
    lab.put(&manifest, &manifest.digest)?;
    there(lab, "a", &manifest)
}

fn parameters(lab: &Lab<'_>) -> Verdict {
    let manifest = Manifest::of(&lab.image()?);
    lab.send_as(&manifest, "a", &format!("{IMAGE}; charset=utf-8"))?.is(&[201])?;
    lab.get_manifest("a")?.is(&[200])?.header_is("Content-Type", IMAGE)?.body_is(&manifest.bytes)?;
    Ok(())
}

/// Refused, or there as it was sent.
fn refused_or_kept(lab: &Lab<'_>, answer: &Answer, manifest: &Manifest) -> Verdict {
    match answer.status() {
        201 => {
            lab.clean_later("manifests", &manifest.digest);
            there(lab, &manifest.digest, manifest)
        }
        _ => answer.is_refusal().map(drop),
    }
}

fn without_type(lab: &Lab<'_>) -> Verdict {
    let manifest = Manifest::of(&lab.image()?);
    let answer = lab.ask("PUT", "manifests/a").bytes(&manifest.bytes).send()?;
    refused_or_kept(lab, &answer, &manifest)?;
    if answer.status() == 201 {
        lab.get_manifest("a")?.header_is("Content-Type", IMAGE)?;
    }
    Ok(())
}

fn other_type(lab: &Lab<'_>) -> Verdict {
    let manifest = Manifest::of(&lab.image()?);
    let answer = lab.send_as(&manifest, "a", INDEX)?;
    refused_or_kept(lab, &answer, &manifest)
}

/// An image whose manifest has exactly this many bytes.
fn image_of(lab: &Lab<'_>, len: usize) -> Result<Manifest, Problem> {
    let mut value = lab.image()?;
    value["annotations"]["org.example.filler"] = json!("");
    let least = Manifest::of(&value).bytes.len();
    value["annotations"]["org.example.filler"] = json!("x".repeat(len - least));
    Ok(Manifest::of(&value))
}

fn four_mib(lab: &Lab<'_>) -> Verdict {
    let manifest = image_of(lab, 4 << 20)?;
    lab.put(&manifest, "a")?;
    there(lab, "a", &manifest)
}

fn too_large(lab: &Lab<'_>) -> Verdict {
    let manifest = image_of(lab, 64 << 20)?;
    lab.send(&manifest, "a")?.is(&[413])?;
    lab.head("manifests/a")?.is(&[404])?;
    Ok(())
}

fn wrong_digest(lab: &Lab<'_>) -> Verdict {
    let (manifest, other) = (Manifest::of(&lab.image()?), Manifest::of(&lab.image()?));
    lab.send(&manifest, &other.digest)?.is(&[400])?.says(&["DIGEST_INVALID"])?;
    for digest in [&manifest.digest, &other.digest] {
        lab.get_manifest(digest)?.is(&[404])?;
    }
    Ok(())
}

fn malformed_digest(lab: &Lab<'_>) -> Verdict {
    let manifest = Manifest::of(&lab.image()?);
    for reference in ["sha256:baddigeststring", "sha256:", &format!("{}0", manifest.digest)] {
        lab.send(&manifest, reference)?.is(&[400])?;
    }
    lab.get_manifest(&manifest.digest)?.is(&[404])?;
    Ok(())
}

/// Taken, or refused for what it refers to.
fn taken_or_unknown(lab: &Lab<'_>, manifest: &Manifest) -> Verdict {
    let answer = lab.send(manifest, "a")?;
    if answer.is(&[201, 400, 404])?.status() == 201 {
        return there(lab, "a", manifest);
    }
    let codes = answer.codes();
    hold(codes.iter().any(|code| code == "MANIFEST_BLOB_UNKNOWN"), || {
        format!("{} => {} with {codes:?}; wanted MANIFEST_BLOB_UNKNOWN", answer.request, answer.status())
    })?;
    lab.head("manifests/a")?.is(&[404])?;
    Ok(())
}

fn missing_blobs(lab: &Lab<'_>) -> Verdict {
    let config = Blob::of("{}");
    lab.push(&config)?;
    let layers = [Blob::random(10).descriptor(LAYER), Blob::random(10).descriptor(LAYER)];
    taken_or_unknown(lab, &Manifest::of(&image(&config.descriptor(CONFIG), &layers)))
}

fn missing_config(lab: &Lab<'_>) -> Verdict {
    let layer = lab.push_random(10)?;
    let config = Blob::random(10).descriptor(CONFIG);
    taken_or_unknown(lab, &Manifest::of(&image(&config, &[layer.descriptor(LAYER)])))
}

fn sparse(lab: &Lab<'_>) -> Verdict {
    let child = lab.untagged()?;
    let absent = Manifest::raw(Algorithm::Sha256, IMAGE, Blob::random(500).bytes);
    taken_or_unknown(lab, &Manifest::of(&index(&[child.descriptor(), absent.descriptor()])))
}

fn blobs_elsewhere(lab: &Lab<'_>) -> Verdict {
    let there = lab.another();
    let manifest = Manifest::of(&there.image()?);
    taken_or_unknown(lab, &manifest)
}

/// Each of these is refused as an image manifest, and is not there afterwards.
fn refused(lab: &Lab<'_>, texts: &[Vec<u8>]) -> Verdict {
    for text in texts {
        let manifest = Manifest::raw(Algorithm::Sha256, IMAGE, text.clone());
        let answer = lab.send(&manifest, "a")?;
        answer.is_refusal()?;
        lab.head("manifests/a")?.is(&[404])?;
    }
    Ok(())
}

fn not_json(lab: &Lab<'_>) -> Verdict {
    let whole = Manifest::of(&lab.image()?);
    let cut = Manifest::raw(Algorithm::Sha256, IMAGE, &whole.bytes[..whole.bytes.len() - 1]);
    lab.send(&cut, "a")?.is(&[400])?.says(&["MANIFEST_INVALID"])?;
    let broken: [&[u8]; 4] = [b"{", b"\xff\xfe", b"<manifest/>", b"{}{}"];
    refused(lab, &broken.map(<[u8]>::to_vec))
}

fn not_object(lab: &Lab<'_>) -> Verdict {
    refused(lab, &["[]", "null", "1", "\"x\"", "true"].map(|text| text.as_bytes().to_vec()))
}

fn empty(lab: &Lab<'_>) -> Verdict {
    refused(lab, &[Vec::new()])
}

fn both(lab: &Lab<'_>) -> Verdict {
    let child = lab.untagged()?;
    let mut value = lab.image()?;
    value["manifests"] = json!([child.descriptor()]);
    let as_image = Manifest::of(&value);
    value["mediaType"] = json!(INDEX);
    let as_index = Manifest::of(&value);
    for manifest in [as_image, as_index] {
        lab.send(&manifest, "a")?.is_refusal()?;
        lab.head("manifests/a")?.is(&[404])?;
    }
    Ok(())
}

fn double_keys(lab: &Lab<'_>) -> Verdict {
    let text = String::from_utf8(Manifest::of(&lab.image()?).bytes).unwrap_or_default();
    let doubled = text.replacen('{', &format!("{{\"mediaType\":\"{INDEX}\","), 1);
    let manifest = Manifest::raw(Algorithm::Sha256, IMAGE, doubled);
    let answer = lab.send(&manifest, "a")?;
    refused_or_kept(lab, &answer, &manifest)
}

fn deep(lab: &Lab<'_>) -> Verdict {
    let text = String::from_utf8(Manifest::of(&lab.image()?).bytes).unwrap_or_default();
    let nest = format!("{{\"x\":{}{},", "[".repeat(100_000), "]".repeat(100_000));
    let manifest = Manifest::raw(Algorithm::Sha256, IMAGE, text.replacen('{', &nest, 1));
    let answer = lab.send(&manifest, "a")?;
    refused_or_kept(lab, &answer, &manifest)?;
    lab.client.ask("GET", "/v2/").send()?.is(&[200])?;
    Ok(())
}

fn bad_descriptors(lab: &Lab<'_>) -> Verdict {
    let good = lab.image()?;
    let digest = good["layers"][0]["digest"].as_str().unwrap_or_default().to_uppercase();
    let bad = [
        ("size", json!(-1)),
        ("digest", json!("sha256:x")),
        ("digest", json!(digest)),
        ("digest", json!("")),
    ];
    let texts = bad.map(|(field, value)| {
        let mut manifest = good.clone();
        manifest["layers"][0][field] = value;
        Manifest::of(&manifest).bytes
    });
    refused(lab, &texts)
}

fn wrong_types(lab: &Lab<'_>) -> Verdict {
    let good = lab.image()?;
    let bad =
        [("layers", json!({})), ("layers", json!("x")), ("config", json!([])), ("schemaVersion", json!("2"))];
    let texts = bad.map(|(field, value)| {
        let mut manifest = good.clone();
        manifest[field] = value;
        Manifest::of(&manifest).bytes
    });
    refused(lab, &texts)
}

/// Pushes a manifest by digest with these tags; a registry that ignores them says no `OCI-Tag`.
fn push_with(lab: &Lab<'_>, tags: &[String]) -> Result<(Manifest, Answer), Problem> {
    let config = Blob::of("{}");
    lab.push(&config)?;
    let manifest = Manifest::of(&image(&config.descriptor(EMPTY), &[config.descriptor(EMPTY)]));
    let query: Vec<String> =
        tags.iter().map(|tag| format!("tag={}", crate::registry::url::encoded(tag))).collect();
    let answer = lab.send(&manifest, &format!("{}?{}", manifest.digest, query.join("&")))?;
    Ok((manifest, answer))
}

fn all_tagged(lab: &Lab<'_>, tags: &[String]) -> Verdict {
    let (manifest, answer) = push_with(lab, tags)?;
    if answer.is(&[201])?.header("OCI-Tag").is_none() {
        return Err(answer.unsupported());
    }
    let said = answer.list("OCI-Tag");
    for tag in tags {
        hold(said.contains(&tag.as_str()), || format!("{} => OCI-Tag does not say `{tag}`", answer.request))?;
        there(lab, tag, &manifest)?;
    }
    Ok(())
}

fn with_tags(lab: &Lab<'_>) -> Verdict {
    all_tagged(lab, &["1.2.3".into(), "latest".into()])
}

fn with_ten_tags(lab: &Lab<'_>) -> Verdict {
    let tags: Vec<String> = (0..10).map(|number| format!("tag-{number}")).collect();
    all_tagged(lab, &tags)
}

fn with_bad_tag(lab: &Lab<'_>) -> Verdict {
    let (_, answer) = push_with(lab, &["good".into(), "../bad".into()])?;
    match answer.status() {
        201 => hold(!answer.list("OCI-Tag").contains(&"../bad"), || "OCI-Tag says `../bad`".to_owned()),
        _ => answer.is_refusal().map(drop),
    }
}
