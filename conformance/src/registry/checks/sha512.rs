//! Digests by sha512, which image-spec registers and leaves to implementations.

use crate::registry::answer::{Problem, Verdict};
use crate::registry::check::{Section, may, must};
use crate::registry::checks::pushing_blobs::{is_absent, is_there, post};
use crate::registry::checks::pushing_manifests::there;
use crate::registry::content::{Algorithm::Sha512, Blob, CONFIG, LAYER, Manifest, image, index};
use crate::registry::http::Body;
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "sha512",
    heading: "image-spec, Descriptors, Registered Algorithms; distribution-spec, Push, Pushing blobs",
    checks: &[
        may("sha512-blob", "a blob can be pushed and pulled by its sha512", blob),
        must("sha512-blob-headers", "GET and HEAD say a digest of the blob, and its size", headers)
            .from("distribution-spec, Pull, Pulling blobs"),
        may("sha512-single-post", "a single POST takes a sha512", single_post)
            .from("distribution-spec, Push, Single POST"),
        may("sha512-chunks", "an upload in chunks can be closed with a sha512", chunks),
        may("sha512-stream", "an upload without ranges can be closed with a sha512", stream),
        must("sha512-wrong-digest", "the sha512 of another blob is refused, and nothing is stored", wrong)
            .from("distribution-spec, Push, Pushing blobs"),
        may("sha512-range", "a range of a blob by its sha512", range).from("RFC 9110, 14.2"),
        may("sha512-mount", "a blob can be mounted by its sha512", mount),
        may("sha512-empty-blob", "the blob of no bytes by its sha512", empty),
        may("sha512-manifest", "a manifest can be pushed and pulled by its sha512", manifest),
        must(
            "sha512-manifest-wrong-digest",
            "a manifest is not taken under another one's sha512",
            manifest_wrong,
        )
        .from("distribution-spec, Push, Pushing Manifests"),
        may("sha512-content", "an image whose blobs are named by sha512, and an index of it", content),
        may("sha512-delete", "a manifest and a blob can be deleted by their sha512", delete)
            .from("distribution-spec, Content Management"),
    ],
};

fn blob(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_by(Sha512, 1000)?;
    is_there(lab, &blob)
}

fn headers(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_by(Sha512, 1000)?;
    let of_256 = Blob::of(&*blob.bytes).digest;
    for answer in [lab.get_blob(&blob.digest)?, lab.head_blob(&blob.digest)?] {
        let found = answer.is(&[200])?.header_is("Content-Length", "1000")?.header("Docker-Content-Digest");
        // The text leaves it to the registry by which algorithm.
        if found != Some(&of_256) {
            answer.header_is("Docker-Content-Digest", &blob.digest)?;
        }
    }
    Ok(())
}

fn single_post(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::by(Sha512, Blob::random(100).bytes);
    let answer = post(lab, &blob.digest, &blob.bytes)?;
    match answer.is_or_unsupported(&[201, 202])?.status() {
        201 => is_there(lab, &blob),
        _ => Err(answer.unsupported()),
    }
}

fn chunks(lab: &Lab<'_>) -> Verdict {
    let upload = lab.begin_with("blobs/uploads/?digest-algorithm=sha512")?;
    let size = upload.least_chunk(1000);
    let blob = Blob::by(Sha512, Blob::random(3 * size - 5).bytes);
    upload.chunk(&blob, 0, size)?;
    upload.chunk(&blob, size, 2 * size)?;
    upload.finish(&blob.digest, &blob.bytes[2 * size..])?.is_or_unsupported(&[201])?;
    is_there(lab, &blob)
}

fn stream(lab: &Lab<'_>) -> Verdict {
    // Without a word about the algorithm before the end, as clients of 1.1 do it.
    let (upload, blob) = (lab.begin()?, Blob::by(Sha512, Blob::random(5000).bytes));
    upload.stream(Body::Whole(blob.bytes.clone()))?;
    upload.finish(&blob.digest, b"")?.is_or_unsupported(&[201])?;
    is_there(lab, &blob)
}

fn wrong(lab: &Lab<'_>) -> Verdict {
    let (blob, other) = (Blob::random(100), Blob::by(Sha512, Blob::random(100).bytes));
    lab.begin()?.finish(&other.digest, &blob.bytes)?.is(&[400])?;
    is_absent(lab, &blob.digest)?;
    // Where sha512 is not known, such a name need not be understood at all.
    lab.head_blob(&other.digest)?.is(&[400, 404])?;
    Ok(())
}

fn range(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_by(Sha512, 1000)?;
    let answer = lab.ask("GET", &format!("blobs/{}", blob.digest)).with("Range", "bytes=10-19").send()?;
    match answer.is(&[200, 206])?.status() {
        200 => Err(answer.unsupported()),
        _ => answer.body_is(&blob.bytes[10..20]).map(drop),
    }
}

fn mount(lab: &Lab<'_>) -> Verdict {
    let there = lab.another();
    let blob = there.push_by(Sha512, 100)?;
    let answer =
        lab.ask("POST", &format!("blobs/uploads/?mount={}&from={}", blob.digest, there.name)).send()?;
    match answer.is(&[201, 202])?.status() {
        202 => Err(answer.unsupported()),
        _ => is_there(lab, &blob),
    }
}

fn empty(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_by(Sha512, 0)?;
    is_there(lab, &blob)
}

/// Pushes it by digest.
fn put(lab: &Lab<'_>, manifest: &Manifest) -> Verdict {
    lab.send(manifest, &manifest.digest)?.is_or_unsupported(&[201]).map(drop)
}

fn manifest(lab: &Lab<'_>) -> Verdict {
    let manifest = Manifest::by(Sha512, &lab.image()?);
    put(lab, &manifest)?;
    there(lab, &manifest.digest, &manifest)?;
    lab.head(&format!("manifests/{}", manifest.digest))?.is(&[200])?.need("Docker-Content-Digest")?;
    Ok(())
}

fn manifest_wrong(lab: &Lab<'_>) -> Verdict {
    let (manifest, other) = (Manifest::by(Sha512, &lab.image()?), Manifest::by(Sha512, &lab.image()?));
    lab.send(&manifest, &other.digest)?.is(&[400])?;
    lab.get_manifest(&other.digest)?.is(&[400, 404])?;
    Ok(())
}

fn content(lab: &Lab<'_>) -> Verdict {
    let (config, layer) = (lab.push_by(Sha512, 50)?, lab.push_by(Sha512, 100)?);
    let child = Manifest::by(Sha512, &image(&config.descriptor(CONFIG), &[layer.descriptor(LAYER)]));
    put(lab, &child)?;
    let index = Manifest::by(Sha512, &index(&[child.descriptor()]));
    put(lab, &index)?;
    lab.put(&index, "a")?;
    there(lab, "a", &index)
}

fn delete(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_by(Sha512, 100)?;
    let manifest = Manifest::by(Sha512, &lab.image()?);
    put(lab, &manifest)?;
    for path in [format!("manifests/{}", manifest.digest), format!("blobs/{}", blob.digest)] {
        let answer = lab.delete(&path)?;
        if matches!(answer.status(), 400 | 405) {
            return Err(Problem::Unsupported(format!("{} => {}", answer.request, answer.status())));
        }
        answer.is(&[202])?;
        lab.head(&path)?.is(&[404])?;
    }
    Ok(())
}
