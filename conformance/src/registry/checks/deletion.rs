//! "Content Management": deleting tags, manifests and blobs (end-9, end-10).

use crate::registry::answer::{Problem, Verdict, hold};
use crate::registry::check::{Section, must, sound};
use crate::registry::checks::pushing_blobs::{is_absent, is_there};
use crate::registry::checks::tags::tags;
use crate::registry::content::{Blob, CONFIG, LAYER, Manifest, image, index};
use crate::registry::lab::Lab;

const TAGS: &str = "distribution-spec, Content Management, Deleting tags";
const MANIFESTS: &str = "distribution-spec, Content Management, Deleting Manifests";
const BLOBS: &str = "distribution-spec, Content Management, Deleting Blobs";

pub(super) const SECTION: Section = Section {
    name: "deletion",
    heading: "distribution-spec, Content Management",
    checks: &[
        must("delete-tag", "DELETE of a tag is answered 202, and the tag is gone", tag).from(TAGS),
        must("delete-tag-keeps-manifest", "the manifest stays when a tag of it is deleted", tag_keeps)
            .from(TAGS),
        must("delete-tag-keeps-other-tags", "other tags of the same manifest stay", tag_keeps_tags)
            .from(TAGS),
        must("delete-tag-unlists-it", "a deleted tag is not listed", tag_unlisted).from(TAGS),
        must("delete-tag-unknown", "a tag that is not there is answered 404", tag_unknown)
            .from("distribution-spec, API, Endpoints, end-9"),
        sound("delete-tag-push-again", "a deleted tag can be pushed again", tag_again).from(TAGS),
        must("delete-manifest", "DELETE of a manifest is answered 202, and it is gone", manifest)
            .from(MANIFESTS),
        must("delete-manifest-drops-tags", "every tag of a deleted manifest is answered 404", manifest_tags)
            .from(MANIFESTS),
        must("delete-manifest-unlists-tags", "tags of a deleted manifest are not listed", manifest_unlisted)
            .from(MANIFESTS),
        must("delete-manifest-unknown", "a manifest that is not there is answered 404", manifest_unknown)
            .from("distribution-spec, API, Endpoints, end-9"),
        must(
            "delete-manifest-no-repository",
            "a repository that is not there is answered 404",
            no_repository,
        )
        .from(MANIFESTS),
        sound("delete-manifest-twice", "a manifest that was deleted is answered 404", manifest_twice)
            .from(MANIFESTS),
        sound(
            "delete-manifest-push-again",
            "a deleted manifest can be pushed again, with its tag",
            manifest_again,
        )
        .from(MANIFESTS),
        sound(
            "delete-manifest-elsewhere",
            "the same manifest stays in another repository",
            manifest_elsewhere,
        )
        .from(MANIFESTS),
        sound("delete-index-keeps-children", "the manifests of a deleted index stay", index_children)
            .from(MANIFESTS),
        must("delete-blob", "DELETE of a blob is answered 202, and the blob is gone", blob).from(BLOBS),
        must("delete-blob-unknown", "a blob that is not there is answered 404", blob_unknown).from(BLOBS),
        sound("delete-blob-twice", "a blob that was deleted is answered 404", blob_twice).from(BLOBS),
        sound("delete-blob-elsewhere", "the same blob stays in another repository", blob_elsewhere)
            .from(BLOBS),
        sound("delete-blob-push-again", "a deleted blob can be pushed again", blob_again).from(BLOBS),
        sound("delete-malformed", "what is neither digest nor tag is answered 4xx", malformed)
            .from("distribution-spec, API, Endpoints, end-9 and end-10"),
    ],
};

/// `400` and `405` say that deletion is switched off.
fn delete(lab: &Lab<'_>, path: &str) -> Verdict {
    let answer = lab.delete(path)?;
    match answer.status() {
        400 | 405 => Err(answer.unsupported()),
        _ => answer.is(&[202]).map(drop),
    }
}

fn delete_manifest(lab: &Lab<'_>, reference: &str) -> Verdict {
    delete(lab, &format!("manifests/{reference}"))
}

/// Deletes a blob.
///
/// # Errors
///
/// [`Problem::Unsupported`] where the registry does not.
pub(super) fn delete_blob(lab: &Lab<'_>, digest: &str) -> Verdict {
    delete(lab, &format!("blobs/{digest}"))
}

/// Not there: 404, where deletion is not switched off.
fn unknown(lab: &Lab<'_>, path: &str) -> Verdict {
    let answer = lab.delete(path)?;
    match answer.status() {
        400 | 405 => Err(answer.unsupported()),
        _ => answer.is(&[404]).map(drop),
    }
}

fn is_gone(lab: &Lab<'_>, reference: &str) -> Verdict {
    lab.get_manifest(reference)?.is(&[404])?;
    lab.head(&format!("manifests/{reference}"))?.is(&[404])?;
    Ok(())
}

fn stays(lab: &Lab<'_>, reference: &str, manifest: &Manifest) -> Verdict {
    lab.get_manifest(reference)?.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}

fn unlisted(lab: &Lab<'_>, tag: &str) -> Verdict {
    let listed = tags(&lab.get("tags/list")?)?;
    hold(!listed.iter().any(|found| found == tag), || format!("`{tag}` is still listed"))
}

/// A manifest with the tags `a` and `b`.
fn twice_tagged(lab: &Lab<'_>) -> Result<Manifest, Problem> {
    let manifest = lab.tagged("a")?;
    lab.put(&manifest, "b")?;
    Ok(manifest)
}

fn tag(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    delete_manifest(lab, "a")?;
    is_gone(lab, "a")
}

fn tag_keeps(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    delete_manifest(lab, "a")?;
    stays(lab, &manifest.digest, &manifest)
}

fn tag_keeps_tags(lab: &Lab<'_>) -> Verdict {
    let manifest = twice_tagged(lab)?;
    delete_manifest(lab, "a")?;
    stays(lab, "b", &manifest)
}

fn tag_unlisted(lab: &Lab<'_>) -> Verdict {
    twice_tagged(lab)?;
    delete_manifest(lab, "a")?;
    unlisted(lab, "a")
}

fn tag_unknown(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    unknown(lab, "manifests/b")
}

fn tag_again(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    delete_manifest(lab, "a")?;
    let manifest = lab.tagged("a")?;
    stays(lab, "a", &manifest)
}

fn manifest(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.untagged()?;
    delete_manifest(lab, &manifest.digest)?;
    is_gone(lab, &manifest.digest)
}

fn manifest_tags(lab: &Lab<'_>) -> Verdict {
    let manifest = twice_tagged(lab)?;
    delete_manifest(lab, &manifest.digest)?;
    is_gone(lab, "a")?;
    is_gone(lab, "b")
}

fn manifest_unlisted(lab: &Lab<'_>) -> Verdict {
    let manifest = twice_tagged(lab)?;
    lab.tagged("c")?;
    delete_manifest(lab, &manifest.digest)?;
    unlisted(lab, "a")?;
    unlisted(lab, "b")
}

fn manifest_unknown(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    unknown(lab, &format!("manifests/{}", Blob::random(10).digest))
}

fn no_repository(lab: &Lab<'_>) -> Verdict {
    unknown(lab, &format!("manifests/{}", Blob::random(10).digest))
}

fn manifest_twice(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.untagged()?;
    delete_manifest(lab, &manifest.digest)?;
    unknown(lab, &format!("manifests/{}", manifest.digest))
}

fn manifest_again(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    delete_manifest(lab, &manifest.digest)?;
    lab.put(&manifest, "a")?;
    stays(lab, "a", &manifest)?;
    stays(lab, &manifest.digest, &manifest)
}

fn manifest_elsewhere(lab: &Lab<'_>) -> Verdict {
    let (there, config, layer) = (lab.another(), Blob::of("{}"), Blob::random(10));
    let manifest = Manifest::of(&image(&config.descriptor(CONFIG), &[layer.descriptor(LAYER)]));
    for lab in [lab, &there] {
        lab.push(&config)?;
        lab.push(&layer)?;
        lab.put(&manifest, "a")?;
    }
    delete_manifest(lab, &manifest.digest)?;
    stays(&there, "a", &manifest)?;
    stays(&there, &manifest.digest, &manifest)
}

fn index_children(lab: &Lab<'_>) -> Verdict {
    let child = lab.untagged()?;
    let index = Manifest::of(&index(&[child.descriptor()]));
    lab.put(&index, "a")?;
    delete_manifest(lab, &index.digest)?;
    stays(lab, &child.digest, &child)
}

fn blob(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(100)?;
    delete_blob(lab, &blob.digest)?;
    is_absent(lab, &blob.digest)?;
    lab.get_blob(&blob.digest)?.is(&[404])?;
    Ok(())
}

fn blob_unknown(lab: &Lab<'_>) -> Verdict {
    lab.push_random(100)?;
    unknown(lab, &format!("blobs/{}", Blob::random(10).digest))
}

fn blob_twice(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(100)?;
    delete_blob(lab, &blob.digest)?;
    unknown(lab, &format!("blobs/{}", blob.digest))
}

fn blob_elsewhere(lab: &Lab<'_>) -> Verdict {
    let there = lab.another();
    let blob = lab.push_random(100)?;
    there.push(&blob)?;
    delete_blob(lab, &blob.digest)?;
    is_there(&there, &blob)
}

fn blob_again(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(100)?;
    delete_blob(lab, &blob.digest)?;
    lab.push(&blob)?;
    is_there(lab, &blob)
}

fn malformed(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    for path in ["manifests/sha256:baddigest", "manifests/-", "blobs/a", "blobs/sha256:"] {
        lab.delete(path)?.is_refusal()?;
    }
    stays(lab, "a", &manifest)
}
